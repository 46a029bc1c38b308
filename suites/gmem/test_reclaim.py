# SPDX-License-Identifier: GPL-2.0-only
"""Freed private memory goes back to the host, empty (sev_gmem_invalidate, 6.12)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.inspector import NO_PAGE, Inspector, RmpSize
from harness.vm.guest import Guest
from harness.vm.host import Host
from suites.gmem.memory import HUGE, MEMORY, PAGE, A, B, fresh, gmem_of, use

pytestmark = [
    pytest.mark.patches(22, 24),
    pytest.mark.areas("guest_memfd", "reclaim"),
    pytest.mark.needs("private_memory"),
]

SECRET = 0x5EC7E7_5EC7E7
WORD = SECRET.to_bytes(8, "little")


def test_hole_is_empty(guest: Guest) -> None:
    """A page whose memory was punched out comes back without its old content."""
    cpu = guest.cpu()
    use(cpu, A)
    cpu.fill(A, PAGE, SECRET).check()
    gmem_of(guest).punch_hole(A, PAGE)
    if guest.is_snp:
        assert cpu.load(A).not_validated
    use(cpu, A)
    assert cpu.verify(A, PAGE, SECRET).check().value == PAGE // 8


@pytest.mark.parametrize("index", [0, 1, 255, 511])
def test_hole_in_a_large_page(guest: Guest, index: int) -> None:
    """A 4 KiB hole in 2 MiB takes that page and leaves the other 511 as they are."""
    cpu = guest.cpu()
    use(cpu, A, HUGE)
    cpu.fill(A, HUGE, SECRET, 1).check()
    hole = A + index * PAGE
    gmem_of(guest).punch_hole(hole, PAGE)
    words = index * PAGE // 8
    if index:
        assert cpu.verify(A, index * PAGE, SECRET, 1).check().value == 0
    if index < 511:
        rest = HUGE - (index + 1) * PAGE
        assert cpu.verify(hole + PAGE, rest, SECRET + words + 512, 1).check().value == 0
    use(cpu, hole)
    assert cpu.verify(hole, PAGE, SECRET + words, 1).check().value == PAGE // 8


def test_hole_in_what_is_shared(guest: Guest) -> None:
    """A hole frees private memory only: the shared memory of the same address stays."""
    cpu = guest.cpu()
    use(cpu, A)
    guest.vm.set_memory_attributes(A, PAGE, private=False)
    guest.vm.write_gpa(A, b"\x77" * PAGE)
    gmem_of(guest).punch_hole(A, PAGE)
    assert cpu.read(A, 64, private=False) == b"\x77" * 64


@pytest.mark.needs("snp", "inspector")
@pytest.mark.parametrize("size", [PAGE, 3 * PAGE, HUGE, HUGE + PAGE])
def test_hole_gives_the_rmp_back(guest: Guest, inspector: Inspector, size: int) -> None:
    """Exactly the pages of a hole leave the guest's ASID."""
    cpu = guest.cpu()
    fresh(cpu, A, 2 * HUGE)
    for gpa in range(A, A + 2 * HUGE, HUGE):
        cpu.pvalidate(gpa, HUGE).check()
    before = inspector.assigned_pages()
    gmem_of(guest).punch_hole(A, size)
    assert inspector.assigned_pages() == before - size // PAGE
    assert inspector.gmem_rmp(gmem_of(guest).fd, A) == NO_PAGE
    kept = inspector.gmem_rmp(gmem_of(guest).fd, A + size)
    assert kept == replace(kept, assigned=True, gpa=A + size, validated=True)


@pytest.mark.needs("snp", "inspector", "gmem_2m")
def test_hole_splits_a_large_entry(guest: Guest, inspector: Inspector) -> None:
    """A hole smaller than its 2 MiB entry splits it once, by PSMASH."""
    cpu = guest.cpu()
    fresh(cpu, A, HUGE)
    cpu.load(A)
    entry = inspector.gmem_rmp(gmem_of(guest).fd, A)
    assert entry == replace(entry, present=True, size=RmpSize.SIZE_2M)
    before = inspector.counters().get("psmash", 0)
    gmem_of(guest).punch_hole(A + 8 * PAGE, PAGE)
    gmem_of(guest).punch_hole(A + 9 * PAGE, PAGE)
    assert inspector.counters()["psmash"] == before + 1


@pytest.mark.needs("snp", "inspector")
def test_hole_costs_no_wbinvd(guest: Guest, inspector: Inspector) -> None:
    """Freeing an SNP guest's memory flushes all of its lines and not whole caches."""
    cpu = guest.cpu()
    use(cpu, A, 4 * PAGE)
    before = inspector.counters()
    gmem_of(guest).punch_hole(A, 4 * PAGE)
    after = inspector.counters()
    assert after.get("wbinvd", 0) == before.get("wbinvd", 0)
    assert after.get("clflush", 0) >= before.get("clflush", 0) + 4 * PAGE // 64, "a line each"


