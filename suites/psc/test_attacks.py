# SPDX-License-Identifier: GPL-2.0-only
"""A host that does wrong to a guest's pages: the guest must notice and never be deceived."""

from __future__ import annotations

import struct
import time

import pytest

from harness.operations import TargetTimeoutError
from harness.uapi.ghcb import VMGEXIT_PSC_ERROR_INVALID_HDR
from harness.vm import layout
from harness.vm.exits import InterruptedExit, IoExit, MemoryFaultExit
from harness.vm.gmem import GuestMemfd
from harness.vm.guest import Guest
from harness.vm.mailbox import Command, Op
from harness.vm.psc import PscOp, PscRequest
from suites.psc.changing import BEYOND, LIST, PAGE, A, B, entry, msr

pytestmark = [
    pytest.mark.patches(14, 15, 16),
    pytest.mark.areas("page state change", "integrity"),
    pytest.mark.needs("snp"),
]

SLOT, PAGES = 7, 4
WORD = 0x5EC2E75EC2E7


@pytest.fixture
def remappable(guest: Guest) -> tuple[Guest, GuestMemfd]:
    """A guest with validated, filled pages at BEYOND in a slot that can be taken away."""
    vm = guest.vm
    gmem = vm.create_gmem(PAGES * PAGE)
    vm.add_slot(SLOT, BEYOND, PAGES * PAGE, gmem=gmem)
    cpu = guest.cpu()
    cpu.make_private(BEYOND, PAGES * PAGE)
    for number in range(PAGES):
        cpu.store(BEYOND + number * PAGE, WORD + number).check()
    return guest, gmem


def _replace(guest: Guest, gmem: GuestMemfd, offset: int = 0, pages: int = PAGES) -> None:
    guest.vm.delete_slot(SLOT)
    guest.vm.add_slot(SLOT, BEYOND, pages * PAGE, gmem=gmem, gmem_offset=offset)


def test_page_replaced(remappable: tuple[Guest, GuestMemfd]) -> None:
    """Another page under a validated address is not validated: accesses raise #VC 0x404."""
    guest, _ = remappable
    _replace(guest, guest.vm.create_gmem(PAGES * PAGE))
    for number in range(PAGES):
        assert guest.cpu().load(BEYOND + number * PAGE).not_validated
        assert guest.cpu().store(BEYOND + number * PAGE, 1).not_validated


def test_double_validation(remappable: tuple[Guest, GuestMemfd]) -> None:
    """A guest that validates a replaced page again learns by CF = 0 that it was another one."""
    guest, first = remappable
    cpu = guest.cpu()
    assert cpu.pvalidate(BEYOND).check().values[:2] == (0, 1)
    _replace(guest, guest.vm.create_gmem(PAGES * PAGE))
    assert cpu.pvalidate(BEYOND).check().values[:2] == (0, 0)
    cpu.store(BEYOND, 1).check()
    _replace(guest, first)
    assert cpu.load(BEYOND).check().value == WORD
    assert cpu.pvalidate(BEYOND).check().values[:2] == (0, 1)


@pytest.mark.needs("inspector")
@pytest.mark.parametrize("access", ["load", "store", "pvalidate"])
def test_remapped(remappable: tuple[Guest, GuestMemfd], access: str) -> None:
    """A page of another guest address is never accessed: the vCPU faults until it is stopped.

    Nothing is split for it: its RMP entry is one of 4 KiB already.
    """
    guest, gmem = remappable
    inspector = guest.vm.kernel.inspector
    assert inspector is not None
    _replace(guest, gmem, PAGE, PAGES - 1)
    command = {
        "load": Command(Op.LOAD, (BEYOND, 8)),
        "store": Command(Op.STORE, (BEYOND, 8, 0xBAD)),
        "pvalidate": Command(Op.PVALIDATE, (BEYOND, 0, 1, 1)),
    }[access]
    counters = inspector.counters()
    before, splits = (counters.get(name, 0) for name in ("npf_rmp_spurious", "psmash"))
    cpu = guest.cpu()
    pending = cpu.start(command)
    deadline = time.monotonic() + 5
    while inspector.counters().get("npf_rmp_spurious", 0) < before + 3:
        with pytest.raises(TargetTimeoutError):
            guest.vm.kernel.wait(pending.ticket, 0.001)
        assert time.monotonic() < deadline, "no RMP fault"
    cpu.kick()
    result = cpu.wait(pending)[0]
    assert isinstance(result.exit, InterruptedExit)
    assert result.value == 0
    assert inspector.counters().get("psmash", 0) == splits
    _replace(guest, gmem)
    ended = cpu.resume()
    assert isinstance(ended, IoExit)
    assert ended.port == layout.NOTIFY_PORT
    assert cpu.load(BEYOND + PAGE).check().value == WORD + 1


