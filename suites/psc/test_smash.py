# SPDX-License-Identifier: GPL-2.0-only
"""Private pages of 2 MiB that conversions of 4 KiB split: as the RMP then has them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.inspector import Inspector, RmpSize, RmpState
from harness.vm.guest import Guest
from harness.vm.psc import PscOp
from suites.psc.changing import HUGE, PAGE, A, B, C, entry, validate_2m

pytestmark = [
    pytest.mark.patches(15, 16, 22),
    pytest.mark.areas("page state change", "RMP"),
    pytest.mark.needs("snp", "inspector", "gmem_2m"),
]

WORD = 0xFACE
FILLED = 16 * PAGE
SIZE_4K, SIZE_2M = RmpSize.SIZE_4K, RmpSize.SIZE_2M


def _inspector(guest: Guest) -> Inspector:
    inspector = guest.vm.kernel.inspector
    assert inspector is not None
    return inspector


def _rmp(guest: Guest, gpa: int) -> RmpState:
    """Look up the private page of a guest address."""
    return _inspector(guest).gmem_rmp(guest.vm.gmems[0].fd, gpa)


def _is(state: RmpState, gpa: int, *, validated: bool, size: RmpSize = SIZE_4K) -> RmpState:
    """Return the state that the page should have: assigned, at its address."""
    return replace(state, assigned=True, gpa=gpa, validated=validated, size=size, present=True)


@pytest.fixture
def huge(guest: Guest) -> Guest:
    """A guest with a validated page of 2 MiB at A, its beginning filled."""
    validate_2m(guest, A)
    assert guest.cpu().fill(A, FILLED, WORD, 1).ok
    state = _rmp(guest, A)
    assert state == _is(state, A, validated=True, size=SIZE_2M)
    return guest


@pytest.mark.parametrize("number", [0, 1, 300, 511])
def test_rescinding_4k_splits(huge: Guest, number: int) -> None:
    """Rescinding 4 KiB of 2 MiB splits the entry once; the other 511 pages stay validated."""
    gpa = A + number * PAGE
    before = _inspector(huge).counters().get("psmash", 0)
    huge.cpu().make_shared(gpa, PAGE)
    assert _inspector(huge).counters()["psmash"] == before + 1
    state = _rmp(huge, gpa)
    assert state == _is(state, gpa, validated=False)
    for other in {0, 1, 255, 511} - {number}:
        state = _rmp(huge, A + other * PAGE)
        assert state == _is(state, A + other * PAGE, validated=True)
    assert huge.cpu().verify(gpa, PAGE, 0, private=False).check().value == 0


def test_many_4k_split_once(huge: Guest) -> None:
    """However many pages of one 2 MiB entry are converted, it is split only once."""
    before = _inspector(huge).counters().get("psmash", 0)
    huge.cpu().make_shared(A, 128 * PAGE)
    huge.cpu().make_private(A, 128 * PAGE)
    assert _inspector(huge).counters()["psmash"] == before + 1


def test_2m_stays_whole(huge: Guest) -> None:
    """A conversion of all 2 MiB, there and back, splits nothing."""
    before = _inspector(huge).counters().get("psmash", 0)
    huge.cpu().make_shared(A, HUGE, large=True)
    state = _rmp(huge, A)
    assert state == _is(state, A, validated=False, size=SIZE_2M)
    huge.cpu().make_private(A, HUGE, large=True)
    state = _rmp(huge, A)
    assert state == _is(state, A, validated=True, size=SIZE_2M)
    assert _inspector(huge).counters().get("psmash", 0) == before
    assert huge.cpu().verify(A, FILLED, WORD, 1).check().value == 0


def test_host_converts_first(huge: Guest) -> None:
    """After the host shared 4 KiB of a validated 2 MiB page the guest can use all the others."""
    cpu = huge.cpu()
    assert cpu.psc([entry(A + 5 * PAGE, PscOp.SHARED)]).ok
    assert cpu.verify(A, 5 * PAGE, WORD, 1).check().value == 0
    first = WORD + 6 * PAGE // 8
    assert cpu.verify(A + 6 * PAGE, FILLED - 6 * PAGE, first, 1).check().value == 0
    assert cpu.store(A + HUGE - PAGE, 1).ok
    assert cpu.store(A + 5 * PAGE, 1, private=False).ok


@pytest.mark.parametrize("order", ["up", "down"])
def test_every_page_of_2m(guest: Guest, order: str) -> None:
    """Memory that is private only in part is assigned by 4 KiB pages, on their first access."""
    cpu = guest.cpu()
    cpu.convert(B + HUGE - PAGE, PAGE, private=False)
    gpas = [B, B + 7 * PAGE, B + 510 * PAGE]
    for gpa in gpas if order == "up" else gpas[::-1]:
        assert cpu.pvalidate(gpa).check().value == 0
        state = _rmp(guest, gpa)
        assert state == _is(state, gpa, validated=True)
    untouched = _rmp(guest, B + PAGE)
    assert not untouched.assigned, f"RMP of GPA {B + PAGE:#x}: {untouched}; want not assigned"


def test_smash_entries_are_hints(huge: Guest) -> None:
    """SMASH and UNSMASH of a list leave the RMP as it was."""
    entries = [entry(A, PscOp.PSMASH, large=True), entry(A, PscOp.UNSMASH, large=True)]
    assert huge.cpu().psc(entries).ok
    state = _rmp(huge, A)
    assert state == _is(state, A, validated=True, size=SIZE_2M)


def test_mapped_at_2m(guest: Guest) -> None:
    """The first access assigns the whole 2 MiB where all of it is private, not validated."""
    assert guest.cpu().load(C + 9 * PAGE).not_validated
    state = _rmp(guest, C)
    assert state == _is(state, C, validated=False, size=SIZE_2M)
