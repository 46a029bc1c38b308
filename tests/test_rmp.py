# SPDX-License-Identifier: GPL-2.0-only
"""The RMP: layout, every rule of the instructions and of the access checks, bulk paths.

Rules are those of the AMD64 APM, vol. 2, 15.36 and the instruction pages of vol. 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from harness.emulator.memory import PAGE_SIZE, PAGE_SIZE_2M, PhysicalMemory
from harness.emulator.rmp import (
    PageNotValidated,
    PageSize,
    PageState,
    Rmp,
    RmpCode,
    RmpEntry,
    RmpFault,
)

K4, M2 = PageSize.PG_4K, PageSize.PG_2M
PAGES = 512 * 6 - 100
BASE = 0x40_2000
"""The table lies within what it covers, and covers no whole number of 2 MiB regions."""

HUGE = 0x80_0000
PAGE = HUGE + 0x5000
GPA, ASID = 0x1_2340_0000, 0x155
SHIFT = GPA - HUGE
"""What to add to an SPA of the guest's pages for its GPA."""


@pytest.fixture(params=["numpy", "c"])
def rmp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rmp]:
    monkeypatch.setenv("SNPTEST_RMP", request.param)
    memory = PhysicalMemory(PAGES * PAGE_SIZE)
    table = Rmp(memory, BASE, PAGES)
    assert table.bulk.name == request.param
    yield table
    memory.close()


def assign(rmp: Rmp, spa: int = PAGE, size: PageSize = K4, **fields: Any) -> None:
    fields = {"gpa": spa + SHIFT, "asid": ASID, **fields}
    assert rmp.rmpupdate(spa, assigned=True, size=size, **fields) == RmpCode.SUCCESS


def validate(rmp: Rmp, spa: int = PAGE, size: PageSize = K4) -> None:
    result = rmp.pvalidate(spa, spa + SHIFT, ASID, size=size, validate=True, npt_size=size)
    assert result == (RmpCode.SUCCESS, False)


def access(rmp: Rmp, spa: int = PAGE, **how: Any) -> None:
    gpa, asid = how.pop("gpa", spa + SHIFT), how.pop("asid", ASID)
    fields = {"private": True, "write": False, "execute": False, "user": False, **how}
    rmp.check_guest(spa, gpa, asid, **fields)


def raw(rmp: Rmp, spa: int) -> tuple[int, int]:
    entry = BASE + 0x4000 + (spa >> 12) * 16
    return rmp.memory.read_u64(entry), rmp.memory.read_u64(entry + 8)


def image(rmp: Rmp) -> bytes:
    return rmp.memory.read(rmp.first, PAGES * 16)


# -- layout --------------------------------------------------------------------------------


def test_an_entry_has_the_bytes_of_struct_rmpentry(rmp: Rmp) -> None:
    """assigned:1 pagesize:1 immutable:1 rsvd:9 gpa:39 asid:10 vmsa:1 validated:1 rsvd:1."""
    rmp.write_entry(PAGE, RmpEntry(True, K4, True, 0x1234_5000, 3, True, True, (15, 1, 2, 3)))
    expected = bytes.fromhex("05 50 34 12 00 00 18 60  0f 01 02 03 00 00 00 00")
    assert rmp.memory.read(BASE + 0x4000 + 0x805 * 16, 16) == expected


def test_the_largest_fields_fit(rmp: Rmp) -> None:
    entry = RmpEntry(True, K4, False, (1 << 51) - 4096, 1023, False, False, (0, 0, 0, 0))
    rmp.write_entry(PAGE, entry)
    assert raw(rmp, PAGE) == (0x1FFF_FFFF_FFFF_F001, 0)
    assert rmp.entry(PAGE) == entry


def test_rmpupdate_writes_owner_and_full_permissions_for_vmpl0_only(rmp: Rmp) -> None:
    assign(rmp)
    assert raw(rmp, PAGE) == (0x1 | (GPA + 0x5000) | 0x155 << 51, 0xF)
    assert rmp.entry(PAGE) == RmpEntry(True, K4, False, GPA + 0x5000, ASID, perms=(15, 0, 0, 0))


