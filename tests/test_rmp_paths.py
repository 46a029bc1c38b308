# SPDX-License-Identifier: GPL-2.0-only
"""The ways through the RMP agree: numpy, C, and one instruction after the other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from harness.emulator import rmp_fast
from harness.emulator.memory import PAGE_SIZE, PhysicalMemory
from harness.emulator.rmp import PageSize, Rmp, RmpCode, RmpEntry, RmpFault
from harness.emulator.rmp_bulk import BLOCK, NumpyBulk
from harness.emulator.rmp_entry import GPA_LIMIT

K4, M2 = PageSize.PG_4K, PageSize.PG_2M
REGIONS = 5
PAGES = 512 * REGIONS - 60
BASE = 512 * 2 * PAGE_SIZE
"""The table's own pages lie within what it covers."""


class SingleSteps(Rmp):
    """The meaning of a range: the single instruction, page by page."""

    def rmpupdate_range(
        self,
        spa: int,
        npages: int,
        *,
        assigned: bool,
        gpa: int = 0,
        asid: int = 0,
        immutable: bool = False,
    ) -> tuple[RmpCode, int]:
        for done in range(npages):
            offset = done * PAGE_SIZE
            rise = offset if assigned and asid else 0
            code = self.rmpupdate(
                spa + offset, assigned=assigned, gpa=gpa + rise, asid=asid, immutable=immutable
            )
            if code != RmpCode.SUCCESS:
                return code, done
        return RmpCode.SUCCESS, npages

    def pvalidate_range(
        self, spa: int, npages: int, gpa: int, asid: int, *, validate: bool
    ) -> tuple[RmpCode, int, int]:
        changed = 0
        for done in range(npages):
            at = done * PAGE_SIZE
            code, same = self.pvalidate(spa + at, gpa + at, asid, size=K4, validate=validate)
            if code != RmpCode.SUCCESS:
                return code, done, changed
            changed += not same
        return RmpCode.SUCCESS, npages, changed

    def assigned_pages(self, asid: int | None = None) -> int:
        count = 0
        for pfn in range(self.pages):
            entry = self.effective(pfn << 12)
            mine = entry.asid > 0 if asid is None else entry.asid == asid
            count += entry.assigned and mine
        return count


def build(kind: str) -> Rmp:
    memory = PhysicalMemory(PAGES * PAGE_SIZE)
    if kind == "single":
        return SingleSteps(memory, BASE, PAGES)
    rmp = Rmp(memory, BASE, PAGES)
    rmp.bulk = NumpyBulk(rmp.table) if kind == "numpy" else rmp_fast.CBulk(rmp.table)
    return rmp


def outcome(act: Callable[[Rmp], Any], rmp: Rmp) -> Any:
    try:
        return act(rmp)
    except RmpFault as fault:
        return ("fault", fault.bits, fault.spa, fault.gpa)


pfns = st.one_of(
    st.integers(0, PAGES + 2),
    st.sampled_from([512 * region + near for region in range(REGIONS) for near in (-1, 0, 1)]),
)
counts = st.one_of(st.integers(0, 12), st.integers(500, 524), st.integers(0, 1100))
asids = st.sampled_from([0, 1, 2, 1023])
shifts = st.sampled_from([0, 512, 3, (GPA_LIMIT >> 12) - 1600])
"""GFN - PFN: page for page, with 2 MiB alignment kept or not, and near the last GPA."""


