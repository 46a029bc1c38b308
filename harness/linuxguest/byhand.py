# SPDX-License-Identifier: GPL-2.0-only
"""`snptest guest`: boot the kernel under test, start a guest on it, hand over its console."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from harness import kbuild
from harness.errors import BootError, UsageError
from harness.interrupts import by_sigterm
from harness.kbuild.progress import ConsoleProgress
from harness.linuxguest import host as hosts
from harness.linuxguest.definition import Kind
from harness.linuxguest.host import Starter
from harness.linuxguest.parts import Parts, parts
from harness.linuxguest.running import End, How, RunningGuest
from harness.linuxguest.terminal import LEAVE_SAID, attach
from harness.report import sanitize
from harness.vng.boot import VngKernel, boot
from harness.vng.machine import check_memory
from harness.vng.snp import choose

ROOM = 1536
"""MiB of the host on top of its guest's, where nothing else is asked for."""
LEAST = 256
"""MiB that firmware, kernel and initrd need."""
SHELL = "snptest.shell"
"""What init takes for the wish for a shell on the console."""
TALKATIVE = "loglevel=7"
"""Somebody looks at the console; of two the later counts."""


@dataclass(frozen=True, slots=True)
class ByHand:
    """What the command line says."""

    kernel: str
    machine: str | None
    host_memory: str | None
    cpus: int
    firmware: str | None
    guest_kernel: str | None
    initrd: Path | None
    append: str
    kind: Kind
    vcpus: int
    memory: int
    cpu: str
    policy: int
    hashes: bool | None
    """None: where the firmware takes them."""
    qemu: Path | None
    gdb: bool


def kind_of(text: str) -> Kind:
    """Read --type; UsageError where there is no such."""
    known = {"snp": Kind.SNP, "sev-es": Kind.SEV_ES, "sev": Kind.SEV, "none": Kind.NONE}
    if text not in known:
        raise UsageError(f"no type of guest is called {text!r}", f"there are {', '.join(known)}")
    return known[text]


def mebibytes(text: str) -> int:
    """Read a size as 512M or 2G; UsageError where it is none, or a guest could not start."""
    check_memory(text)
    size = int(text[:-1]) << (10 if text[-1] in "Gg" else 0)
    if size < LEAST:
        raise UsageError(f"--memory {text} is too little for a guest", f"{LEAST}M is the least")
    return size


def number(text: str) -> int:
    """Read a number as decimal or 0x...; 0 for none; UsageError where it is no number."""
    try:
        return int(text, 0) if text else 0
    except ValueError:
        raise UsageError(f"--policy {text!r} is no number", "0x30000, say") from None


def run(options: ByHand) -> int:
    """Run a guest until it ends, or the user leaves; 3 where QEMU ended it."""
    build = kbuild.get(options.kernel)
    if options.qemu is not None:
        options = replace(options, qemu=hosts.given_qemu(options.qemu, "--qemu"))
    machine = choose(options.machine, build)
    with ConsoleProgress(Console(stderr=True)) as progress:
        made = parts(
            options.firmware,
            options.guest_kernel,
            options.initrd,
            progress=progress,
            say=_say,
        )
    memory = options.host_memory or f"{options.memory + ROOM}M"
    with tempfile.TemporaryDirectory(prefix="snptest-gdb-") as folder:
        gdb = Path(folder) / "gdb" if options.gdb else None
        _say(f"booting {options.kernel} ({build.release}) on machine {machine.name}, {memory}")
        try:
            with (
                by_sigterm(),
                boot(build, machine=machine, memory=memory, cpus=options.cpus, gdb=gdb) as kernel,
            ):
                if gdb is not None:
                    _say(_gdb_said(gdb, build.vmlinux))
                return _run(options, kernel, made)
        except KeyboardInterrupt:
            _say("interrupted")
            return 130


def _run(options: ByHand, kernel: VngKernel, made: Parts) -> int:
    starter = Starter(kernel, hosts.qemu(kernel, options.qemu), made)
    words = [TALKATIVE, *([SHELL] if options.initrd is None else []), options.append]
    guest = starter.guest(
        " ".join(filter(None, words)),
        kind=options.kind,
        vcpus=options.vcpus,
        memory=options.memory,
        cpu=options.cpu,
        policy=options.policy,
        **({} if options.hashes is None else {"kernel_hashes": options.hashes}),
    )
    _say(
        f"guest: {options.kind.value}, {options.vcpus} vCPUs, {options.memory} MiB, "
        f"firmware {made.firmware.origin}, kernel {made.kernel.release}; {LEAVE_SAID} ends it"
    )
    with starter.start(guest) as running:
        if not attach(running):
            _say("left; the guest is killed")
            return 0
        return _told(running, running.end(), kernel)


def _told(guest: RunningGuest, end: End, kernel: VngKernel) -> int:
    """Say how a guest ended; return what to exit with."""
    _say(f"the guest {end}")
    if end.how not in (How.FAILED, How.STOPPED):
        return 0
    said = "\n".join(guest.said.tail.splitlines()[-10:])
    raise BootError(
        f"the guest {end}; QEMU said:\n{said}", f"the host's log: {kernel.console.path}"
    )


def _gdb_said(gdb: Path, vmlinux: Path) -> str:
    return f"""gdb of the host:  gdb {vmlinux} -ex 'target remote {gdb}'
snptest: gdb of the guest: gdb GUEST-VMLINUX -ex 'target remote {gdb}' -ex 'hbreak start_kernel'
snptest: a CPU is in the guest where its registers are the guest's; add nokaslr by --append"""


def _say(text: str) -> None:
    print(f"snptest: {sanitize.text(text)}", file=sys.stderr, flush=True)
