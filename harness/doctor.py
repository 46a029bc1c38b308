# SPDX-License-Identifier: GPL-2.0-only
"""`snptest doctor`: what this machine or a host has, what it lacks, and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.table import Table
from rich.text import Text

from harness import kbuild, places
from harness.console import make_console
from harness.distributions import how_to_install
from harness.host_packages import lacking, missing_packages, optional
from harness.hostcpu import HERE, why_not_x86_64
from harness.kselftest import build as selftests
from harness.machine import installed
from harness.places import ROOT
from harness.preflight import examine
from harness.preflight.finding import Finding, State
from harness.preflight.judge import why_not
from harness.report import sanitize
from harness.report.outcome import ExitCode

PROBE_SECONDS = 10.0
"""Deadline of one probe: a broken /dev/kvm may hang whoever asks it."""

BUILD_SPACE_GIB = 6
"""Unpacked source (1.7), its git history (0.6), objects of two kernels, ccache."""

# Creates a VM and a vCPU and runs one HLT: what opens may still not run guests (nested
# page tables that a hypervisor below us does not do well).  ioctl numbers: linux/kvm.h.
_RUN_HLT = r"""
import ctypes, fcntl, mmap, struct
kvm = open("/dev/kvm", "r+b", buffering=0)
vm = fcntl.ioctl(kvm, 0xAE01, 0)
memory = mmap.mmap(-1, 4096)
memory[0] = 0xF4
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(vm, 0x4020AE46, struct.pack("<IIQQQ", 0, 0, 0, 4096, address))
vcpu = fcntl.ioctl(vm, 0xAE41, 0)
run = mmap.mmap(vcpu, fcntl.ioctl(kvm, 0xAE04, 0))
sregs = bytearray(fcntl.ioctl(vcpu, 0x8138AE83, bytes(312)))
sregs[0:8] = bytes(8)        # cs.base
sregs[12:14] = bytes(2)      # cs.selector
fcntl.ioctl(vcpu, 0x4138AE84, bytes(sregs))
fcntl.ioctl(vcpu, 0x4090AE82, struct.pack("<18Q", *[0] * 16, 0, 2))
fcntl.ioctl(vcpu, 0xAE80, 0)
print("exit", struct.unpack_from("<I", run, 8)[0])
"""


def findings() -> Iterator[Finding]:
    """Examine this machine, piece by piece."""
    for look_at in (_python, _compiler, _kvm, _snp, _boot, _machine, _kernel_build, _space):
        yield from look_at()


def show(host: str | None = None) -> int:
    """Print the table; 3 where the emulator could not run here, or SNP guests not on the host."""
    if host is not None:
        return _show_host(host)
    console = make_console()
    found = list(findings())
    console.print(_table(found))
    if any(each.state is State.BROKEN for each in found):
        console.print(Text("not everything the emulator needs is there", style="bold red"))
        return ExitCode.BROKEN
    console.print(Text("./snptest run works here", style="green"))
    return ExitCode.PASSED


def _show_host(name: str) -> int:
    from harness.ssh import examine as remote
    from harness.ssh import hosts
    from harness.ssh.connection import Connection

    connection = Connection(hosts.get(name))
    try:
        found, evidence = remote.examine(connection)
    finally:
        connection.close()
    who = f"{evidence.get('node')}, python {evidence.get('python')}, user {evidence.get('user')}"
    console = make_console()
    console.print(_table([Finding(connection.host.name, State.OK, who), *found]))
    return ExitCode.BROKEN if why_not(found) else ExitCode.PASSED


def _table(found: Iterable[Finding]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("", "state", "found", "for", "remedy"):
        table.add_column(title, overflow="fold")
    styles = {
        State.OK: "green",
        State.MISSING: "yellow",
        State.UNKNOWN: "yellow",
        State.BROKEN: "bold red",
    }
    for finding in found:
        table.add_row(
            finding.topic,
            Text(finding.state.value, style=styles[finding.state]),
            Text(sanitize.line(finding.found)),
            finding.needed_for,
            Text(finding.remedy),
        )
    return table


def _python() -> Iterator[Finding]:
    if reason := why_not_x86_64("all but the emulator and remote hosts"):
        yield Finding("machine", State.MISSING, reason, HERE, "vng, local, builds")
    yield Finding("python", State.OK, f"{platform.python_version()} ({sys.executable})")
    unicorn = importlib.metadata.version("unicorn")
    yield Finding("unicorn", State.OK, unicorn, needed_for="emulator")


def _program(name: str, packages: str, purpose: str, *, vital: bool = False) -> Finding:
    path = shutil.which(name)
    if path:
        return Finding(name, State.OK, _version(path), needed_for=purpose)
    state = State.BROKEN if vital else State.MISSING
    return Finding(name, state, "not found", how_to_install(packages.split()), purpose)


def _version(path: str) -> str:
    output = _output([path, "--version"])
    return output.splitlines()[0] if output else path


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROBE_SECONDS,
            text=True,
            errors="replace",
            check=False,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _compiler() -> Iterator[Finding]:
    yield _program("gcc", "gcc libc6-dev", "test guests", vital=True)
    yield _program("as", "binutils", "test guests", vital=True)
    yield _program("ld", "binutils", "test guests", vital=True)


def _kvm() -> Iterator[Finding]:
    device = Path("/dev/kvm")
    purpose = "local, fast vng"
    if not device.exists():
        flags = _cpu_flags()
        remedy = (
            "modprobe kvm_amd" if "svm" in flags else "a machine (or nested VM) with SVM enabled"
        )
        yield Finding("/dev/kvm", State.MISSING, "not there", remedy, purpose)
    elif not os.access(device, os.R_OK | os.W_OK):
        remedy = "adduser $USER kvm, then log in again"
        yield Finding("/dev/kvm", State.MISSING, "no permission", remedy, purpose)
    else:
        answer = _output([sys.executable, "-I", "-c", _RUN_HLT])
        # KVM_EXIT_HLT is 5 (linux/kvm.h).
        if answer == "exit 5":
            yield Finding("/dev/kvm", State.OK, "runs a guest", needed_for=purpose)
        else:
            found = answer.splitlines()[-1] if answer else f"hung for {PROBE_SECONDS:.0f} s"
            remedy = "usable by name only; vng falls back to emulation (TCG)"
            yield Finding("/dev/kvm", State.MISSING, f"runs no guest: {found}", remedy, purpose)


def _cpu_flags() -> frozenset[str]:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _snp() -> Iterator[Finding]:
    # _kvm() looks closer at /dev/kvm than what only asks for its types of VM.
    yield from (each for each in examine.here() if each.topic != "/dev/kvm")


def _boot() -> Iterator[Finding]:
    yield _program("qemu-system-x86_64", "qemu-system-x86", "vng")
    try:
        found = importlib.metadata.version("virtme-ng")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("virtme-ng", State.MISSING, "not found", "rm -r .venv; ./snptest", "vng")
    else:
        yield Finding("virtme-ng", State.OK, found, needed_for="vng")


def _machine() -> Iterator[Finding]:
    machine = installed.find()
    purpose = "SNP without hardware (vng)"
    remedy = "./snptest machine build"
    if machine is None:
        yield Finding("SNP machine", State.MISSING, "not built", remedy, purpose)
    elif machine.stale or not machine.snp:
        found = "older than qemu/patches" if machine.stale else "built without SNP"
        yield Finding("SNP machine", State.MISSING, found, remedy, purpose)
    else:
        yield Finding("SNP machine", State.OK, f"QEMU {machine.version}", needed_for=purpose)


def _kernel_build() -> Iterator[Finding]:
    yield _packages("kernel build", kbuild.PACKAGES, "snptest build")
    yield _packages("selftests' build", selftests.PACKAGES, "snptest kselftest")
    sources = sorted(path.name for path in Path("/usr/src").glob("linux-source-*.tar.*"))
    if sources:
        yield Finding("kernel source", State.OK, ", ".join(sources), needed_for="snptest build")
    elif shutil.which("apt-get"):
        remedy = (
            "none is needed: snptest build fetches linux-source-6.12, or takes what --base names"
        )
        yield Finding("kernel source", State.OK, "none installed", remedy, "snptest build")
    else:
        remedy = "--base names a directory, a tarball, or URL@REVISION in git"
        yield Finding("kernel source", State.OK, "none installed", remedy, "snptest build")


def _packages(topic: str, packages: Iterable[str], purpose: str) -> Finding:
    """Look for what a build needs, as the build itself does."""
    missing = missing_packages(packages)
    needed = [each for each in missing if not optional(each)]
    if needed:
        found = f"missing: {lacking(needed)}"
        return Finding(topic, State.MISSING, found, how_to_install(needed), purpose)
    if missing:
        good_for = (f"{lacking([each])} ({optional(each)})" for each in missing)
        found = f"all there but {', '.join(good_for)}"
        return Finding(topic, State.OK, found, how_to_install(missing), purpose)
    return Finding(topic, State.OK, "all there", needed_for=purpose)


def _space() -> Iterator[Finding]:
    for topic, folder in (("this tree", ROOT), ("cache", places.cache())):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free / (1 << 30)
        found = f"{folder}: {free:.0f} GiB free"
        if not os.access(existing, os.W_OK):
            yield Finding(topic, State.MISSING, f"{folder}: not writable", "", "results, kernels")
        elif free < BUILD_SPACE_GIB:
            remedy = f"{BUILD_SPACE_GIB} GiB to build kernels"
            yield Finding(topic, State.MISSING, found, remedy, "snptest build")
        else:
            yield Finding(topic, State.OK, found)
