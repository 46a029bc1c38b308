# SPDX-License-Identifier: GPL-2.0-only
"""First private touch gives pages to the guest, in 4 KiB and 2 MiB (sev_gmem_prepare, 6.12)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.inspector import NO_PAGE, Inspector, RmpSize
from harness.vm.guest import Guest
from harness.vm.host import Host
from suites.gmem.memory import HUGE, MEMORY, PAGE, A, B, fresh, gmem_of, use

pytestmark = [
    pytest.mark.patches(21, 23),
    pytest.mark.areas("guest_memfd", "RMP"),
    pytest.mark.needs("snp", "inspector"),
]

SIZE_4K, SIZE_2M = RmpSize.SIZE_4K, RmpSize.SIZE_2M


def test_nothing_before_the_touch(guest: Guest, inspector: Inspector) -> None:
    """Private attributes alone assign nothing: the page is taken at the first touch."""
    fresh(guest.cpu(), A, HUGE)
    assert inspector.gmem_rmp(gmem_of(guest).fd, A) == NO_PAGE


def test_touch_assigns(guest: Guest, inspector: Inspector) -> None:
    """A page that the guest touched is assigned to its ASID at its GPA, not validated yet."""
    cpu = guest.cpu()
    assert cpu.load(A + PAGE).not_validated
    entry = inspector.gmem_rmp(gmem_of(guest).fd, A + PAGE)
    assert entry == replace(entry, assigned=True, gpa=A + PAGE, validated=False)
    image = inspector.gmem_rmp(gmem_of(guest).fd, 0x100000)
    assert image.asid > 0
    assert entry == replace(entry, asid=image.asid)


def test_validation_shows(guest: Guest, inspector: Inspector) -> None:
    """PVALIDATE marks the page that the guest validated and no other."""
    use(guest.cpu(), A)
    for gpa, wanted in ((A, True), (A + PAGE, False)):
        guest.cpu().load(gpa)
        entry = inspector.gmem_rmp(gmem_of(guest).fd, gpa)
        assert entry == replace(entry, assigned=True, validated=wanted)


@pytest.mark.needs("gmem_2m")
def test_aligned_range_is_one_entry(guest: Guest, inspector: Inspector) -> None:
    """A 2 MiB range that is all private and untouched becomes one 2 MiB entry."""
    cpu = guest.cpu()
    fresh(cpu, A, HUGE)
    before = inspector.counters()["rmpupdate"]
    cpu.pvalidate(A, HUGE, large=True).check()
    assert cpu.pvalidate(A, HUGE, large=True).value == 0
    entry = inspector.gmem_rmp(gmem_of(guest).fd, A + 5 * PAGE)
    assert entry == replace(entry, gpa=A + 5 * PAGE, validated=True, size=SIZE_2M)
    assert inspector.counters()["rmpupdate"] == before + 1


@pytest.mark.parametrize("index", [0, 1, 511])
def test_mixed_range_is_small(guest: Guest, inspector: Inspector, index: int) -> None:
    """A 2 MiB range of which one page is shared is assigned in 4 KiB entries only."""
    cpu = guest.cpu()
    fresh(cpu, A, HUGE)
    guest.vm.set_memory_attributes(A + index * PAGE, PAGE, private=False)
    other = A + (index + 7) % 512 * PAGE
    cpu.load(other)
    entry = inspector.gmem_rmp(gmem_of(guest).fd, other)
    assert entry == replace(entry, present=True, size=SIZE_4K)
    assert inspector.gmem_rmp(gmem_of(guest).fd, A + (index + 9) % 512 * PAGE) == NO_PAGE


def test_populated_range_is_small(guest: Guest, inspector: Inspector) -> None:
    """Pages beside those of the launch are assigned in 4 KiB: the range is not all shared."""
    cpu = guest.cpu()
    near = 0x100000 + 0x40 * PAGE
    cpu.load(near)
    entry = inspector.gmem_rmp(gmem_of(guest).fd, near)
    assert entry == replace(entry, assigned=True, size=SIZE_4K)


def test_misaligned_slot_is_small(guest: Guest, inspector: Inspector) -> None:
    """Where GPA and file offset are not aligned alike, no 2 MiB page can be used."""
    vm, gpa = guest.vm, 1 << 30
    gmem = vm.create_gmem(2 * HUGE)
    vm.add_slot(5, gpa, HUGE, gmem=gmem, gmem_offset=PAGE)
    fresh(guest.cpu(), gpa, HUGE)
    use(guest.cpu(), gpa)
    guest.cpu().store(gpa, 77).check()
    entry = inspector.gmem_rmp(gmem.fd, PAGE)
    assert entry == replace(entry, gpa=gpa, size=SIZE_4K)


def test_allocated_is_not_assigned(guest: Guest, inspector: Inspector) -> None:
    """Allocating makes pages, it does not give them to the guest."""
    gmem = guest.vm.create_gmem(HUGE)
    gmem.allocate(0, 4 * PAGE)
    entry = inspector.gmem_rmp(gmem.fd, 0)
    assert entry == replace(entry, present=True, assigned=False)


def test_assigned_once(guest: Guest, inspector: Inspector) -> None:
    """A page that is assigned is not updated again by later faults."""
    cpu = guest.cpu()
    use(cpu, A)
    before = inspector.counters()["rmpupdate"]
    guest.vm.set_memory_attributes(A, PAGE, private=False)
    guest.vm.set_memory_attributes(A, PAGE, private=True)
    cpu.store(A, 5).check()
    assert inspector.counters()["rmpupdate"] == before


@pytest.mark.needs("gmem_2m")
def test_level_is_limited_by_the_rmp(guest: Guest, inspector: Inspector) -> None:
    """After its RMP entry was split a range is mapped in 4 KiB: each page still works."""
    cpu = guest.cpu()
    fresh(cpu, B, HUGE)
    cpu.pvalidate(B, HUGE, large=True).check()
    cpu.fill(B, HUGE, 3).check()
    gmem_of(guest).punch_hole(B + 10 * PAGE, PAGE)
    assert cpu.verify(B, 10 * PAGE, 3).check().value == 0
    assert cpu.verify(B + 11 * PAGE, HUGE - 11 * PAGE, 3).check().value == 0
    entry = inspector.gmem_rmp(gmem_of(guest).fd, B)
    assert entry == replace(entry, present=True, size=SIZE_4K)


def test_two_guests_have_their_own(host: Host, inspector: Inspector) -> None:
    """Two guests' pages carry two ASIDs."""
    asids = set()
    with Guest.launch(host, memory=MEMORY) as one, Guest.launch(host, memory=MEMORY) as two:
        for guest in (one, two):
            guest.cpu().boot()
            use(guest.cpu(), A)
            entry = inspector.gmem_rmp(gmem_of(guest).fd, A)
            asids.add(entry.asid)
    assert len(asids) == 2, f"ASIDs of two guests: {asids}; want two"