def test_numpy_views_are_the_table(rmp: Rmp) -> None:
    assign(rmp)
    assert (int(rmp.lo[PAGE >> 12]), int(rmp.hi[PAGE >> 12])) == raw(rmp, PAGE)


def test_a_2m_entry_marks_the_511_behind_it_as_assigned_only(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2)
    assert raw(rmp, HUGE) == (0x3 | GPA | 0x155 << 51, 0xF)
    assert {raw(rmp, HUGE + i * PAGE_SIZE) for i in range(1, 512)} == {(1, 0)}
    assert raw(rmp, HUGE + PAGE_SIZE_2M) == (0, 0)
    assert rmp.effective(HUGE + 0x1F_F000) == rmp.entry(HUGE)


def test_pages_beyond_the_table_are_the_hypervisors(rmp: Rmp) -> None:
    beyond = PAGES * PAGE_SIZE
    assert rmp.entry(beyond) == rmp.effective(beyond) == rmp.rmpread(beyond) == RmpEntry()
    assert not rmp.covers(beyond)
    assert rmp.check_host_write(beyond)
    with pytest.raises(RmpFault):
        access(rmp, beyond)
    access(rmp, beyond, private=False, write=True)


@pytest.mark.parametrize(
    ("state", "entry"),
    [
        (PageState.HYPERVISOR, RmpEntry()),
        (PageState.HV_FIXED, RmpEntry(immutable=True)),
        (PageState.RECLAIM, RmpEntry(assigned=True)),
        (PageState.FIRMWARE, RmpEntry(assigned=True, immutable=True)),
        (PageState.CONTEXT, RmpEntry(assigned=True, immutable=True, vmsa=True)),
        (PageState.METADATA, RmpEntry(assigned=True, immutable=True, gpa=0x1000)),
        (PageState.PRE_GUEST, RmpEntry(assigned=True, immutable=True, asid=1, gpa=0x1000)),
        (PageState.PRE_SWAP, RmpEntry(assigned=True, immutable=True, asid=1, validated=True)),
        (PageState.GUEST_INVALID, RmpEntry(assigned=True, asid=1, vmsa=True)),
        (PageState.GUEST_VALID, RmpEntry(assigned=True, asid=1, validated=True)),
    ],
)
def test_page_states(rmp: Rmp, state: PageState, entry: RmpEntry) -> None:
    rmp.write_entry(PAGE, entry)
    assert rmp.entry(PAGE) == entry
    assert rmp.state_of(PAGE) == state


def test_fill_range_lets_the_gpa_rise_for_guests_only(rmp: Rmp) -> None:
    rmp.fill_range(PAGE, 3, RmpEntry(assigned=True, asid=2, gpa=0x7000))
    rmp.fill_range(PAGE + 0x3000, 2, RmpEntry(immutable=True))
    entries = [rmp.entry(PAGE + i * PAGE_SIZE) for i in range(6)]
    assert [entry.gpa for entry in entries] == [0x7000, 0x8000, 0x9000, 0, 0, 0]
    assert [entry.immutable for entry in entries] == [False, False, False, True, True, False]


def test_reset_gives_every_page_to_the_hypervisor(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2)
    rmp.reset()
    assert not any(image(rmp))


def test_assigned_pages_counts_4k_pages_per_owner(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2)
    assign(rmp, HUGE + PAGE_SIZE_2M, asid=9)
    rmp.rmpupdate(0x1000, assigned=True, immutable=True)
    assert [rmp.assigned_pages(n) for n in (None, ASID, 9, 8, 0)] == [513, 512, 1, 0, 1]