@pytest.mark.needs("snp", "inspector")
def test_attributes_do_not_reclaim(guest: Guest, inspector: Inspector) -> None:
    """Only freeing gives a page back: changing its attributes leaves it assigned."""
    use(guest.cpu(), A)
    before = inspector.assigned_pages()
    guest.vm.set_memory_attributes(A, PAGE, private=False)
    assert inspector.assigned_pages() == before


@pytest.mark.needs("snp", "inspector")
def test_slot_deletion_unmaps(guest: Guest, inspector: Inspector) -> None:
    """Deleting a slot unmaps its memory; the file keeps it until it is closed."""
    vm, gpa, cpu = guest.vm, 1 << 30, guest.cpu()
    gmem = vm.create_gmem(HUGE)
    vm.add_slot(5, gpa, HUGE, gmem=gmem)
    use(cpu, gpa)
    cpu.store(gpa, SECRET).check()
    before = inspector.assigned_pages()
    vm.delete_slot(5)
    assert inspector.assigned_pages() == before
    assert cpu.load(gpa).exit is not None
    entry = inspector.gmem_rmp(gmem.fd, 0)
    assert entry == replace(entry, present=True)
    pages = 512 if entry.size else 1
    gmem.close()
    assert inspector.assigned_pages() == before - pages


@pytest.mark.needs("sw_protected")
def test_hole_in_two_slots(plain: Guest) -> None:
    """A hole in a file is one in every slot that has a part of it.

    An SNP guest's access to what stayed mapped would be put right by the RMP.
    """
    vm, cpu = plain.vm, plain.cpu()
    gmem = vm.create_gmem(2 * HUGE)
    ends = []
    for slot, gpa in ((5, 1 << 30), (6, 1 << 31)):
        vm.add_slot(slot, gpa, HUGE, gmem=gmem, gmem_offset=(slot - 5) * HUGE)
        ends.append(gpa + HUGE - PAGE if slot == 5 else gpa)
    beside = ends[0] - PAGE, ends[1] + PAGE
    for gpa in (*ends, *beside):
        fresh(cpu, gpa, PAGE)
        cpu.store(gpa, SECRET).check()
    gmem.punch_hole(HUGE - PAGE, 2 * PAGE)
    # The last first: a page that is taken anew may be the very one that was given back.
    for gpa in reversed(ends):
        assert cpu.load(gpa).check().value == 0
    for gpa in beside:
        assert cpu.load(gpa).check().value == SECRET


@pytest.mark.needs("snp", "inspector")
def test_end_of_the_vm(host: Host, inspector: Inspector) -> None:
    """When a VM ends no page is assigned, no ASID taken and none leaked."""
    before, asids = inspector.assigned_pages(), inspector.counters()["asids"]
    with Guest.launch(host, memory=MEMORY, vcpus=2) as guest:
        guest.cpu().boot()
        use(guest.cpu(), A, HUGE)
        use(guest.cpu(), B, 5 * PAGE)
        assert inspector.assigned_pages() > before
    assert inspector.assigned_pages() == before
    counters = inspector.counters()
    assert (counters["asids"], counters["leaked_pages"]) == (asids, 0)


@pytest.mark.needs("snp", "inspector")
def test_memory_is_empty_for_the_host(guest: Guest, inspector: Inspector) -> None:
    """Nothing of the old content is in memory when the host has the page again."""
    cpu = guest.cpu()
    use(cpu, A)
    cpu.fill(A, PAGE, SECRET).check()
    gmem = gmem_of(guest)
    assert inspector.gmem_bytes(gmem.fd, A, 8) == WORD
    gmem.punch_hole(A, PAGE)
    gmem.allocate(A, PAGE)
    cpu.load(A)
    assert WORD not in inspector.gmem_bytes(gmem.fd, A, PAGE)


def test_next_vm_finds_nothing(host: Host) -> None:
    """Memory that another VM used before holds nothing of it."""
    with Guest.launch(host, memory=MEMORY) as first:
        first.cpu().boot()
        use(first.cpu(), A, 64 * PAGE)
        first.cpu().fill(A, 64 * PAGE, SECRET).check()
    with Guest.launch(host, memory=MEMORY) as second:
        second.cpu().boot()
        use(second.cpu(), A, 64 * PAGE)
        assert second.cpu().verify(A, 64 * PAGE, SECRET).check().value == 64 * PAGE // 8


@pytest.mark.parametrize("rounds", [20])
def test_over_and_over(guest: Guest, rounds: int) -> None:
    """A page can be used, freed and used again any number of times."""
    cpu = guest.cpu()
    for number in range(rounds):
        use(cpu, A, 2 * PAGE)
        cpu.fill(A, 2 * PAGE, number).check()
        assert cpu.verify(A, 2 * PAGE, number).check().value == 0
        gmem_of(guest).punch_hole(A, 2 * PAGE)
