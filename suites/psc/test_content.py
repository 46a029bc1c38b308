# SPDX-License-Identifier: GPL-2.0-only
"""What a page holds after it changed state; for guests with and without SNP."""

from __future__ import annotations

import random

import pytest

from harness.vm.guest import Guest
from suites.psc.changing import HUGE, PAGE, A, B, C

pytestmark = [
    pytest.mark.patches(15, 21),
    pytest.mark.areas("page state change", "guest_memfd"),
    pytest.mark.needs("private_memory"),
]

WORD = 0xA5A5_0000_1234_5678


def _words(first: int, size: int, step: int = 1) -> bytes:
    return b"".join((first + n * step).to_bytes(8, "little") for n in range(size // 8))


def test_shared_is_common(any_guest: Guest) -> None:
    """Guest and host see each other's writes to a shared page."""
    cpu = any_guest.cpu()
    cpu.convert(A, 2 * PAGE, private=False)
    cpu.fill(A, 2 * PAGE, WORD, 1, private=False).check()
    assert any_guest.vm.read_gpa(A, 2 * PAGE) == _words(WORD, 2 * PAGE)
    any_guest.vm.write_gpa(A + PAGE, b"\x42" * PAGE)
    assert cpu.read(A + PAGE, PAGE, private=False) == b"\x42" * PAGE


def test_private_is_not_visible(any_guest: Guest) -> None:
    """What a guest writes to a private page does not show in the host's view of it."""
    cpu = any_guest.cpu()
    cpu.convert(A, PAGE, private=False)
    any_guest.vm.write_gpa(A, b"\x11" * PAGE)
    cpu.make_private(A, PAGE)
    cpu.fill(A, PAGE, WORD).check()
    assert any_guest.vm.read_gpa(A, PAGE) == b"\x11" * PAGE


def test_host_cannot_write_private(any_guest: Guest) -> None:
    """What the host writes to its view of a private page does not reach the guest."""
    cpu = any_guest.cpu()
    cpu.make_private(A, PAGE)
    cpu.fill(A, PAGE, WORD, 3).check()
    any_guest.vm.write_gpa(A, b"\x99" * PAGE)
    assert cpu.verify(A, PAGE, WORD, 3).check().value == 0


@pytest.mark.parametrize("size", [PAGE, HUGE], ids=["4K", "2M"])
def test_both_sides_are_kept(any_guest: Guest, size: int) -> None:
    """Shared and private memory of an address are two; a change of state empties neither."""
    cpu = any_guest.cpu()
    other = ~WORD & (1 << 64) - 1
    ends = {B, B + size - PAGE}
    cpu.make_private(B, size)
    for gpa in ends:
        cpu.fill(gpa, PAGE, WORD + gpa, 1).check()
    cpu.make_shared(B, size)
    for gpa in ends:
        cpu.fill(gpa, PAGE, other - gpa, private=False).check()
    cpu.make_private(B, size)
    for gpa in ends:
        assert cpu.verify(gpa, PAGE, WORD + gpa, 1).check().value == 0
    cpu.make_shared(B, size)
    for gpa in ends:
        assert cpu.verify(gpa, PAGE, other - gpa, private=False).check().value == 0


def test_new_private_page(any_guest: Guest) -> None:
    """A page that becomes private for the first time has nothing of the shared one."""
    cpu = any_guest.cpu()
    cpu.convert(C, PAGE, private=False)
    cpu.fill(C, PAGE, WORD, private=False).check()
    cpu.make_private(C, PAGE)
    seen = cpu.verify(C, PAGE, WORD).check()
    assert seen.value == PAGE // 8
    if not any_guest.is_snp:  # under SNP zeros that the host wrote decrypt to anything
        assert cpu.verify(C, PAGE, 0).check().value == 0


def test_discarded(any_guest: Guest) -> None:
    """Private memory that userspace discards after the change is gone when it comes back."""
    cpu = any_guest.cpu()
    cpu.make_private(A, 2 * PAGE)
    cpu.fill(A, 2 * PAGE, WORD).check()
    cpu.make_shared(A, PAGE)
    any_guest.vm.gmems[0].punch_hole(A, PAGE)
    cpu.make_private(A, PAGE)
    assert cpu.verify(A, PAGE, WORD).check().value == PAGE // 8
    assert cpu.verify(A + PAGE, PAGE, WORD).check().value == 0


def test_every_second_page(any_guest: Guest) -> None:
    """Of 64 pages every second is shared, and each keeps what was written to it."""
    cpu = any_guest.cpu()
    cpu.make_private(A, 64 * PAGE)
    cpu.fill(A, 64 * PAGE, WORD, 1).check()
    for gpa in range(A, A + 64 * PAGE, 2 * PAGE):
        cpu.make_shared(gpa, PAGE)
    for number in range(64):
        gpa = A + number * PAGE
        if number % 2:
            first = WORD + number * PAGE // 8
            assert cpu.verify(gpa, PAGE, first, 1).check().value == 0
        else:
            assert cpu.store(gpa, number, private=False).ok
            assert any_guest.vm.read_gpa(gpa, 8) == number.to_bytes(8, "little")


@pytest.mark.parametrize("first", [0, 255, 511])
def test_4k_out_of_2m(any_guest: Guest, first: int) -> None:
    """A 4 KiB page made shared out of 2 MiB of private memory leaves all the others."""
    cpu = any_guest.cpu()
    page = B + first * PAGE
    watched = {0, 1, first - 1, first, first + 1, 510, 511} & set(range(512))
    cpu.make_private(B, HUGE)
    for number in watched:
        cpu.fill(B + number * PAGE, PAGE, WORD + number, 1).check()
    cpu.make_shared(page, PAGE)
    cpu.fill(page, PAGE, 7, private=False).check()
    assert any_guest.vm.read_gpa(page, PAGE) == _words(7, PAGE, 0)
    for number in watched - {first}:
        assert cpu.verify(B + number * PAGE, PAGE, WORD + number, 1).check().value == 0
    cpu.make_private(page, PAGE)
    assert cpu.verify(page, PAGE, WORD + first, 1).check().value == 0


def test_random_changes(any_guest: Guest, rng: random.Random) -> None:
    """After any sequence of changes and writes each page holds what was last written to it."""
    cpu = any_guest.cpu()
    cpu.convert(A, 16 * PAGE, private=False)
    held: dict[tuple[int, bool], int] = {}
    private = dict.fromkeys(range(16), False)
    for turn in range(60):
        page = rng.randrange(16)
        gpa = A + page * PAGE
        if rng.random() < 0.6:
            private[page] = not private[page]
            change = cpu.make_private if private[page] else cpu.make_shared
            change(gpa, PAGE)
        key = (page, private[page])
        if key in held:
            assert cpu.load(gpa + 8, private=private[page]).check().value == held[key]
        cpu.store(gpa + 8, turn + 1, private=private[page]).check()
        held[key] = turn + 1
