# SPDX-License-Identifier: GPL-2.0-only
"""Where the tests' memory lies, and what they do to it."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.vm.gmem import GuestMemfd
from harness.vm.guest import Guest, GuestCpu
from harness.vm.layout import PAGE_SIZE as PAGE
from harness.vm.layout import PAGE_SIZE_2M as HUGE

__all__ = [
    "FAR",
    "HUGE",
    "KVM_CAP_GUEST_MEMFD_FLAGS",
    "MEMORY",
    "PAGE",
    "SPARE",
    "A",
    "B",
    "changes",
    "empty",
    "fresh",
    "gmem_of",
    "marked",
    "use",
    "write_marks",
]

MEMORY = 16 << 20
A = 0x400000
"""2 MiB of free guest memory; launch leaves it private for SNP, shared for others."""
B = 0x600000
SPARE = 0x800000
KVM_CAP_GUEST_MEMFD_FLAGS = 244
"""Reports the flags of KVM_CREATE_GUEST_MEMFD since Linux 6.18 (include/uapi/linux/kvm.h); there
every VM type has guest_memfd, with or without private memory.  0 before."""
FAR = 1 << 30
"""Where tests put slots of their own."""
STILL = 10.0
"""Seconds without a change after which something is said to stand still."""


def gmem_of(guest: Guest) -> GuestMemfd:
    """The guest_memfd behind the guest's memory; offset and GPA are the same."""
    return guest.vm.gmems[0]


def fresh(cpu: GuestCpu, gpa: int, size: int) -> None:
    """Make a range private without touching it: only its attributes change."""
    cpu.guest.vm.set_memory_attributes(gpa, size, private=True)


def use(cpu: GuestCpu, gpa: int, size: int = PAGE) -> None:
    """Make a range private and usable, as a guest does at first touch."""
    fresh(cpu, gpa, size)
    if cpu.guest.is_snp:
        cpu.pvalidate(gpa, size, validate=True).check()


def write_marks(cpu: GuestCpu, gpa: int, pages: int, first: int = 1) -> None:
    """Fill each page of a range with a word of its own: first, first + 1, ..."""
    for number in range(pages):
        cpu.fill(gpa + number * PAGE, PAGE, first + number).check()


def marked(cpu: GuestCpu, gpa: int, pages: int, first: int = 1) -> bool:
    """Whether each page still holds all of what write_marks put there."""
    return not any(
        cpu.verify(gpa + number * PAGE, PAGE, first + number).check().value
        for number in range(pages)
    )


def empty(cpu: GuestCpu, gpa: int, pages: int = 1) -> bool:
    """Whether a range of a guest without memory encryption holds zeros only."""
    return not cpu.verify(gpa, pages * PAGE, 0).check().value


def changes(look: Callable[[], object]) -> bool:
    """Whether something looks different before the other vCPU must have had its turn."""
    before, until = look(), time.monotonic() + STILL
    while look() == before:
        if time.monotonic() > until:
            return False
    return True