# -- RMPUPDATE -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "update",
    [
        {"spa": PAGES * PAGE_SIZE, "assigned": True},
        {"spa": HUGE + 0x1000, "assigned": True, "size": M2},
        {"spa": PAGES * PAGE_SIZE & ~0x1FFFFF, "assigned": True, "size": M2},
        {"spa": HUGE, "assigned": True, "size": M2, "gpa": 0x1000, "asid": 1},
        {"spa": PAGE, "assigned": False, "asid": 1},
        {"spa": PAGE, "assigned": False, "immutable": True},
        {"spa": PAGE, "assigned": True, "asid": 1024},
        {"spa": PAGE, "assigned": True, "asid": 1, "gpa": 1 << 51},
    ],
)
def test_rmpupdate_refuses_bad_input(rmp: Rmp, update: dict[str, Any]) -> None:
    assert rmp.rmpupdate(**update) == RmpCode.FAIL_INPUT
    assert not any(image(rmp))


@pytest.mark.parametrize("size", [K4, M2])
def test_rmpupdate_of_an_immutable_page_is_refused(rmp: Rmp, size: PageSize) -> None:
    assign(rmp, HUGE, size, immutable=True)
    before = image(rmp)
    assert rmp.rmpupdate(HUGE, assigned=False, size=size) == RmpCode.FAIL_PERMISSION
    assert image(rmp) == before


def test_rmpupdate_of_a_2m_page_with_an_immutable_part_is_refused(rmp: Rmp) -> None:
    rmp.write_entry(PAGE, RmpEntry(immutable=True))
    assert rmp.rmpupdate(HUGE, assigned=True, size=M2) == RmpCode.FAIL_PERMISSION


def test_rmpupdate_of_the_tables_own_pages_is_refused(rmp: Rmp) -> None:
    own = range(BASE, rmp.end, PAGE_SIZE)
    assert {rmp.rmpupdate(spa, assigned=True) for spa in own} == {RmpCode.FAIL_PERMISSION}
    assert rmp.rmpupdate(BASE - PAGE_SIZE, assigned=True) == RmpCode.SUCCESS
    assert rmp.rmpupdate(BASE & ~0x1FFFFF, assigned=False, size=M2) == RmpCode.FAIL_PERMISSION


@pytest.mark.parametrize("offset", [0, 0x1000, 0x1F_F000])
@pytest.mark.parametrize("assigned", [False, True])
def test_rmpupdate_of_4k_within_2m_overlaps(rmp: Rmp, offset: int, assigned: bool) -> None:
    assign(rmp, HUGE, M2)
    before = image(rmp)
    assert rmp.rmpupdate(HUGE + offset, assigned=assigned) == RmpCode.FAIL_OVERLAP
    assert image(rmp) == before


@pytest.mark.parametrize("offset", [0, 0x1000, 0x1F_F000])
@pytest.mark.parametrize("assigned", [False, True])
def test_rmpupdate_of_2m_over_4k_overlaps(rmp: Rmp, offset: int, assigned: bool) -> None:
    assign(rmp, HUGE + offset)
    before = image(rmp)
    assert rmp.rmpupdate(HUGE, assigned=assigned, size=M2) == RmpCode.FAIL_OVERLAP
    assert image(rmp) == before


@pytest.mark.parametrize("size", [K4, M2])
def test_rmpupdate_makes_a_reassigned_page_unvalidated(rmp: Rmp, size: PageSize) -> None:
    assign(rmp, HUGE, size)
    validate(rmp, HUGE, size)
    rmp.rmpadjust(
        HUGE, GPA, ASID, size=size, target_vmpl=1, perms=3, vmsa=True, current_vmpl=0, npt_size=size
    )
    assert rmp.entry(HUGE) == RmpEntry(True, size, False, GPA, ASID, True, True, (15, 3, 0, 0))
    assign(rmp, HUGE, size)
    assert rmp.entry(HUGE) == RmpEntry(True, size, False, GPA, ASID, perms=(15, 0, 0, 0))


