# SPDX-License-Identifier: GPL-2.0-only
"""The table of faults in docs/faults.md names tests that there are."""

from __future__ import annotations

import re

from tests.mutants.mutant import ROOT

ROW = re.compile(r"^\| .+ \| .+ \| `(test_\w+\.py)::(test_\w+)` \|$", re.MULTILINE)


def test_each_fault_has_its_test() -> None:
    text = (ROOT / "docs/faults.md").read_text()
    rows = ROW.findall(text)
    assert (
        len(rows) == len(set(rows)) == sum(line.startswith("| ") for line in text.splitlines()) - 1
    )
    assert len(rows) >= 20
    for file, test in rows:
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"
