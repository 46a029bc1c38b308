# SPDX-License-Identifier: GPL-2.0-only
"""Lists of page state changes in the GHCB: what is changed, and how progress is told."""

from __future__ import annotations

import errno
import struct

import pytest

from harness.uapi import ghcb as abi
from harness.uapi import kvm as uapi
from harness.uapi.ghcb import VMGEXIT_PSC_ERROR_GENERIC
from harness.vm.exits import Exit, RunError, VmgexitExit
from harness.vm.guest import Guest, GuestCpu
from harness.vm.psc import MAX_ENTRIES, PscEntry, PscOp, PscRequest, encode_list, entries_for
from suites.psc.changing import (
    BEYOND,
    HUGE,
    LIST,
    PAGE,
    A,
    B,
    C,
    asked,
    changes,
    entry,
    is_private,
    progress,
    refusal,
)

pytestmark = [
    pytest.mark.patches(15),
    pytest.mark.areas("page state change", "NAE events"),
    pytest.mark.needs("snp"),
]

SHARED, PRIVATE = PscOp.SHARED, PscOp.PRIVATE


@pytest.mark.parametrize("large", [False, True], ids=["4K", "2M"])
def test_one_entry(guest: Guest, large: bool) -> None:
    """One entry changes one page of its size, both ways, and is marked as done."""
    size = HUGE if large else PAGE
    for op in (SHARED, PRIVATE):
        assert guest.cpu().psc([entry(A, op, large=large)]).ok
        assert asked(guest) == [PscRequest(A, size, op is PRIVATE, large)]
        assert progress(guest, 1) == (1, [size // PAGE])
        assert is_private(guest, A) == (op is PRIVATE)
        assert is_private(guest, A + size - PAGE) == (op is PRIVATE)
        assert is_private(guest, A + size)


@pytest.mark.parametrize("count", [1, 2, 252, 253])
def test_many_entries(guest: Guest, count: int) -> None:
    """Up to 253 entries are all changed, in one exit of the guest."""
    result = guest.cpu().psc(list(entries_for(A, count * PAGE, SHARED)))
    assert result.ok
    assert result.exits == 1
    assert changes(asked(guest)) == [(A, count * PAGE, False)]
    assert progress(guest, count) == (count, [1] * count)
    assert not is_private(guest, A + (count - 1) * PAGE)
    assert is_private(guest, A + count * PAGE)


def test_mixed_sizes_and_directions(guest: Guest) -> None:
    """A list may mix sizes and directions; each entry is done in its turn."""
    entries = [
        entry(A, SHARED),
        entry(B, SHARED, large=True),
        entry(B, PRIVATE),
        entry(B + PAGE, PRIVATE),
        entry(A, PRIVATE),
        entry(A + 2 * PAGE, SHARED),
    ]
    assert guest.cpu().psc(entries).ok
    assert changes(asked(guest)) == [
        (A, PAGE, False),
        (B, HUGE, False),
        (B, 2 * PAGE, True),
        (A, PAGE, True),
        (A + 2 * PAGE, PAGE, False),
    ]
    assert progress(guest, 6) == (6, [1, 512, 1, 1, 1, 1])
    seen = [is_private(guest, gpa) for gpa in (A, B, B + PAGE, B + 2 * PAGE, A + 2 * PAGE)]
    assert seen == [True, True, True, False, False]


def test_sizes_side_by_side(guest: Guest) -> None:
    """Pages of 2 MiB and of 4 KiB next to each other are asked for with their own size."""
    small = list(entries_for(B, 3 * PAGE, SHARED))
    assert guest.cpu().psc([entry(A, SHARED, large=True), *small]).ok
    requests = asked(guest)
    assert requests[0] == PscRequest(A, HUGE, False, True)
    assert all(not request.large for request in requests[1:])
    assert changes(requests) == [(A, HUGE + 3 * PAGE, False)]


@pytest.mark.parametrize("op", [SHARED, PRIVATE])
def test_range_in_fragments(guest: Guest, op: PscOp) -> None:
    """2 MiB of which pages here and there are shared all become what the entry says."""
    scattered = [entry(A + number * PAGE, SHARED) for number in (0, 2, 5, 511)]
    assert guest.cpu().psc([*scattered, entry(A, op, large=True)]).ok
    seen = {is_private(guest, A + number * PAGE) for number in (0, 1, 2, 3, 5, 6, 510, 511)}
    assert seen == {op is PRIVATE}
    assert is_private(guest, A + HUGE)


@pytest.mark.needs("kernel_walks_psc_lists")
@pytest.mark.parametrize("large", [False, True], ids=["4K", "2M"])
def test_neighbours_are_one_range(guest: Guest, large: bool) -> None:
    """Entries of one size and direction that follow each other are one exit to userspace."""
    size = HUGE if large else PAGE
    count = 3 if large else 100
    assert guest.cpu().psc(list(entries_for(A, count * size, SHARED, large=large))).ok
    assert asked(guest) == [PscRequest(A, count * size, False, large)]


@pytest.mark.needs("kernel_walks_psc_lists")
def test_ranges_end_where_entries_differ(guest: Guest) -> None:
    """A gap, a step back, another direction and progress each end a range."""
    entries = [
        entry(A, SHARED),
        entry(A + 2 * PAGE, SHARED),
        entry(A + PAGE, SHARED),
        entry(A + 2 * PAGE, PRIVATE),
        entry(A + 3 * PAGE, PRIVATE),
        entry(A + 4 * PAGE, PRIVATE, done=1),
        entry(A + 5 * PAGE, PRIVATE),
    ]
    assert guest.cpu().psc(entries).ok
    assert asked(guest) == [
        PscRequest(A, PAGE, False),
        PscRequest(A + 2 * PAGE, PAGE, False),
        PscRequest(A + PAGE, PAGE, False),
        PscRequest(A + 2 * PAGE, 2 * PAGE, True),
        PscRequest(A + 5 * PAGE, PAGE, True),
    ]


@pytest.mark.parametrize("done", [1, 255, 511])
def test_resumes_within_an_entry(guest: Guest, done: int) -> None:
    """An entry of 2 MiB whose cur_page is set goes on there, not at its start."""
    assert guest.cpu().psc([entry(A, SHARED, large=True, done=done)]).ok
    assert changes(asked(guest)) == [(A + done * PAGE, HUGE - done * PAGE, False)]
    assert progress(guest, 1) == (1, [512])
    assert is_private(guest, A + (done - 1) * PAGE)
    assert not is_private(guest, A + done * PAGE)


@pytest.mark.parametrize("large", [False, True], ids=["4K", "2M"])
def test_entries_that_are_done(guest: Guest, large: bool) -> None:
    """Entries whose cur_page says that they are done are passed over."""
    done = entry(A, SHARED, large=large, done=512 if large else 1)
    assert guest.cpu().psc([done, entry(B, SHARED), done]).ok
    assert asked(guest) == [PscRequest(B, PAGE, False)]
    assert is_private(guest, A)


@pytest.mark.parametrize("first", [1, 5, 9])
def test_starts_at_cur_entry(guest: Guest, first: int) -> None:
    """A list is worked off from cur_entry on; what is before it stays."""
    entries = list(entries_for(A, 10 * PAGE, SHARED))
    assert guest.cpu().psc(entries, header=struct.pack("<HHI", first, 9, 0)).ok
    assert changes(asked(guest)) == [(A + first * PAGE, (10 - first) * PAGE, False)]
    assert progress(guest, 10) == (10, [0] * first + [1] * (10 - first))


def test_ends_at_end_entry(guest: Guest) -> None:
    """What is behind end_entry is not looked at."""
    entries: list[PscEntry | int] = [*entries_for(A, 3 * PAGE, SHARED), (1 << 64) - 1]
    assert guest.cpu().psc(entries, header=struct.pack("<HHI", 0, 1, 0)).ok
    assert changes(asked(guest)) == [(A, 2 * PAGE, False)]
    assert progress(guest, 3) == (2, [1, 1, 0])


def test_reserved_bits(guest: Guest) -> None:
    """Reserved bits of the header and of an entry change nothing."""
    raw = entry(A, SHARED).encode() | 0x7F << 57
    assert guest.cpu().psc([raw], header=struct.pack("<HHI", 0, 0, 0xFFFFFFFF)).ok
    assert asked(guest) == [PscRequest(A, PAGE, False)]


@pytest.mark.parametrize("gpa", [1 << 32, 1 << 40 | A, (1 << 52) - PAGE], ids=hex)
@pytest.mark.parametrize("op", [PRIVATE, SHARED], ids=["private", "shared"])
def test_high_addresses(guest: Guest, gpa: int, op: PscOp) -> None:
    """All 52 bits of an address reach userspace."""
    guest.hooks.psc = lambda *_: 0
    assert guest.cpu().psc([entry(gpa, op)]).ok
    assert asked(guest) == [PscRequest(gpa, PAGE, op is PRIVATE)]


def test_beyond_the_slot(guest: Guest) -> None:
    """Userspace decides about pages that no slot covers; its refusal reaches the guest."""
    entries = [entry(A, SHARED), entry(BEYOND, PRIVATE), entry(B, SHARED)]

    def covered(cpu: GuestCpu, request: PscRequest) -> int:
        return guest.convert(request) if request.gpa < BEYOND else refusal(guest)

    guest.hooks.psc = covered
    result = guest.cpu().psc(entries)
    assert (result.info1, result.info2) == (0, VMGEXIT_PSC_ERROR_GENERIC)
    assert [request.gpa for request in asked(guest)] == [A, BEYOND]
    assert progress(guest, 3) == (1, [1, 0, 0])
    guest.hooks.psc = None
    assert guest.cpu().psc(entries[1:2]).ok


@pytest.mark.parametrize("bad", [0, 1, 100, 252])
@pytest.mark.parametrize("large", [False, True], ids=["4K", "2M"])
def test_userspace_fails_in_the_middle(guest: Guest, bad: int, large: bool) -> None:
    """An error of userspace stops the list there, and the guest can go on from that entry."""
    gpas = [A + number % 3 * HUGE if large else A + 2 * number * PAGE for number in range(253)]
    entries = [
        entry(gpa, PRIVATE if large and number // 3 % 2 else SHARED, large=large)
        for number, gpa in enumerate(gpas)
    ]
    size = 512 if large else 1
    count = 0

    def fail_once(cpu: GuestCpu, request: PscRequest) -> int:
        nonlocal count
        pages = request.size // PAGE // size
        count += pages
        return refusal(guest) if count - pages <= bad < count else guest.convert(request)

    guest.hooks.psc = fail_once
    result = guest.cpu().psc(entries)
    assert (result.info1, result.info2) == (0, VMGEXIT_PSC_ERROR_GENERIC)
    current, done = progress(guest, MAX_ENTRIES)
    assert current == result.cur_entry
    assert bad >= current
    assert bad < current + 3
    assert done == [size] * current + [0] * (253 - current)
    guest.hooks.psc = None
    asked(guest)
    again = [PscEntry(e.gfn, e.op, e.large, n) for e, n in zip(entries, done, strict=True)]
    assert guest.cpu().psc(again, header=struct.pack("<HHI", current, 252, 0)).ok
    assert asked(guest)[0].gpa == gpas[current]
    assert progress(guest, MAX_ENTRIES) == (253, [size] * 253)


@pytest.mark.needs("closed_psc_results")
@pytest.mark.parametrize("error", [1, -1, -errno.EINVAL, errno.EAGAIN << 32], ids=hex)
def test_answer_that_kvm_does_not_know(guest: Guest, error: int) -> None:
    """An answer other than 0, EINVAL and EAGAIN fails KVM_RUN with EINVAL, and nothing is done."""
    guest.hooks.psc = lambda cpu, request: error
    data = encode_list([entry(A, SHARED)])
    guest.vm.write_gpa(LIST, data)
    guest.cpu().vmgexit_raw(abi.SVM_VMGEXIT_PSC, scratch=LIST)
    assert guest.cpu().stopped == RunError(errno.EINVAL)
    assert guest.vm.read_gpa(LIST, len(data)) == data


@pytest.mark.parametrize("op", [PscOp.PSMASH, PscOp.UNSMASH], ids=["SMASH", "UNSMASH"])
@pytest.mark.parametrize("count", [1, 100])
def test_smash_and_unsmash(guest: Guest, op: PscOp, count: int) -> None:
    """The hints SMASH and UNSMASH succeed, and change no page."""
    entries = [entry(C, op, large=True), *entries_for(A, count * PAGE, op)]
    result = guest.cpu().psc([*entries, entry(B, SHARED)])
    assert result.ok
    assert asked(guest) == [PscRequest(B, PAGE, False)]
    assert progress(guest, count + 2) == (count + 2, [512, *[1] * (count + 1)])
    assert is_private(guest, A)
    assert is_private(guest, C)


@pytest.mark.needs("kernel_walks_psc_lists")
def test_hypercall_exits_off(guest: Guest) -> None:
    """Without KVM_CAP_EXIT_HYPERCALL a list fails with the generic error and nothing is done."""
    guest.vm.enable_cap(uapi.KVM_CAP_EXIT_HYPERCALL, 0)
    result = guest.cpu().psc([entry(A, SHARED)])
    assert (result.info2, result.cur_entry, result.exits) == (VMGEXIT_PSC_ERROR_GENERIC, 0, 1)
    assert not asked(guest)


@pytest.mark.needs("userspace_walks_psc_lists")
@pytest.mark.parametrize("answer", [0, 1, 1 << 32 | 1, (1 << 64) - 1])
def test_list_goes_to_userspace(guest: Guest, answer: int) -> None:
    """The list's address goes to userspace as the guest gave it, and the answer back to it."""
    seen: list[Exit] = []

    def serve(cpu: GuestCpu, reason: Exit) -> bool:
        if isinstance(reason, VmgexitExit):
            seen.append(reason)
            cpu.vcpu.set_psc_result(answer)
            return True
        return False

    guest.hooks.exit = serve
    before = encode_list([entry(A, SHARED), entry(B, PRIVATE, large=True)])
    guest.vm.write_gpa(LIST, before)
    result = guest.cpu().vmgexit(abi.SVM_VMGEXIT_PSC, scratch=LIST)
    assert (result.info1, result.info2) == (0, answer)
    assert [one.shared_gpa for one in seen if isinstance(one, VmgexitExit)] == [LIST]
    assert guest.vm.read_gpa(LIST, len(before)) == before