@pytest.mark.parametrize("size", [K4, M2])
def test_rmpupdate_takes_a_page_back(rmp: Rmp, size: PageSize) -> None:
    assign(rmp, HUGE, size)
    assert rmp.rmpupdate(HUGE, assigned=False, size=size) == RmpCode.SUCCESS
    assert not any(image(rmp))


def test_rmpupdate_and_psmash_of_a_page_in_use_are_refused(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2)
    assign(rmp, HUGE + PAGE_SIZE_2M)
    rmp.in_use |= {PAGE >> 12, (HUGE + PAGE_SIZE_2M) >> 12}
    assert rmp.psmash(HUGE) == RmpCode.FAIL_INUSE
    assert rmp.rmpupdate(HUGE, assigned=False, size=M2) == RmpCode.FAIL_INUSE
    assert rmp.rmpupdate(HUGE + PAGE_SIZE_2M, assigned=False) == RmpCode.FAIL_INUSE
    rmp.in_use.clear()
    assert rmp.psmash(HUGE) == RmpCode.SUCCESS


# -- PSMASH --------------------------------------------------------------------------------


def test_psmash_copies_all_but_size_and_gpa(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2)
    validate(rmp, HUGE, M2)
    head = rmp.entry(HUGE)
    assert rmp.psmash(HUGE) == RmpCode.SUCCESS
    for i in (0, 1, 255, 511):
        spa = HUGE + i * PAGE_SIZE
        assert rmp.entry(spa) == replace(head, size=K4, gpa=GPA + i * PAGE_SIZE)
        access(rmp, spa)
    assert raw(rmp, HUGE + PAGE_SIZE_2M) == raw(rmp, HUGE - PAGE_SIZE) == (0, 0)


def test_psmash_wants_an_aligned_covered_assigned_2m_page(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2)
    assign(rmp, HUGE + PAGE_SIZE_2M)
    for spa in (HUGE + 0x1000, HUGE + PAGE_SIZE_2M, 0, PAGES * PAGE_SIZE & ~0x1FFFFF, 1 << 40):
        assert rmp.psmash(spa) == RmpCode.FAIL_INPUT


def test_psmash_of_an_immutable_page_is_refused(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2, immutable=True)
    assert rmp.psmash(HUGE) == RmpCode.FAIL_PERMISSION


# -- PVALIDATE -----------------------------------------------------------------------------


def test_pvalidate_sets_carry_when_nothing_changes(rmp: Rmp) -> None:
    assign(rmp)
    for wanted, carry in ((False, True), (True, False), (True, True), (False, False)):
        result = rmp.pvalidate(PAGE, PAGE + SHIFT, ASID, size=K4, validate=wanted)
        assert result == (RmpCode.SUCCESS, carry)
        assert rmp.entry(PAGE).validated is wanted


def test_pvalidate_of_2m_over_4k_is_a_size_mismatch(rmp: Rmp) -> None:
    assign(rmp, HUGE)
    result = rmp.pvalidate(HUGE, GPA, ASID, size=M2, validate=True, npt_size=M2)
    assert result == (RmpCode.FAIL_SIZEMISMATCH, False)
    assert not rmp.entry(HUGE).validated


def test_pvalidate_of_2m_mapped_by_4k_is_a_size_mismatch(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2)
    result = rmp.pvalidate(HUGE, GPA, ASID, size=M2, validate=True, npt_size=K4)
    assert result == (RmpCode.FAIL_SIZEMISMATCH, False)


def test_pvalidate_of_4k_within_2m_faults_with_sizem(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2)
    with pytest.raises(RmpFault) as caught:
        rmp.pvalidate(PAGE, PAGE + SHIFT, ASID, size=K4, validate=True, npt_size=M2)
    assert caught.value.bits == 1 << 31 | 1 << 34 | 1 << 35
    assert rmp.psmash(HUGE) == RmpCode.SUCCESS
    validate(rmp)


def test_pvalidate_of_a_misaligned_2m_gpa_is_bad_input(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2)
    result = rmp.pvalidate(PAGE, PAGE + SHIFT, ASID, size=M2, validate=True, npt_size=M2)
    assert result == (RmpCode.FAIL_INPUT, False)


