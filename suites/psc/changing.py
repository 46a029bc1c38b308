# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of page state changes share: places in memory, and looking at the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from harness.uapi import ghcb as abi
from harness.vm import layout
from harness.vm.exits import MemoryFaultExit
from harness.vm.guest import Guest, GuestCpu
from harness.vm.guest_commands import GHCB_SHARED_BUFFER
from harness.vm.psc import PscEntry, PscOp, PscRequest, decode_list

BYTES: Final = 16 << 20
"""Memory of a guest; what lies behind has no slot."""
PAGE: Final = layout.PAGE_SIZE
HUGE: Final = layout.PAGE_SIZE_2M
A: Final = 0x400000
B: Final = 0x600000
C: Final = 0x800000
BEYOND: Final = 0x10000000
"""An address that no slot covers."""
LIST: Final = layout.ghcb(0) + GHCB_SHARED_BUFFER


def msr(gpa: int, op: int) -> int:
    """A request of the MSR protocol."""
    return abi.GHCB_MSR_PSC_REQ_GFN(gpa >> 12, op)


def entry(gpa: int, op: PscOp, *, large: bool = False, done: int = 0) -> PscEntry:
    """One entry of a list."""
    return PscEntry(gpa >> 12, op, large, done)


def asked(guest: Guest) -> list[PscRequest]:
    """What userspace was asked for since the last time."""
    requests = list(guest.psc_requests)
    guest.psc_requests.clear()
    return requests


def changes(requests: Sequence[PscRequest]) -> list[tuple[int, int, bool]]:
    """Requests as (gpa, size, private), neighbours of one direction as one."""
    merged: list[tuple[int, int, bool]] = []
    for request in requests:
        if merged and sum(merged[-1][:2]) == request.gpa and merged[-1][2] == request.private:
            gpa, size, private = merged.pop()
            merged.append((gpa, size + request.size, private))
        else:
            merged.append((request.gpa, request.size, request.private))
    return merged


def progress(guest: Guest, count: int) -> tuple[int, list[int]]:
    """cur_entry of the list in the first vCPU's GHCB, and cur_page of its first entries."""
    current, _, entries = decode_list(guest.vm.read_gpa(LIST, 8 + 8 * count))
    return current, [one.cur_page for one in entries]


def is_private(guest: Guest, gpa: int, index: int = 0) -> bool:
    """Whether a page is private: a shared access then leaves as a memory fault.

    The page is shared while the access ends, then private again; its content stays.
    """
    faults: list[MemoryFaultExit] = []
    page = gpa & ~(PAGE - 1)

    def look(cpu: GuestCpu, fault: MemoryFaultExit) -> bool:
        faults.append(fault)
        guest.vm.set_memory_attributes(page, PAGE, private=False)
        return len(faults) == 1

    guest.hooks.memory_fault, before = look, guest.hooks.memory_fault
    try:
        guest.cpu(index).load(gpa, private=False).check()
    finally:
        guest.hooks.memory_fault = before
    if not faults:
        return False
    assert (faults[0].gpa, faults[0].private) == (page, False)
    guest.vm.set_memory_attributes(page, PAGE, private=True)
    return True
