# SPDX-License-Identifier: GPL-2.0-only
"""The thread to a real kernel: real series built, booted by virtme-ng, KVM driven in it.

Two kernels are built from a point release that apt offers: one with the KVM part of what the
next release changed as its series, one with a small series of our own on top of that.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import backends, kbuild
from harness.deadline import deadline
from harness.errors import BuildError, UsageError, UserError
from harness.kbuild import cache, debsource
from harness.kbuild.tree import KernelTree
from harness.kernel import Kernel
from harness.machine.gmem_pages import MODULE, GmemPages
from harness.operations import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    Ioctl,
    Mmap,
    OperationError,
    ReadFile,
    TargetError,
    TargetTimeoutError,
)
from harness.splats import find_splats
from harness.target import Target
from harness.uapi import kvm as uapi
from harness.vng import boot as vng
from harness.vng.autopsy import Kind
from suites.host.restarting import NEXT_BOOT, load, marked, target_program
from tests.marks import real
from tests.runs import run

pytestmark = real("builds kernels", 300)

BUILD_TIMEOUT = 3600.0
PACKAGE = "linux-source-6.12"
SERIES = Path(__file__).parent / "data" / "series"
KVM_PATHS = [
    "arch/x86/kvm",
    "arch/x86/virt/svm",
    "virt/kvm",
    "drivers/crypto/ccp",
    "include/linux/kvm_*",
    "include/linux/psp-sev.h",
    "include/uapi/linux/kvm.h",
    "include/uapi/linux/psp-sev.h",
    "arch/x86/include/uapi/asm/kvm*",
    "arch/x86/include/uapi/asm/svm.h",
    # What KVM's changes lean on.
    *(
        f"arch/x86/include/asm/{name}"
        for name in (
            "cpufeatures.h",
            "insn-eval.h",
            "kvm*",
            "pkeys.h",
            "sev*.h",
            "svm.h",
            "vmx.h",
        )
    ),
]


@dataclass(frozen=True)
class Update:
    """The KVM part of the difference between releases, as a series, and the kernel with it."""

    series: Path
    kernel: kbuild.KernelBuild


@pytest.fixture(scope="session")
def update(tmp_path_factory: pytest.TempPathFactory) -> Update:
    """A release with the KVM part of the next one's changes, the newest such pair that builds.

    Cut out of its release, a change of KVM need not build: some follow a change of the whole
    tree.  Then the failed build has to say so, and the pair before is taken.
    """
    try:
        debsource.resolve(PACKAGE)  # updates apt's lists where they are empty
    except UserError as error:
        pytest.skip(f"{PACKAGE} cannot be had: {error}")
    sources = [debsource.DebianSource(PACKAGE, each) for each in debsource.offered(PACKAGE)]
    if len(sources) < 2:
        pytest.skip(f"apt offers {len(sources)} versions of {PACKAGE}, two are needed")
    failures = []
    for new, old in itertools.pairwise(sources):
        series = tmp_path_factory.mktemp("update")
        (series / "0000-KVM-update.patch").write_bytes(kvm_changes(old, new))
        try:
            return Update(series, built("selftest-update", str(old), series))
        except BuildError as error:
            if not re.search(r"^\S+: error: ", error.message, re.MULTILINE):
                raise  # not the compiler
            failures.append(f"{old} to {new}: {error}")
    pytest.fail("no release builds with the KVM changes of the next:\n" + "\n".join(failures))


def kvm_changes(base: debsource.DebianSource, other: debsource.DebianSource) -> bytes:
    with deadline(BUILD_TIMEOUT, "reading two releases"), cache.locked(print):
        tree = KernelTree(cache.root() / "linux")
        commits = [debsource.commit_of(each, tree, kbuild.Progress()) for each in (base, other)]
        diff = tree.diff(commits[0], commits[1], KVM_PATHS)
    assert diff.count(b"\ndiff --git ") > 3, "the releases should differ in KVM"
    return diff


@pytest.fixture(scope="session")
def updated(update: Update) -> kbuild.KernelBuild:
    """The kernel with the update."""
    return update.kernel


@pytest.fixture(scope="session")
def both(update: Update, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The update and our own series on top of it, which is the cheaper to build for it."""
    series = tmp_path_factory.mktemp("both")
    for patch in (*update.series.iterdir(), *SERIES.glob("*.patch")):
        shutil.copy(patch, series)
    return series


@pytest.fixture(scope="session")
def ours(updated: kbuild.KernelBuild, both: Path) -> kbuild.KernelBuild:
    """The same with our own series on top."""
    return built("selftest-series", updated.base, both)


def built(name: str, base: str, series: Path) -> kbuild.KernelBuild:
    """Build under a deadline of its own: a fixture's is far too short for it."""
    with deadline(BUILD_TIMEOUT, f"building {name}"):
        return kbuild.build(name, base, series, fragments=["selftest"])