def test_pvalidate_is_for_vmpl0(rmp: Rmp) -> None:
    assign(rmp)
    result = rmp.pvalidate(PAGE, PAGE + SHIFT, ASID, size=K4, validate=True, current_vmpl=1)
    assert result == (RmpCode.FAIL_PERMISSION, False)


@pytest.mark.parametrize("wrong", [{"asid": 3}, {"asid": 0}, {"gpa": 0x7000}, {"immutable": True}])
def test_pvalidate_of_a_page_not_the_guests_faults(rmp: Rmp, wrong: dict[str, Any]) -> None:
    assign(rmp, **wrong)
    with pytest.raises(RmpFault) as caught:
        rmp.pvalidate(PAGE, PAGE + SHIFT, ASID, size=K4, validate=True)
    assert caught.value.bits == 1 << 31 | 1 << 34
    assert (caught.value.spa, caught.value.gpa) == (PAGE, PAGE + SHIFT)
    assert not rmp.entry(PAGE).validated


# -- RMPADJUST, RMPQUERY -------------------------------------------------------------------


def adjust(rmp: Rmp, spa: int = PAGE, size: PageSize = K4, **fields: Any) -> RmpCode:
    fields = {"target_vmpl": 1, "perms": 0, "vmsa": False, "current_vmpl": 0, **fields}
    return rmp.rmpadjust(spa, spa + SHIFT, ASID, size=size, npt_size=size, **fields)


@pytest.fixture
def valid(rmp: Rmp) -> Rmp:
    """A validated page of the guest."""
    assign(rmp)
    validate(rmp)
    return rmp


def test_rmpadjust_sets_the_target_only(valid: Rmp) -> None:
    assert adjust(valid, target_vmpl=2, perms=0b0111) == RmpCode.SUCCESS
    assert adjust(valid, target_vmpl=3, perms=0b1000) == RmpCode.SUCCESS
    assert adjust(valid, target_vmpl=2, perms=0b0001) == RmpCode.SUCCESS
    assert valid.entry(PAGE).perms == (15, 0, 1, 8)


@pytest.mark.parametrize("fields", [{"target_vmpl": 4}, {"target_vmpl": 200}, {"perms": 0x20}])
def test_rmpadjust_refuses_bad_input(valid: Rmp, fields: dict[str, Any]) -> None:
    assert adjust(valid, **fields) == RmpCode.FAIL_INPUT


@pytest.mark.parametrize(("current", "target"), [(0, 0), (1, 0), (1, 1), (2, 1), (3, 3)])
def test_rmpadjust_wants_a_less_privileged_target(valid: Rmp, current: int, target: int) -> None:
    assert adjust(valid, target_vmpl=target, current_vmpl=current) == RmpCode.FAIL_PERMISSION


def test_rmpadjust_grants_no_more_than_the_caller_has(valid: Rmp) -> None:
    assert adjust(valid, target_vmpl=1, perms=0b0101) == RmpCode.SUCCESS
    assert adjust(valid, target_vmpl=2, perms=0b0011, current_vmpl=1) == RmpCode.FAIL_PERMISSION
    assert adjust(valid, target_vmpl=2, perms=0b0001, current_vmpl=1) == RmpCode.SUCCESS
    assert valid.entry(PAGE).perms == (15, 5, 1, 0)


def test_rmpadjust_changes_the_vmsa_bit_at_vmpl0_only(valid: Rmp) -> None:
    assert adjust(valid, vmsa=True, perms=15) == RmpCode.SUCCESS
    assert valid.entry(PAGE).vmsa
    assert adjust(valid, target_vmpl=2, vmsa=False, current_vmpl=1) == RmpCode.SUCCESS
    assert valid.entry(PAGE).vmsa
    assert adjust(valid, vmsa=False) == RmpCode.SUCCESS
    assert not valid.entry(PAGE).vmsa