class Paths(RuleBasedStateMachine):
    """One random sequence on three tables."""

    @initialize()
    def start(self) -> None:
        kinds = ["single", "numpy"] + (["c"] if shutil.which("gcc") else [])
        self.tables = [build(kind) for kind in kinds]
        self.last = (0, 0, 0, 1)
        """What was assigned last: PFN, count, GFN - PFN, ASID; so that much succeeds."""

    def teardown(self) -> None:
        for table in self.tables:
            table.memory.close()

    def same(self, act: Callable[[Rmp], Any]) -> None:
        results = [outcome(act, table) for table in self.tables]
        assert all(result == results[0] for result in results), results

    @rule(
        pfn=pfns, count=counts, assigned=st.booleans(), shift=shifts, asid=asids, lock=st.booleans()
    )
    def update_range(
        self, pfn: int, count: int, assigned: bool, shift: int, asid: int, lock: bool
    ) -> None:
        asid, lock = (asid, lock and count < 5) if assigned else (0, False)
        if assigned and asid and not lock:
            self.last = pfn, count, shift, asid
        self.same(
            lambda rmp: rmp.rmpupdate_range(
                pfn << 12,
                count,
                assigned=assigned,
                gpa=(pfn + shift) << 12,
                asid=asid,
                immutable=lock,
            )
        )

    @rule(region=st.integers(0, REGIONS), assigned=st.booleans(), shift=shifts, asid=asids)
    def update_2m(self, region: int, assigned: bool, shift: int, asid: int) -> None:
        gpa = (region * 512 + shift) << 12
        self.same(
            lambda rmp: rmp.rmpupdate(
                region << 21, assigned=assigned, gpa=gpa, asid=asid if assigned else 0, size=M2
            )
        )

    @rule(region=st.integers(0, REGIONS))
    def smash(self, region: int) -> None:
        self.same(lambda rmp: rmp.psmash(region << 21))

    @rule(pfn=pfns, count=counts, shift=shifts, asid=asids, validate=st.booleans())
    def validate_range(self, pfn: int, count: int, shift: int, asid: int, validate: bool) -> None:
        gpa = (pfn + shift) << 12
        self.same(lambda rmp: rmp.pvalidate_range(pfn << 12, count, gpa, asid, validate=validate))

    @rule(skip=st.integers(0, 520), cut=st.integers(-2, 520), validate=st.booleans())
    def validate_assigned(self, skip: int, cut: int, validate: bool) -> None:
        pfn, count, shift, asid = self.last
        pfn, count = pfn + skip, max(0, count - skip - cut)
        self.validate_range(pfn, count, shift, asid, validate)

    @rule(at=st.integers(0, 1100), vmsa=st.booleans(), immutable=st.booleans())
    def mark(self, at: int, vmsa: bool, immutable: bool) -> None:
        """The firmware marks a page among those assigned."""
        pfn = self.last[0] + at % (self.last[1] + 1)

        def write(rmp: Rmp) -> None:
            entry = rmp.entry(pfn << 12)
            if entry.asid and rmp.effective(pfn << 12).size == K4:
                rmp.write_entry(pfn << 12, replace(entry, vmsa=vmsa, immutable=immutable))

        self.same(write)

    @rule(region=st.integers(0, REGIONS), shift=shifts, asid=asids, validate=st.booleans())
    def validate_2m(self, region: int, shift: int, asid: int, validate: bool) -> None:
        spa, gpa = region << 21, (region * 512 + shift) << 12
        self.same(
            lambda rmp: rmp.pvalidate(spa, gpa, asid, size=M2, validate=validate, npt_size=M2)
        )

    @rule(pfn=st.integers(0, PAGES - 1), shift=shifts, asid=asids, vmsa=st.booleans())
    def firmware_writes(self, pfn: int, shift: int, asid: int, vmsa: bool) -> None:
        """Pages as the firmware leaves them: among them VMSAs and immutable ones."""
        gpa = ((pfn + shift) << 12) % GPA_LIMIT
        entry = RmpEntry(True, K4, not asid, gpa, asid, vmsa, bool(asid))
        if BASE >> 12 <= pfn <= (BASE >> 12) + 16:
            return

        def write(rmp: Rmp) -> None:
            if rmp.effective(pfn << 12).size == K4:
                rmp.write_entry(pfn << 12, entry)

        self.same(write)

    @rule(pfn=st.integers(0, PAGES - 1), use=st.booleans())
    def run_vcpu(self, pfn: int, use: bool) -> None:
        for table in self.tables:
            if use:
                table.in_use.add(pfn)
            else:
                table.in_use.clear()

    @rule(asid=st.sampled_from([None, 0, 1, 2, 1023]))
    def count_pages(self, asid: int | None) -> None:
        self.same(lambda rmp: rmp.assigned_pages(asid))

    @invariant()
    def tables_are_equal(self) -> None:
        images = [bytes(table.memory.view(table.first, PAGES * 16)) for table in self.tables]
        assert all(image == images[0] for image in images)


Paths.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestPaths = Paths.TestCase


@pytest.mark.parametrize("kind", ["numpy", "c"])
@pytest.mark.parametrize("stop", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1])
def test_a_long_range_stops_exactly_at_the_first_refusal(kind: str, stop: int) -> None:
    """Longer than the blocks in which numpy works, and not aligned to anything."""
    pages, first = 4 * BLOCK, 7
    memory = PhysicalMemory((pages + 64) * PAGE_SIZE + (1 << 20))
    rmp = Rmp(memory, (pages + 64) * PAGE_SIZE, pages + 64)
    rmp.bulk = NumpyBulk(rmp.table) if kind == "numpy" else rmp_fast.CBulk(rmp.table)
    rmp.write_entry((first + stop) << 12, RmpEntry(immutable=True))
    done = rmp.rmpupdate_range(first << 12, pages, assigned=True, gpa=0x5000, asid=3)
    assert done == (RmpCode.FAIL_PERMISSION, stop)
    assert rmp.assigned_pages(3) == stop
    with pytest.raises(RmpFault) as caught:
        rmp.pvalidate_range(first << 12, pages, 0x5000, 3, validate=True)
    assert caught.value.spa == (first + stop) << 12
    validated = [rmp.entry((first + i) << 12).validated for i in range(pages)]
    assert validated == [True] * stop + [False] * (pages - stop)
    gpas = [rmp.entry((first + i) << 12).gpa for i in range(stop)]
    assert gpas == [0x5000 + i * PAGE_SIZE for i in range(stop)]
    memory.close()