@pytest.fixture(scope="module", params=["ours", "updated"])
def booted(request: pytest.FixtureRequest) -> Iterator[vng.VngKernel]:
    built: kbuild.KernelBuild = request.getfixturevalue(request.param)
    with vng.boot(built, modules=(MODULE,)) as kernel:
        yield kernel


class SwProtectedVm:
    """A KVM_X86_SW_PROTECTED_VM with 2 MiB of guest_memfd at GPA 0."""

    SIZE = 2 << 20

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.kvm = kernel.open("/dev/kvm")
        self.fd = self.made(self.kvm, uapi.KVM_CREATE_VM, uapi.KVM_X86_SW_PROTECTED_VM)
        request = uapi.kvm_create_guest_memfd(size=self.SIZE)
        self.gmem = self.made(self.fd, uapi.KVM_CREATE_GUEST_MEMFD, bytes(request))
        self.memory = kernel.mmap(self.SIZE)
        region = uapi.kvm_userspace_memory_region2(
            flags=uapi.KVM_MEM_GUEST_MEMFD,
            memory_size=self.SIZE,
            userspace_addr=self.memory,
            guest_memfd=self.gmem,
        )
        self.made(self.fd, uapi.KVM_SET_USER_MEMORY_REGION2, bytes(region))

    def made(self, fd: int, request: int, arg: int | bytes) -> int:
        return self.kernel.check(Ioctl(fd, request, arg)).value

    def set_private(self, gpa: int, size: int, *, private: bool = True) -> int:
        attributes = uapi.kvm_memory_attributes(
            address=gpa,
            size=size,
            attributes=uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE if private else 0,
        )
        arg = bytes(attributes)
        return self.kernel.ioctl(self.fd, uapi.KVM_SET_MEMORY_ATTRIBUTES, arg).errno

    def create_vcpu(self) -> tuple[int, int]:
        """Return a vCPU's file and the address of its kvm_run."""
        vcpu = self.made(self.fd, uapi.KVM_CREATE_VCPU, 0)
        size = self.made(self.kvm, uapi.KVM_GET_VCPU_MMAP_SIZE, 0)
        return vcpu, self.kernel.mmap(size, fd=vcpu)

    def start_at(self, vcpu: int, rip: int) -> None:
        """Point a vCPU in real mode at an address below 64 KiB."""
        blank = bytes(uapi.kvm_sregs())
        sregs = uapi.kvm_sregs.from_buffer_copy(
            self.kernel.check(Ioctl(vcpu, uapi.KVM_GET_SREGS, blank)).data
        )
        sregs.cs.base = sregs.cs.selector = 0
        self.made(vcpu, uapi.KVM_SET_SREGS, bytes(sregs))
        self.made(vcpu, uapi.KVM_SET_REGS, bytes(uapi.kvm_regs(rip=rip, rflags=2)))

    def run_to_out(self, vcpu: int, run: int) -> tuple[int, bytes]:
        """Run a vCPU until it writes to a port; return port and data."""
        result = self.kernel.ioctl(vcpu, uapi.KVM_RUN)
        state = uapi.kvm_run.from_buffer_copy(self.kernel.read(run, ctypes.sizeof(uapi.kvm_run)))
        assert (result.errno, state.exit_reason) == (0, uapi.KVM_EXIT_IO)
        return state.io.port, self.kernel.read(run + state.io.data_offset, state.io.size)

    def close(self) -> None:
        for fd in (self.gmem, self.fd, self.kvm):
            self.kernel.close(fd)
        self.kernel.munmap(self.memory, self.SIZE)


@pytest.fixture
def vm(booted: vng.VngKernel) -> Iterator[SwProtectedVm]:
    vm = SwProtectedVm(booted)
    yield vm
    vm.close()
    assert find_splats(booted.log()) == []


def test_what_runs_is_what_was_built(booted: vng.VngKernel) -> None:
    built = kbuild.get(booted.name)
    assert booted.hello["release"] == built.release
    assert built.release.startswith("6.12.")
    assert "CONFIG_KVM_SW_PROTECTED_VM=y" in built.config.read_text()
    # From the first line, before any driver for a better console is there.
    assert re.search(r"\[ +0\.000000\] Linux version 6\.12\.", booted.console.text())


def test_our_series_is_in_the_kernel(ours: kbuild.KernelBuild) -> None:
    assert [name[:4] for name in ours.series] == ["0000", "0001", "0002"]
    with vng.boot(ours) as kernel:
        assert "guest_memfd is ready" in kernel.log()
        parameter = "/sys/module/kvm/parameters/gmem_files"
        assert kernel.read_file(parameter) == "0\n"
        vm = SwProtectedVm(kernel)
        assert kernel.read_file(parameter) == "1\n"
        vm.close()