def test_rmpadjust_of_a_vmsa_in_use_is_refused(valid: Rmp) -> None:
    valid.in_use.add(PAGE >> 12)
    assert adjust(valid, vmsa=True) == RmpCode.FAIL_INUSE


def test_rmpadjust_of_a_page_not_validated_is_a_vc(rmp: Rmp) -> None:
    assign(rmp)
    with pytest.raises(PageNotValidated) as caught:
        adjust(rmp)
    assert caught.value.gpa == PAGE + SHIFT


def test_rmpadjust_checks_sizes_as_pvalidate_does(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2)
    validate(rmp, HUGE, M2)
    with pytest.raises(RmpFault) as caught:
        adjust(rmp)
    assert caught.value.bits & RmpFault.SIZEM
    assert adjust(rmp, HUGE, M2, perms=1) == RmpCode.SUCCESS
    assert rmp.entry(HUGE).perms == (15, 1, 0, 0)
    rmp.psmash(HUGE)
    assert adjust(rmp, HUGE, M2) == RmpCode.FAIL_SIZEMISMATCH


def test_rmpquery_tells_permissions_and_size(valid: Rmp) -> None:
    adjust(valid, target_vmpl=2, perms=5)
    query = {"spa": PAGE, "gpa": PAGE + SHIFT, "asid": ASID}
    assert valid.rmpquery(**query, current_vmpl=0, target_vmpl=2) == (RmpCode.SUCCESS, 5, K4)
    result = valid.rmpquery(**query, current_vmpl=2, target_vmpl=2)
    assert result[0] == RmpCode.FAIL_PERMISSION
    assert valid.rmpquery(**query, current_vmpl=0, target_vmpl=4)[0] == RmpCode.FAIL_INPUT


# -- accesses by guests --------------------------------------------------------------------


def test_a_guest_may_use_its_validated_page(valid: Rmp) -> None:
    for write, execute, user in ((False, False, False), (True, False, True), (False, True, True)):
        access(valid, write=write, execute=execute, user=user)


def test_private_access_to_an_unvalidated_page_is_a_vc(rmp: Rmp) -> None:
    assign(rmp)
    with pytest.raises(PageNotValidated):
        access(rmp)


@pytest.mark.parametrize(
    "how", [{"asid": 3}, {"gpa": 0x7000}, {"asid": 0}, {"gpa": PAGE + SHIFT + (1 << 51)}]
)
def test_private_access_to_a_page_of_others_faults(valid: Rmp, how: dict[str, int]) -> None:
    with pytest.raises(RmpFault) as caught:
        access(valid, **how)
    assert caught.value.bits == 1 << 31 | 1 << 34


def test_private_access_to_an_unassigned_page_faults(rmp: Rmp) -> None:
    with pytest.raises(RmpFault) as caught:
        access(rmp)
    assert caught.value.bits == 1 << 31 | 1 << 34


def test_private_access_to_an_immutable_page_faults(rmp: Rmp) -> None:
    entry = RmpEntry(True, K4, True, PAGE + SHIFT, ASID, False, True, (15, 0, 0, 0))
    rmp.write_entry(PAGE, entry)
    with pytest.raises(RmpFault):
        access(rmp)


def test_sizes_of_rmp_and_nested_page_must_agree_before_validation_matters(rmp: Rmp) -> None:
    """SIZEM stays clear: it tells of PVALIDATE and RMPADJUST only (15.36.10)."""
    assign(rmp, HUGE, M2)
    with pytest.raises(RmpFault) as caught:
        access(rmp)
    assert caught.value.bits == 1 << 31 | 1 << 34
    validate(rmp, HUGE, M2)
    access(rmp, npt_size=M2)
    rmp.psmash(HUGE)
    with pytest.raises(RmpFault):
        access(rmp, npt_size=M2)


