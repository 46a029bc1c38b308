# SPDX-License-Identifier: GPL-2.0-only
"""Lists of page state changes that are wrong: each is told the guest, and harms nothing."""

from __future__ import annotations

import struct

import pytest

from harness.uapi import ghcb as abi
from harness.uapi.ghcb import VMGEXIT_PSC_ERROR_INVALID_ENTRY, VMGEXIT_PSC_ERROR_INVALID_HDR
from harness.vm import layout
from harness.vm.guest import Guest
from harness.vm.psc import PscEntry, PscOp, PscRequest, encode_list, entries_for
from suites.psc.changing import HUGE, LIST, PAGE, A, B, C, asked, entry, is_private, progress

pytestmark = [
    pytest.mark.patches(15),
    pytest.mark.areas("page state change", "NAE events"),
    pytest.mark.needs("snp"),
]

SHARED, PRIVATE = PscOp.SHARED, PscOp.PRIVATE


def _works(guest: Guest) -> None:
    """A right list works after a wrong one."""
    asked(guest)
    assert guest.cpu().psc([entry(C, SHARED)]).ok
    assert asked(guest) == [PscRequest(C, PAGE, False)]


@pytest.mark.parametrize("end", [253, 254, 0x7FFF, 0xFFFF])
@pytest.mark.parametrize("cur", [0, 252])
def test_end_entry_too_large(guest: Guest, cur: int, end: int) -> None:
    """An end_entry beyond the 253 entries there can be is an invalid header; nothing is done."""
    entries = list(entries_for(A, 253 * PAGE, SHARED))
    result = guest.cpu().psc(entries, header=struct.pack("<HHI", cur, end, 0))
    assert (result.info1, result.info2) == (0, VMGEXIT_PSC_ERROR_INVALID_HDR)
    assert not asked(guest)
    assert progress(guest, 253) == (cur, [0] * 253)
    _works(guest)


@pytest.mark.needs("kernel_walks_psc_lists")
@pytest.mark.parametrize(("cur", "end"), [(1, 0), (253, 252), (0xFFFF, 3)])
def test_nothing_left(guest: Guest, cur: int, end: int) -> None:
    """A cur_entry behind end_entry is a list that is done already."""
    guest.vm.write_gpa(LIST, encode_list([entry(A, SHARED)], cur=cur, end=end))
    result = guest.cpu().vmgexit(abi.SVM_VMGEXIT_PSC, scratch=LIST)
    assert (result.info1, result.info2) == (0, 0)
    assert not asked(guest)
    assert is_private(guest, A)


@pytest.mark.parametrize("offset", [PAGE, HUGE // 2, HUGE - PAGE])
def test_misaligned_2m(guest: Guest, offset: int) -> None:
    """An entry of 2 MiB that is not aligned is invalid; those before it are done."""
    entries = [entry(B, SHARED), entry(A + offset, SHARED, large=True), entry(C, SHARED)]
    result = guest.cpu().psc(entries)
    assert (result.info1, result.info2) == (0, VMGEXIT_PSC_ERROR_INVALID_ENTRY)
    assert asked(guest) == [PscRequest(B, PAGE, False)]
    assert progress(guest, 3) == (1, [1, 0, 0])
    assert is_private(guest, A + offset)
    _works(guest)


@pytest.mark.parametrize(("large", "done"), [(False, 2), (False, 0xFFF), (True, 513)])
def test_cur_page_too_large(guest: Guest, large: bool, done: int) -> None:
    """A cur_page behind its page is an invalid entry."""
    result = guest.cpu().psc([entry(B, SHARED), entry(A, SHARED, large=large, done=done)])
    assert (result.info1, result.info2) == (0, VMGEXIT_PSC_ERROR_INVALID_ENTRY)
    assert asked(guest) == [PscRequest(B, PAGE, False)]
    assert result.cur_entry == 1
    _works(guest)


@pytest.mark.needs("kernel_walks_psc_lists")
@pytest.mark.parametrize("op", [0, 5, 8, 15])
def test_bad_operation_is_passed_over(guest: Guest, op: int) -> None:
    """Entries of an operation that KVM does not know change nothing and count as done."""
    entries = [PscEntry(A >> 12, op), PscEntry(A + PAGE >> 12, op), entry(B, SHARED)]
    assert guest.cpu().psc(entries).ok
    assert asked(guest) == [PscRequest(B, PAGE, False)]
    assert progress(guest, 3) == (3, [1, 1, 1])
    assert is_private(guest, A)


@pytest.mark.needs("userspace_walks_psc_lists")
@pytest.mark.parametrize("op", [0, 5, 8, 15])
def test_bad_operation_is_refused(guest: Guest, op: int) -> None:
    """An operation that userspace does not know is an invalid entry, as it says."""
    result = guest.cpu().psc([entry(B, SHARED), PscEntry(A >> 12, op), entry(C, SHARED)])
    assert (result.info1, result.info2) == (0, VMGEXIT_PSC_ERROR_INVALID_ENTRY)
    assert result.cur_entry == 1
    assert is_private(guest, A)


GHCB = layout.ghcb(0)


@pytest.mark.needs("kernel_walks_psc_lists")
@pytest.mark.parametrize(
    "scratch",
    [
        0,
        GHCB,
        GHCB + 0x7F8,
        GHCB + 0xFF0,
        GHCB + 0xFEC,
        GHCB + 0xFFF,
        GHCB + PAGE + 0x800,
        layout.SHARED_FREE_GPA,
        A,
        (1 << 52) - PAGE,
        (1 << 64) - 8,
    ],
    ids=hex,
)
def test_bad_scratch_area(guest: Guest, scratch: int) -> None:
    """A scratch area that does not lie within the GHCB's shared buffer is malformed input."""
    guest.vm.write_gpa(layout.SHARED_FREE_GPA, encode_list([entry(A, SHARED)]))
    result = guest.cpu().vmgexit(abi.SVM_VMGEXIT_PSC, scratch=scratch)
    assert result.malformed == abi.GHCB_ERR_INVALID_SCRATCH_AREA
    assert not asked(guest)
    _works(guest)


@pytest.mark.needs("kernel_walks_psc_lists")
def test_scratch_area_missing(guest: Guest) -> None:
    """A list whose scratch area is not marked valid lacks an input."""
    guest.vm.write_gpa(LIST, encode_list([entry(A, SHARED)]))
    result = guest.cpu().vmgexit(abi.SVM_VMGEXIT_PSC)
    assert result.malformed == abi.GHCB_ERR_MISSING_INPUT
    assert not asked(guest)
    _works(guest)


@pytest.mark.needs("kernel_walks_psc_lists")
@pytest.mark.parametrize("room", [0, 1, 10])
def test_list_late_in_the_buffer(guest: Guest, room: int) -> None:
    """A list that begins late in the buffer may have as many entries as fit, and no more."""
    scratch = GHCB + 0xFF0 - 8 - 8 * room
    if room:
        guest.vm.write_gpa(scratch, encode_list(list(entries_for(A, room * PAGE, SHARED))))
        result = guest.cpu().vmgexit(abi.SVM_VMGEXIT_PSC, scratch=scratch)
        assert (result.info1, result.info2) == (0, 0)
        assert asked(guest) == [PscRequest(A, room * PAGE, False)]
    guest.vm.write_gpa(scratch, struct.pack("<HHI", 0, room, 0))
    result = guest.cpu().vmgexit(abi.SVM_VMGEXIT_PSC, scratch=scratch)
    assert (result.info1, result.info2) == (0, VMGEXIT_PSC_ERROR_INVALID_HDR)
    assert not asked(guest)
