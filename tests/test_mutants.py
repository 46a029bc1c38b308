# SPDX-License-Identifier: GPL-2.0-only
"""The suites can fail: deliberate breakages of the emulator are caught.

Here a selection that takes a minute; `python -m tests.mutants` judges all of them.
"""

from __future__ import annotations

import pytest

from tests.mutants.listing import listing
from tests.mutants.mutant import ROOT, Mutant, all_mutants
from tests.mutants.runner import judge

ALL = all_mutants()
SUITES = ("launch", "psc", "ap_creation", "guest_req", "gmem")
PER_SUITE = 2


def _selection() -> list[Mutant]:
    """The first mutants of each suite, one of a file at most."""
    chosen: list[Mutant] = []
    for suite in SUITES:
        files: set[str] = set()
        for mutant in ALL:
            mine = any(test.startswith(f"suites/{suite}") for test in mutant.tests)
            if mine and mutant.file not in files and len(files) < PER_SUITE:
                files.add(mutant.file)
                chosen.append(mutant)
    return chosen


def test_there_are_enough_mutants() -> None:
    """At least 80 named breakages exist, and every suite has some."""
    assert len(ALL) >= 80
    for suite in SUITES:
        assert any(test.startswith(f"suites/{suite}") for m in ALL for test in m.tests), suite


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_mutant_applies(mutant: Mutant) -> None:
    """Each mutant changes exactly one place of today's source."""
    assert compile(mutant.source(), mutant.file, "exec")


def test_the_page_is_up_to_date() -> None:
    """docs/mutants.md lists the mutants as they are."""
    assert (ROOT / "docs" / "mutants.md").read_text() == listing()


@pytest.mark.parametrize("mutant", _selection(), ids=lambda mutant: mutant.name)
def test_mutant_is_caught(mutant: Mutant) -> None:
    """A suite test fails when this line of the emulator is wrong."""
    verdict = judge(mutant)
    assert verdict.caught, verdict.why