@pytest.mark.parametrize("kind", ["numpy", "c"])
def test_guest_addresses_beyond_the_last_do_not_match_the_next_asid(kind: str) -> None:
    """GPA and ASID are neighbours in an entry: one must not carry into the other."""
    rmp = build(kind)
    last = GPA_LIMIT - PAGE_SIZE
    assert rmp.rmpupdate(0x1000, assigned=True, gpa=last, asid=1) == RmpCode.SUCCESS
    assert rmp.rmpupdate(0x2000, assigned=True, gpa=0, asid=2) == RmpCode.SUCCESS
    with pytest.raises(RmpFault) as caught:
        rmp.pvalidate_range(0x1000, 2, last, 1, validate=True)
    assert caught.value.spa == 0x2000
    assert [rmp.entry(spa).validated for spa in (0x1000, 0x2000)] == [True, False]
    rmp.memory.close()


@pytest.mark.parametrize("kind", ["numpy", "c"])
@pytest.mark.parametrize("count", [1, 2, 3, 511, 512, 513, 1023, BLOCK + 3])
@pytest.mark.parametrize("odd", [0, 1])
def test_the_last_page_of_a_range_is_looked_at(kind: str, count: int, odd: int) -> None:
    memory = PhysicalMemory(64 << 20)
    rmp = Rmp(memory, 48 << 20, 3 * BLOCK)
    rmp.bulk = NumpyBulk(rmp.table) if kind == "numpy" else rmp_fast.CBulk(rmp.table)
    first = 512 + odd
    last = (first + count - 1) << 12
    done = rmp.rmpupdate_range(first << 12, count, assigned=True, gpa=0x3000, asid=4)
    assert done == (RmpCode.SUCCESS, count)
    rmp.write_entry(last, replace(rmp.entry(last), vmsa=True, validated=True))
    result = rmp.pvalidate_range(first << 12, count, 0x3000, 4, validate=True)
    assert result == (RmpCode.SUCCESS, count, count - 1)
    result = rmp.pvalidate_range(first << 12, count, 0x3000, 4, validate=False)
    assert result == (RmpCode.SUCCESS, count, count)
    assert rmp.entry(last).vmsa
    rmp.write_entry(last, RmpEntry(assigned=True, immutable=True))
    done = rmp.rmpupdate_range(first << 12, count, assigned=False)
    assert done == (RmpCode.FAIL_PERMISSION, count - 1)
    memory.close()


# -- choice of the path --------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """No library loaded, none in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SNPTEST_RMP", raising=False)
    rmp_fast.load.cache_clear()
    yield tmp_path
    rmp_fast.load.cache_clear()


def path_of() -> str:
    memory = PhysicalMemory(1 << 20)
    name = Rmp(memory, 0x8_0000, 64).bulk.name
    memory.close()
    return name


def test_the_library_is_compiled_once_into_the_cache(fresh: Any) -> None:
    assert path_of() == "c"
    (library,) = (fresh / "snptest").iterdir()
    before = library.stat().st_mtime_ns
    rmp_fast.load.cache_clear()
    assert path_of() == "c"
    assert [item.stat().st_mtime_ns for item in (fresh / "snptest").iterdir()] == [before]


def test_without_a_compiler_numpy_does_it(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    assert path_of() == "numpy"
    monkeypatch.setenv("SNPTEST_RMP", "c")
    with pytest.raises(rmp_fast.BuildError, match="no C compiler"):
        path_of()


def test_a_cache_without_exec_leaves_it_to_numpy(
    fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home mounted noexec: the library is there, but cannot be mapped."""
    rmp_fast._build().write_bytes(b"not to be mapped")
    assert path_of() == "numpy"
    monkeypatch.setenv("SNPTEST_RMP", "c")
    with pytest.raises(rmp_fast.BuildError, match="cannot load"):
        path_of()


def test_a_failing_compiler_is_told_when_c_is_forced(
    fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fresh / "broken.c"
    source.write_text("this is not C\n")
    monkeypatch.setattr(rmp_fast, "SOURCE", source)
    assert path_of() == "numpy"
    monkeypatch.setenv("SNPTEST_RMP", "c")
    with pytest.raises(rmp_fast.BuildError, match="error"):
        path_of()


def test_an_unknown_path_is_an_error(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNPTEST_RMP", "fortran")
    with pytest.raises(ValueError, match="fortran"):
        path_of()