def test_building_again_is_a_matter_of_seconds(ours: kbuild.KernelBuild, both: Path) -> None:
    began = time.monotonic()
    again = built("selftest-series", ours.base, both)
    assert time.monotonic() - began < 10
    assert again.key == ours.key


def test_private_memory_attributes(vm: SwProtectedVm) -> None:
    extension = vm.kernel.ioctl(vm.kvm, uapi.KVM_CHECK_EXTENSION, uapi.KVM_CAP_VM_TYPES)
    assert extension.value & 1 << uapi.KVM_X86_SW_PROTECTED_VM
    assert vm.set_private(0, 0x10000) == 0
    assert vm.set_private(0x1000, 0x1000, private=False) == 0
    assert vm.set_private(0x1001, 0x1000) == errno.EINVAL
    assert vm.set_private(0, 0) == errno.EINVAL


def test_guest_memfd_is_checked(vm: SwProtectedVm) -> None:
    for size, flags in ((0, 0), (4095, 0), (4096, 1)):
        request = bytes(uapi.kvm_create_guest_memfd(size=size, flags=flags))
        result = vm.kernel.ioctl(vm.fd, uapi.KVM_CREATE_GUEST_MEMFD, request)
        assert result.errno == errno.EINVAL, (size, flags)
    assert vm.kernel.call(Mmap(4096, flags=1, fd=vm.gmem)).errno == errno.ENODEV


def test_pages_of_a_guest_memfd_are_found(vm: SwProtectedVm) -> None:
    """By the module that is built beside each kernel."""
    pages = GmemPages(vm.kernel)
    assert pages.address(vm.gmem, 0x5000) is None
    assert vm.kernel.fallocate(vm.gmem, FALLOC_FL_KEEP_SIZE, 0x5000, 0x2000).ok
    first, second = pages.address(vm.gmem, 0x5000), pages.address(vm.gmem, 0x6010)
    assert first is not None
    assert second is not None
    assert first % 4096 == 0
    assert second % 4096 == 0x10
    assert first != second - 0x10
    assert max(first, second) < 1 << 30  # the machine's memory
    assert pages.address(vm.gmem, 0x4000) is None
    mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    assert vm.kernel.fallocate(vm.gmem, mode, 0x5000, 0x1000).ok
    assert pages.address(vm.gmem, 0x5000) is None
    assert pages.address(vm.gmem, 0x6010) == second
    with pytest.raises(OperationError, match="EBADF"):
        pages.address(999, 0)


def test_a_guest_runs_from_shared_memory(vm: SwProtectedVm) -> None:
    vm.kernel.write(vm.memory + 0x1000, b"\xb0\x2a\xe6\x10")  # mov al, 42; out 0x10, al
    vcpu, run = vm.create_vcpu()
    vm.start_at(vcpu, 0x1000)
    assert vm.run_to_out(vcpu, run) == (0x10, b"\x2a")
    vm.kernel.close(vcpu)


def test_a_guest_in_private_memory_finds_it_empty(vm: SwProtectedVm) -> None:
    """The same GPA, once private, is guest_memfd's page and not the one behind the address."""
    # mov al, [0x2000]; mov byte [0x2000], 'P'; out 0x10, al
    code = b"\xa0\x00\x20\xc6\x06\x00\x20P\xe6\x10"
    vm.kernel.write(vm.memory + 0x1000, code)
    vm.kernel.write(vm.memory + 0x2000, b"S")
    vcpu, run = vm.create_vcpu()
    seen = []
    for private in (False, True, True, False):
        assert vm.set_private(0x2000, 0x1000, private=private) == 0
        vm.start_at(vcpu, 0x1000)
        seen.append(vm.run_to_out(vcpu, run))
    assert seen == [(0x10, b"S"), (0x10, b"\0"), (0x10, b"P"), (0x10, b"P")]
    # What it wrote in private did not reach the address, what it wrote before and after did.
    vm.kernel.write(vm.memory + 0x2000, b"T")
    hole = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    assert vm.set_private(0x2000, 0x1000) == 0
    vm.start_at(vcpu, 0x1000)
    assert vm.run_to_out(vcpu, run) == (0x10, b"P")
    assert vm.kernel.read(vm.memory + 0x2000, 1) == b"T"
    assert vm.kernel.fallocate(vm.gmem, hole, 0x2000, 0x1000).ok
    vm.start_at(vcpu, 0x1000)
    assert vm.run_to_out(vcpu, run) == (0x10, b"\0")
    vm.kernel.close(vcpu)


