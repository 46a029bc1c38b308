# SPDX-License-Identifier: GPL-2.0-only
"""kdump of the host: a panic starts the crash kernel, which reads all of the dead one's memory.

The cover letter of v12 lists kdump with SNP guests running as a known issue: the firmware does not
shut SNP down then, and the IOMMU stays locked to the dead kernel's buffers.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness.kernel import Kernel
from harness.operations import ReadFile
from harness.vm.host import Host
from suites.host.conftest import DEADLINE
from suites.host.restarting import (
    CALLED,
    CRASH_MEMORY,
    NEXT_BOOT,
    PANIC,
    load,
    marked,
    running_guest,
    snp_works,
    target_program,
)

pytestmark = [
    pytest.mark.patches(9, 22),
    pytest.mark.areas("host", "kdump"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(DEADLINE),
    pytest.mark.splat(CALLED),
]

Fresh = Callable[..., Host]
CRASH_PARAMETERS = ("nr_cpus=1", "irqpoll", "reset_devices")
"""What packages for kdump add to the command line (Documentation/admin-guide/kdump)."""
NOTES = 1 << 16
"""Bytes at the beginning of the dump in which VMCOREINFO is."""


@pytest.fixture
def host(fresh: Fresh) -> Host:
    """A host with memory kept for a crash kernel."""
    return fresh(crashkernel=CRASH_MEMORY)


def crash(kernel: Kernel) -> None:
    """Have the kernel panic; the crash kernel runs then."""
    load(kernel, "load-crash", *CRASH_PARAMETERS)
    kernel.boot_anew(PANIC, NEXT_BOOT)
    assert marked(kernel), "panic: the machine was reset, want the crash kernel"


def dump(kernel: Kernel) -> None:
    """Assert that the dump can be read to its end, and is that of the kernel that died."""
    head = kernel.check(ReadFile("/proc/vmcore", NOTES)).data
    assert head[:4] == b"\x7fELF", f"/proc/vmcore: begins with {head[:4].hex(' ')}, want ELF"
    release = re.search(rb"OSRELEASE=(\S+)", head)
    assert release is not None, "VMCOREINFO in the dump: none, want one"
    found = release[1].decode(errors="replace")
    assert found == kernel.release, f"release in the dump: {found}, want {kernel.release}"
    read = kernel.run_program(["dd", "if=/proc/vmcore", "of=/dev/null", "bs=1M"], NEXT_BOOT)
    assert read.status == 0, f"dd of /proc/vmcore: {read.failure or read.status}, want success"


def reset(kernel: Kernel) -> None:
    """Have the crash kernel reset the machine, as kdump does when the dump is saved."""
    kernel.boot_anew(target_program("reset"), NEXT_BOOT, by_reset=True)
    assert not marked(kernel), "after the reset: a kernel that kexec started, want a cold boot"


def test_before_any_guest(host: Host) -> None:
    """A host that has run no guest panics: it is dumped, and after the reset SNP works."""
    crash(host.kernel)
    dump(host.kernel)
    reset(host.kernel)
    snp_works(host.kernel, host.interface)


def test_after_guests(host: Host) -> None:
    """A host whose guests have ended panics: it is dumped, and after the reset SNP works."""
    snp_works(host.kernel, host.interface)
    crash(host.kernel)
    dump(host.kernel)
    reset(host.kernel)
    snp_works(host.kernel, host.interface)


def test_with_a_guest_running(host: Host) -> None:
    """A host on which a guest runs panics: it is dumped, and after the reset SNP works."""
    running_guest(host)
    crash(host.kernel)
    dump(host.kernel)
    reset(host.kernel)
    snp_works(host.kernel, host.interface)
