# SPDX-License-Identifier: GPL-2.0-only
"""The page of what the SNP machine cannot run, and what makes it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from harness.places import ROOT
from tests import skips


def test_names_without_what_they_ran_on() -> None:
    assert skips.plain("suites/a.py::test_b[vng]") == "suites/a.py::test_b"
    assert skips.plain("suites/a.py::test_b[merged-4K-0]") == "suites/a.py::test_b[4K-0]"
    assert skips.plain("suites/a.py::test_b[vng-MWAIT: rax]") == "suites/a.py::test_b[MWAIT: rax]"


def test_only_what_passes_on_the_emulator_counts(tmp_path: Path) -> None:
    def side(parameter: str, **outcomes: str) -> dict[str, dict[str, str]]:
        path = tmp_path / parameter
        records = [{"event": "about", "release": "6.12"}] + [
            {"event": "result", "id": f"t.py::{name}[{parameter}]", "outcome": outcome}
            | ({"reason": f"no {name}"} if outcome == "skip" else {})
            for name, outcome in outcomes.items()
        ]
        path.write_text("\n".join(map(json.dumps, records)))
        found, release = skips.read(path)
        assert release == "6.12"
        return found

    emulator = side("merged", a="pass", b="pass", c="skip", d="fail", e="pass")
    machine = side("vng", a="pass", b="skip", c="skip", d="skip")
    found = skips.skipped(emulator, machine)
    assert found == {"no b": ["t.py::b"], "there is no such test": ["t.py::e"]}
    page = skips.render(found, 40, "6.12")
    assert "2 of 40, so that 95.0% run" in page
    assert "## no b\n\n* `t.py::b`\n" in page


def test_what_the_page_names_exists() -> None:
    names = re.findall(r"^\* `(\S+?\.py)::(\w+)`", skips.PAGE.read_text(), re.MULTILINE)
    assert names
    for file, function in names:
        assert f"def {function}(" in (ROOT / "suites" / file).read_text(), (file, function)