def test_the_gpa_within_a_2m_page_must_match(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2)
    validate(rmp, HUGE, M2)
    access(rmp, HUGE + 0x1F_F000, npt_size=M2)
    for gpa in (PAGE + SHIFT + 0x1000, PAGE + SHIFT + PAGE_SIZE_2M):
        with pytest.raises(RmpFault):
            access(rmp, npt_size=M2, gpa=gpa)


@pytest.mark.parametrize("size", [K4, M2])
def test_shared_writes_to_assigned_pages_fault_and_reads_do_not(rmp: Rmp, size: PageSize) -> None:
    assign(rmp, HUGE, size)
    access(rmp, HUGE, private=False)
    with pytest.raises(RmpFault) as caught:
        access(rmp, HUGE, private=False, write=True)
    assert caught.value.bits == 1 << 31
    access(rmp, 0x1000, private=False, write=True)


def test_a_shared_2m_write_needs_all_512_pages(rmp: Rmp) -> None:
    access(rmp, HUGE, private=False, write=True, npt_size=M2)
    assign(rmp, HUGE + 0x1F_F000)
    with pytest.raises(RmpFault):
        access(rmp, HUGE, private=False, write=True, npt_size=M2)


READ, WRITE, FETCH_USER, FETCH = (
    {"write": False},
    {"write": True},
    {"execute": True, "user": True},
    {"execute": True},
)


@pytest.mark.parametrize(
    ("perms", "allowed"),
    [
        (0b0000, []),
        (0b0001, [READ]),
        (0b0010, []),  # Write without Read is illegal and refuses all data accesses
        (0b0011, [READ, WRITE]),
        (0b0100, [FETCH_USER]),
        (0b1000, [FETCH]),
        (0b1111, [READ, WRITE, FETCH_USER, FETCH]),
    ],
)
def test_vmpl_permissions(valid: Rmp, perms: int, allowed: list[dict[str, bool]]) -> None:
    adjust(valid, target_vmpl=2, perms=perms)
    for how in (READ, WRITE, FETCH_USER, FETCH):
        access(valid, **how)  # VMPL0 is never asked
        if how in allowed:
            access(valid, vmpl=2, **how)
            continue
        with pytest.raises(RmpFault) as caught:
            access(valid, vmpl=2, **how)
        assert caught.value.bits == 1 << 31 | 1 << 34 | 1 << 36


# -- writes by the host --------------------------------------------------------------------


def test_the_host_writes_only_what_is_unassigned(rmp: Rmp) -> None:
    assign(rmp)
    rmp.rmpupdate(0x1000, assigned=True, immutable=True)
    assert [rmp.check_host_write(spa) for spa in (PAGE, 0x1000, PAGE + 0x1000)] == [
        False,
        False,
        True,
    ]


def test_the_host_may_write_hv_fixed_pages(rmp: Rmp) -> None:
    """The check is Hypervisor-Owned, which looks at Assigned alone (15.36.10)."""
    rmp.write_entry(PAGE, RmpEntry(immutable=True))
    assert rmp.check_host_write(PAGE)


def test_a_2m_host_write_needs_all_512_pages(rmp: Rmp) -> None:
    assert rmp.check_host_write(HUGE, M2)
    assign(rmp, HUGE + 0x1F_F000)
    assert not rmp.check_host_write(HUGE, M2)
    assert rmp.check_host_write(HUGE)


def test_every_part_of_an_assigned_2m_page_refuses_the_host(rmp: Rmp) -> None:
    assign(rmp, HUGE, M2)
    assert not any(rmp.check_host_write(HUGE + i * PAGE_SIZE) for i in range(512))


def test_the_host_may_not_write_the_table(rmp: Rmp) -> None:
    own = range(BASE, rmp.end, PAGE_SIZE)
    assert not any(rmp.check_host_write(spa) for spa in own)
    assert not rmp.check_host_write(BASE & ~0x1FFFFF, M2)
    assert rmp.check_host_write(BASE - PAGE_SIZE)
    with pytest.raises(RmpFault):
        access(rmp, BASE, private=False, write=True)
