# SPDX-License-Identifier: GPL-2.0-only
"""The tables of docs/faults.md name tests that there are."""

from __future__ import annotations

import re

from tests.mutants.mutant import ROOT

TESTS = ROOT / "tests"
TEXT = (ROOT / "docs/faults.md").read_text()
FAULTS, _, REPORTS = TEXT.partition("\n## Public reports")
ROW = re.compile(r"^\| (.+) \| .+ \| `(test_\w+\.py)::(test_\w+)` \|$", re.MULTILINE)
NAMED = re.compile(r"`(?:(test_\w+\.py)(?:::)?)?(test_\w+)?(?:\[[^]]*\])?`")


def rows_of(text: str) -> list[str]:
    """The lines of a table, without its head."""
    return [line for line in text.splitlines() if line.startswith("| ")][1:]


def has_test(name: str, *files: str) -> bool:
    """Whether a test is in one of these files, or in any."""
    places = [TESTS / file for file in files] or list(TESTS.glob("test_*.py"))
    return any(f"\ndef {name}(" in place.read_text() for place in places)


def test_each_fault_has_its_test() -> None:
    rows = ROW.findall(FAULTS)
    assert len(rows) == len(rows_of(FAULTS)) >= 90
    assert len({fault for fault, _, _ in rows}) == len(rows), "a fault is told twice"
    for _, file, test in rows:
        assert has_test(test, file), f"{file}::{test}"


def test_what_public_reports_led_to_is_tested() -> None:
    assert len(rows_of(REPORTS)) >= 20
    named = [(file, test) for file, test in NAMED.findall(REPORTS) if file or test]
    assert len(named) >= 20
    for file, test in named:
        assert not file or (TESTS / file).exists(), file
        assert not test or has_test(test, *filter(None, [file])), f"{file}::{test}"
