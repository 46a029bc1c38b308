# SPDX-License-Identifier: GPL-2.0-only
"""Which page of the file a guest address is, and which addresses a hole takes away.

Without memory encryption each page's content tells where it is, so a wrong offset shows.
"""

from __future__ import annotations

import pytest

from harness.vm.exits import MemoryFaultExit
from harness.vm.gmem import GuestMemfd
from harness.vm.guest import Guest
from suites.gmem.memory import FAR, HUGE, PAGE, empty, fresh, marked, write_marks

pytestmark = [
    pytest.mark.patches(21, 22),
    pytest.mark.areas("guest_memfd", "binding"),
    pytest.mark.needs("sw_protected"),
]

PAGES = 8
SIZE = PAGES * PAGE
NEAR = FAR + HUGE
"""Where a second slot lies."""


def bound(guest: Guest, gmem: GuestMemfd, offset: int = 0, *, slot: int = 5, gpa: int = FAR) -> int:
    """Bind SIZE bytes of a file from an offset on, all private; returns the GPA."""
    guest.vm.add_slot(slot, gpa, SIZE, gmem=gmem, gmem_offset=offset)
    fresh(guest.cpu(), gpa, SIZE)
    return gpa


@pytest.mark.parametrize("offset", [0, 1, 3, 7, 511, 513])
def test_pages_are_different(plain: Guest, offset: int) -> None:
    """With any offset of the slot in its file no two guest pages are one page of the file."""
    gpa = bound(plain, plain.vm.create_gmem(4 * HUGE), offset * PAGE)
    write_marks(plain.cpu(), gpa, PAGES)
    assert marked(plain.cpu(), gpa, PAGES)


@pytest.mark.parametrize("offset", [0, 1, 3, 7, 513])
@pytest.mark.parametrize("hole", [0, 3, 7])
def test_hole_at_the_file_s_offset(plain: Guest, offset: int, hole: int) -> None:
    """A hole in the file empties the guest page that is bound to it, and no other."""
    cpu, gmem = plain.cpu(), plain.vm.create_gmem(4 * HUGE)
    gpa = bound(plain, gmem, offset * PAGE)
    write_marks(cpu, gpa, PAGES)
    gmem.punch_hole((offset + hole) * PAGE, PAGE)
    assert empty(cpu, gpa + hole * PAGE)
    assert marked(cpu, gpa, hole)
    assert marked(cpu, gpa + (hole + 1) * PAGE, PAGES - hole - 1, hole + 2)


# Both ways, as a new page for one address may be the old one of an address not looked at yet.
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(("first", "count"), [(0, 2), (0, 8), (2, 3), (6, 2), (1, 7)])
def test_every_page_of_a_hole(plain: Guest, first: int, count: int, backwards: bool) -> None:
    """From the first to the last page of a hole all are empty; those around it are as they were."""
    cpu, gmem = plain.cpu(), plain.vm.create_gmem(SIZE)
    gpa = bound(plain, gmem)
    write_marks(cpu, gpa, PAGES)
    gmem.punch_hole(first * PAGE, count * PAGE)
    order = range(PAGES - 1, -1, -1) if backwards else range(PAGES)
    emptied = {number for number in order if empty(cpu, gpa + number * PAGE)}
    assert emptied == set(range(first, first + count))
    last = first + count
    assert marked(cpu, gpa, first)
    assert marked(cpu, gpa + last * PAGE, PAGES - last, last + 1)


def test_hole_around_a_slot(plain: Guest) -> None:
    """A hole larger than what a slot has of the file empties all of the slot."""
    cpu, gmem = plain.cpu(), plain.vm.create_gmem(4 * SIZE)
    gpa = bound(plain, gmem, SIZE)
    write_marks(cpu, gpa, PAGES)
    gmem.punch_hole(0, 4 * SIZE)
    assert empty(cpu, gpa, PAGES)


def test_hole_beside_a_slot(plain: Guest) -> None:
    """Holes that end where a slot's part of the file begins, or begin where it ends, spare it."""
    cpu, gmem = plain.cpu(), plain.vm.create_gmem(3 * SIZE)
    gpa = bound(plain, gmem, SIZE)
    write_marks(cpu, gpa, PAGES)
    gmem.punch_hole(0, SIZE)
    gmem.punch_hole(2 * SIZE, SIZE)
    assert marked(cpu, gpa, PAGES)


def test_two_slots_of_one_file(plain: Guest) -> None:
    """Two slots of one file have their own parts; a hole across the seam takes from both."""
    cpu, gmem = plain.cpu(), plain.vm.create_gmem(2 * SIZE)
    low = bound(plain, gmem)
    high = bound(plain, gmem, SIZE, slot=6, gpa=NEAR)
    write_marks(cpu, low, PAGES, 0x100)
    write_marks(cpu, high, PAGES, 0x200)
    assert marked(cpu, low, PAGES, 0x100)
    gmem.punch_hole(SIZE - 2 * PAGE, 4 * PAGE)
    assert empty(cpu, low + SIZE - 2 * PAGE, 2)
    assert empty(cpu, high, 2)
    assert marked(cpu, low, PAGES - 2, 0x100)
    assert marked(cpu, high + 2 * PAGE, PAGES - 2, 0x202)


def test_two_files(plain: Guest) -> None:
    """A hole in one file does not touch a slot of another file at the same offset."""
    cpu, vm = plain.cpu(), plain.vm
    files = vm.create_gmem(SIZE), vm.create_gmem(SIZE)
    low = bound(plain, files[0])
    high = bound(plain, files[1], slot=6, gpa=NEAR)
    write_marks(cpu, low, PAGES, 0x100)
    write_marks(cpu, high, PAGES, 0x200)
    files[0].punch_hole(0, SIZE)
    assert empty(cpu, low, PAGES)
    assert marked(cpu, high, PAGES, 0x200)


def test_content_follows_the_file(plain: Guest) -> None:
    """A slot deleted and added elsewhere, with another offset, finds the file's pages there."""
    cpu, vm = plain.cpu(), plain.vm
    gmem = vm.create_gmem(2 * SIZE)
    bound(plain, gmem)
    write_marks(cpu, FAR, PAGES)
    vm.delete_slot(5)
    moved = bound(plain, gmem, 3 * PAGE, slot=6, gpa=NEAR)
    assert marked(cpu, moved, PAGES - 3, 4)
    assert empty(cpu, moved + (PAGES - 3) * PAGE, 3)


def test_deleted_slot_is_gone(plain: Guest) -> None:
    """The guest cannot reach the memory of a deleted slot any more, nor another at its address."""
    cpu, vm = plain.cpu(), plain.vm
    bound(plain, vm.create_gmem(SIZE))
    write_marks(cpu, FAR, PAGES)
    vm.delete_slot(5)
    stopped = cpu.load(FAR).exit
    assert isinstance(stopped, MemoryFaultExit)
    assert (stopped.gpa, stopped.private) == (FAR, True)
    bound(plain, vm.create_gmem(SIZE))
    cpu.resume()
    assert empty(cpu, FAR, PAGES)


def test_allocated_pages_are_what_the_guest_finds(plain: Guest) -> None:
    """Allocating what is there already changes nothing; what is not there is empty."""
    cpu, gmem = plain.cpu(), plain.vm.create_gmem(SIZE)
    gpa = bound(plain, gmem)
    write_marks(cpu, gpa, 2)
    gmem.allocate(0, SIZE)
    assert marked(cpu, gpa, 2)
    assert empty(cpu, gpa + 2 * PAGE, PAGES - 2)
