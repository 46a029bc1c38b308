# SPDX-License-Identifier: GPL-2.0-only
"""The main job on seeded regressions: series that break guest_memfd are caught, a good one is not.

Of each bad series in data/ one patch looks innocent and is to blame; the good series is made of
the innocent ones.  They apply to every 6.12 from .107 to .117.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from harness.kbuild.series import load_series
from tests import test_vng
from tests.marks import real
from tests.runs import run

pytestmark = real("builds kernels", 1200)

DATA = Path(__file__).parent / "data"
RUN_TIMEOUT = 900.0
"""Seconds for boot and suite, and for more boots where the broken kernel dies; 60 are usual."""

update = test_vng.update
"""The base of every kernel here: a release and what the next one changed in KVM."""


@dataclass(frozen=True, slots=True)
class Regression:
    """A series that breaks guest_memfd, and who must say so."""

    name: str
    blame: str
    """Text of the subject of the patch that is to blame."""
    caught_by: tuple[str, ...]
    """Tests that must fail, each with some parameters at least."""
    areas: tuple[str, ...]
    """Areas in which there must be failures."""
    spared: tuple[str, ...]
    """Tests of what the series leaves alone, which pass."""


REGRESSIONS = (
    # An exclusive end becomes an inclusive one, and one place is forgotten.
    Regression(
        "hole",
        "the last to invalidate",
        ("test_every_page_of_a_hole", "test_hole_at_the_file_s_offset", "test_hole_is_empty"),
        ("binding", "reclaim"),
        # Of those before the first hole: what the guest keeps writes to freed memory.
        ("test_change_unmaps_only_its_range", "test_many_ranges", "test_file_closed_under_a_slot"),
    ),
    # Private to shared keeps the private mapping: the guest never reaches the shared page.
    Regression(
        "conversion",
        "on each conversion",
        ("test_change_unmaps_only_its_range", "test_conversion_under_a_counter"),
        ("memory attributes", "races"),
        ("test_every_page_of_a_hole", "test_pages_are_different", "test_closed_file_is_unmapped"),
    ),
    # The offset of a slot in its file is or-ed: pages of odd offsets are one page.
    Regression(
        "offset",
        "alignment of bindings",
        ("test_pages_are_different", "test_hole_at_the_file_s_offset"),
        ("binding",),
        ("test_every_page_of_a_hole", "test_conversion_under_a_counter", "test_hole_is_empty"),
    ),
    # The bindings go before what they say is unmapped: the guest keeps pages that were freed.
    Regression(
        "release",
        "of a dying file",
        ("test_closed_file_is_unmapped", "test_file_closed_under_a_slot"),
        ("lifetime", "memory attributes"),
        ("test_every_page_of_a_hole", "test_pages_are_different", "test_bad_size"),
    ),
)
GOOD = "cleanup"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `snptest run gmem` said about a kernel."""

    code: int
    outcomes: dict[str, set[str]]
    """By test, without parameters: the outcomes that it had."""
    bad_areas: set[str]
    """Areas of the tests that failed."""
    text: str

    def having(self, *outcomes: str) -> set[str]:
        """Tests that had one of these outcomes."""
        return {name for name, had in self.outcomes.items() if had & set(outcomes)}


def judged(name: str, update: test_vng.Update, folder: Path) -> Verdict:
    """Build the update and a series on top of it, boot it, run the suite in it."""
    series = folder / "series"
    series.mkdir()
    for patch in (*update.series.iterdir(), *(DATA / f"series-{name}").glob("*.patch")):
        shutil.copy(patch, series)
    kernel = test_vng.built(f"regression-{name}", update.kernel.base, series)
    done = run("gmem", "--kernel", kernel.name, folder=folder, timeout=RUN_TIMEOUT)
    outcomes: dict[str, set[str]] = {}
    areas: set[str] = set()
    for result in done.results:
        test = result["id"].rpartition("::")[2].partition("[")[0]
        outcomes.setdefault(test, set()).add(result["outcome"])
        if result["outcome"] in ("fail", "crash"):
            areas.update(result.get("areas", ()))
    return Verdict(done.code, outcomes, areas, done.text)


@cache
def changes(name: str) -> dict[str, str]:
    """The lines that each patch of a series adds and removes, by the patch's name."""
    found = {}
    for patch in load_series(DATA / f"series-{name}"):
        lines = patch.diff.decode().splitlines()
        kept = [line for line in lines if line[:1] in ("+", "-") and line[:3] not in ("+++", "---")]
        found[patch.name] = "\n".join(kept)
    return found


@pytest.mark.parametrize("regression", REGRESSIONS, ids=lambda each: each.name)
def test_one_patch_is_to_blame(regression: Regression) -> None:
    """All patches of a bad series but one are patches of the good one too."""
    good = set(changes(GOOD).values())
    blamed = [patch for patch, lines in changes(regression.name).items() if lines not in good]
    assert len(blamed) == 1
    [file] = (DATA / f"series-{regression.name}").glob(f"{blamed[0].partition('.patch')[0]}*")
    subject = file.read_text().partition("\n\n")[0].replace("\n ", " ")
    assert regression.blame in subject


@pytest.mark.parametrize("regression", REGRESSIONS, ids=lambda each: each.name)
def test_bad_series_is_caught(
    regression: Regression, update: test_vng.Update, tmp_path: Path
) -> None:
    """A kernel with a regression boots, and the run ends with 1 and failures where they belong."""
    verdict = judged(regression.name, update, tmp_path)
    assert verdict.code == 1, verdict.text
    failed = verdict.having("fail", "crash")
    assert set(regression.caught_by) <= failed, verdict.text
    assert set(regression.areas) <= verdict.bad_areas
    spared = {name for name in regression.spared if verdict.outcomes[name] == {"pass"}}
    assert spared == set(regression.spared), verdict.text
    assert len(verdict.having("pass")) > len(failed), "the kernel is broken altogether"


def test_good_series_is_not_accused(update: test_vng.Update, tmp_path: Path) -> None:
    """A series that only moves code around passes everything that is not skipped."""
    verdict = judged(GOOD, update, tmp_path)
    assert verdict.code == 0, verdict.text
    assert not verdict.having("fail", "crash", "error"), verdict.text
    everything = {name for each in REGRESSIONS for name in (*each.caught_by, *each.spared)}
    assert everything <= verdict.having("pass"), "what catches the bad ones did not run"
