# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of page state changes share: places in memory, and looking at the outcome."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

import pytest

from harness.uapi import ghcb as abi
from harness.uapi import kvm as uapi
from harness.uapi.sev import PVALIDATE_FAIL_SIZEMISMATCH
from harness.vm import layout
from harness.vm.exits import MemoryFaultExit
from harness.vm.guest import Guest, GuestCpu
from harness.vm.guest_commands import GHCB_SHARED_BUFFER
from harness.vm.mailbox import Command, Op
from harness.vm.psc import PscEntry, PscOp, PscRequest, decode_list, encode_list, entries_for

BYTES: Final = 16 << 20
"""Memory of a guest; what lies behind has no slot."""
PAGE: Final = layout.PAGE_SIZE
HUGE: Final = layout.PAGE_SIZE_2M
A: Final = 0x400000
B: Final = 0x600000
C: Final = 0x800000
BEYOND: Final = 0x10000000
"""An address that no slot covers."""
FAIL_INPUT: Final = 1
"""What PVALIDATE answers in RAX (APM volume 3)."""
LIST: Final = layout.ghcb(0) + GHCB_SHARED_BUFFER


def msr(gpa: int, op: int) -> int:
    """A request of the MSR protocol."""
    return abi.GHCB_MSR_PSC_REQ_GFN(gpa >> 12, op)


def entry(gpa: int, op: PscOp, *, large: bool = False, done: int = 0) -> PscEntry:
    """One entry of a list."""
    return PscEntry(gpa >> 12, op, large, done)


def refusal(guest: Guest) -> int:
    """Userspace's answer to a page state change that it refuses."""
    return -1 if guest.vm.interface.psc_results is None else errno.EINVAL


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


def validate_2m(guest: Guest, gpa: int, *, index: int = 0) -> None:
    """Validate 2 MiB as one page; skips where the host's private memory has no such pages."""
    done = guest.cpu(index).pvalidate(gpa, HUGE, large=True).check()
    if done.value == PVALIDATE_FAIL_SIZEMISMATCH and guest.vm.kernel.gmem_order < 9:
        pytest.skip("the host backs private memory by pages of 4 KiB only")
    assert done.values[:4] == (0, 0, 1, 1)


def conversion(cpu: GuestCpu, gpa: int, size: int, *, private: bool) -> Command:
    """The command by which a vCPU changes up to 253 pages, for `start`."""
    guest = cpu.guest
    op = PscOp.PRIVATE if private else PscOp.SHARED
    if guest.is_snp:
        data = encode_list(list(entries_for(gpa, size, op)))
        guest.vm.write_gpa(layout.ghcb(cpu.index) + GHCB_SHARED_BUFFER, data)
        return Command(Op.PSC, (1000,))
    direction = uapi.KVM_MAP_GPA_RANGE_ENCRYPTED if private else uapi.KVM_MAP_GPA_RANGE_DECRYPTED
    vendor = next((e.ebx for e in guest.vm.host.supported_cpuid if not e.function), 0)
    intel = vendor.to_bytes(4, "little") == b"Genu"
    args = (uapi.KVM_HC_MAP_GPA_RANGE, gpa, size // PAGE, direction)
    return Command(Op.HYPERCALL, args, int(intel))