def test_taken_away_and_given_back(guest: Guest) -> None:
    """A page whose memory the host took and gave anew is not validated any more."""
    cpu = guest.cpu()
    cpu.make_private(A, 2 * PAGE)
    cpu.fill(A, 2 * PAGE, WORD).check()
    guest.vm.gmems[0].punch_hole(A, PAGE)
    assert cpu.load(A).not_validated
    assert cpu.load(A + PAGE).check().value == WORD
    assert cpu.pvalidate(A).check().values[:2] == (0, 0)
    assert cpu.load(A).check().value != WORD


def test_shared_behind_its_back(guest: Guest) -> None:
    """A page the host shares unasked stays out of reach: private accesses leave as faults."""
    cpu = guest.cpu()
    cpu.make_private(A, PAGE)
    cpu.store(A, WORD).check()
    guest.vm.set_memory_attributes(A, PAGE, private=False)
    guest.vm.write_gpa(A, b"\xee" * PAGE)
    seen: list[MemoryFaultExit] = []

    def give_back(_: object, fault: MemoryFaultExit) -> bool:
        seen.append(fault)
        guest.vm.set_memory_attributes(A, PAGE, private=True)
        return len(seen) == 1

    guest.hooks.memory_fault = give_back
    assert cpu.load(A).check().value == WORD
    assert [(fault.gpa, fault.private) for fault in seen] == [(A, True)]


def test_answer_without_a_change(guest: Guest) -> None:
    """A host that says done and does nothing is found out by the first private access."""
    cpu = guest.cpu()
    cpu.make_shared(B, PAGE)
    guest.hooks.psc = lambda _, request: 0
    assert cpu.psc([entry(B, PscOp.PRIVATE)]).ok
    result = cpu.pvalidate(B)
    assert isinstance(result.exit, MemoryFaultExit)
    assert result.exit.private


def test_validated_page_shared_by_guest(guest: Guest) -> None:
    """A page made shared without rescinding keeps its private content out of the host's reach."""
    cpu = guest.cpu()
    cpu.make_private(A, PAGE)
    cpu.fill(A, PAGE, WORD).check()
    cpu.vmgexit_msr(msr(A, PscOp.SHARED)).check()
    assert guest.vm.read_gpa(A, PAGE) == bytes(PAGE)
    assert cpu.load(A, private=False).check().value == 0
    cpu.vmgexit_msr(msr(A, PscOp.PRIVATE)).check()
    assert cpu.pvalidate(A).check().values[:2] == (0, 1)
    assert cpu.verify(A, PAGE, WORD).check().value == 0


@pytest.mark.needs("kernel_walks_psc_lists")
@pytest.mark.parametrize(
    ("header", "answer"),
    [((0xFFFF, 0xFFFF), VMGEXIT_PSC_ERROR_INVALID_HDR), ((0, 253), VMGEXIT_PSC_ERROR_INVALID_HDR)],
)
def test_list_changed_meanwhile(guest: Guest, header: tuple[int, int], answer: int) -> None:
    """A list whose header changes while it is served is checked again before KVM goes on."""

    def rewrite(_: object, request: PscRequest) -> int:
        guest.vm.write_gpa(LIST, struct.pack("<HH", *header))
        return 0

    guest.hooks.psc = rewrite
    result = guest.cpu().psc([entry(A, PscOp.SHARED), entry(B, PscOp.SHARED)])
    assert (result.info1, result.info2) == (0, answer)
    guest.hooks.psc = None
    assert guest.cpu().psc([entry(A, PscOp.SHARED)]).ok