def test_a_spinning_guest_is_interrupted(vm: SwProtectedVm) -> None:
    vm.kernel.write(vm.memory + 0x1000, b"\xeb\xfe")  # jmp .
    vcpu, _ = vm.create_vcpu()
    vm.start_at(vcpu, 0x1000)
    ticket = vm.kernel.start([Ioctl(vcpu, uapi.KVM_RUN)], thread=1)
    with pytest.raises(TargetTimeoutError, match="last seen"):
        vm.kernel.wait(ticket, timeout=1)
    vm.kernel.interrupt(1)
    assert vm.kernel.wait(ticket, 10)[0].errno == errno.EINTR
    vm.kernel.close(vcpu)


def test_a_dead_qemu_is_a_lost_target_with_its_console(ours: kbuild.KernelBuild) -> None:
    with vng.boot(ours) as kernel:
        began = time.monotonic()
        for pid in qemu_of(kernel.qemu.leash.pid):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(TargetError, match=r"(?s)(agent has gone|broke).*last seen"):
            kernel.call(ReadFile("/proc/uptime"))
        assert time.monotonic() - began < 5
        assert "Linux version" in kernel.log()


def test_a_kernel_that_panics_does_not_boot(ours: kbuild.KernelBuild) -> None:
    said = r"(?s)did not boot \(panic: .*its console ends:.*Kernel panic"
    with pytest.raises(BuildError, match=said):
        vng.boot(ours, parameters=("rootfstype=none",))


def test_the_next_boots_agent_is_found_at_the_same_port(ours: kbuild.KernelBuild) -> None:
    with vng.boot(ours) as kernel:
        load(kernel)
        kernel.boot_anew(target_program("go"), NEXT_BOOT)
        assert marked(kernel)
        assert kernel.note("after kexec")
        assert kernel.log().count("] Linux version ") == 2
        kernel.boot_anew(target_program("reset"), NEXT_BOOT, by_reset=True)
        assert not marked(kernel)
        assert kernel.boots == 2
        with pytest.raises(TargetError, match="the agent has gone"):
            kernel.boot_anew(target_program("reset"), NEXT_BOOT)
        # Linux tries several ways to reset a machine; a triple fault is the last.
        assert kernel.autopsy().kind in (Kind.RESET, Kind.TRIPLE_FAULT)


def test_a_boot_that_does_not_end_is_cut_short(ours: kbuild.KernelBuild) -> None:
    began = time.monotonic()
    with pytest.raises(BuildError, match="did not boot"):
        vng.boot(ours, timeout=1.5)
    assert time.monotonic() - began < 10


def test_no_qemu_outlives_a_killed_parent(ours: kbuild.KernelBuild) -> None:
    program = (
        "import sys, time; from harness import kbuild; from harness.vng import boot as vng; "
        "k = vng.boot(kbuild.get(sys.argv[1])); print('up', flush=True); time.sleep(100)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, ours.name],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        running = qemu_of(parent.pid)
        assert len(running) == 1
    finally:
        parent.kill()
        parent.wait()
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in running):
        assert time.monotonic() < until, "QEMU outlived its parent by 10 s"
        time.sleep(0.05)


def test_the_backend_asks_for_a_kernel(ours: kbuild.KernelBuild) -> None:
    backend = backends.get("vng")
    assert backend.unavailable() is None
    with pytest.raises(UsageError, match=f"known: .*{ours.name}"):
        backend.open(Target("vng"))
    with pytest.raises(UsageError, match="no kernel is called nobody"):
        backend.open(Target("vng", kernel="nobody"))


def qemu_of(ancestor: int) -> list[int]:
    """Return the QEMU processes below a process."""
    parents = {}
    names = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            pid = int(entry.name)
            names[pid] = stat[stat.index("(") + 1 : stat.rindex(")")]
            parents[pid] = int(stat[stat.rindex(")") + 2 :].split()[1])
    found = []
    for pid, name in names.items():
        up = pid
        while up in parents and up != ancestor:
            up = parents[up]
        if up == ancestor and name.startswith("qemu-system"):
            found.append(pid)
    return found


@pytest.mark.deadline(900)
def test_suites_run_in_a_real_kernel(ours: kbuild.KernelBuild, tmp_path: Path) -> None:
    """The gmem and psc tests that need no SNP pass on KVM_X86_SW_PROTECTED_VM; the rest skip."""
    done = run("gmem", "psc", "--kernel", ours.name, folder=tmp_path, timeout=800)
    assert done.code == 0, done.text[-4000:]
    results = done.results
    passed = {line["suite"] for line in results if line["outcome"] == "pass"}
    assert passed == {"gmem", "psc"}
    assert {line["outcome"] for line in results} <= {"pass", "skip", "xfail"}
    assert sum(line["outcome"] == "pass" for line in results) >= 30
    assert all(line["reason"] for line in results if line["outcome"] == "skip")
