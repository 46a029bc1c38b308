# SPDX-License-Identifier: GPL-2.0-only
"""Made-up runs' folders, for tests of the history and of what is made from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.report.outcome import Outcome, Result

START = 1_790_000_000.0

HOSTILE = "\x1b[31m<script>alert(1)</script>\x00 ' \" & {{ 7*7 }} \u202e]]> é # ok"


def result(
    name: str = "x",
    outcome: Outcome | str = Outcome.PASS,
    seconds: float = 0.1,
    suite: str = "psc",
    **more: Any,
) -> Result:
    """Make a result of test_NAME."""
    known = {
        "id": f"suites/{suite}/test_{suite}.py::test_{name}[v12]",
        "suite": suite,
        "interface": "v12",
        "outcome": Outcome(outcome),
        "seconds": seconds,
        "description": f"It holds for {name}.",
        "reason": "" if outcome == Outcome.PASS else f"because of {name}",
        "patches": (14,),
        "areas": ("page state change",),
        "backend": "emulator",
    }
    return Result(**{**known, **more})


def header(number: int = 0, **more: Any) -> dict[str, Any]:
    """Make the first line of the run with a number, an hour after the one before."""
    return {
        "event": "start",
        "run": hashlib.sha256(str(number).encode()).hexdigest()[:32],
        "started": START + 3600 * number,
        "label": "nightly",
        "backend": "vng",
        "interface": "",
        "kernel": "mine",
        "machine": "snp",
        "host": None,
        "workers": 2,
        "seed": 0,
        "harness": "abc",
        "command": ["run", "--kernel", "mine"],
        "built": {
            "release": "6.12.1-snptest",
            "base": "linux-source-6.12",
            "tree": "0" * 40,
            "commit": "1" * 40,
            "series": ["KVM: SEV: a patch", "KVM: SEV: another"],
            "config": ["base"],
            "compiler": "gcc 12",
        },
        **more,
    }


def write(
    folder: Path,
    results: Sequence[Result],
    number: int = 0,
    *,
    ended: bool = True,
    extra: Sequence[dict[str, Any]] = (),
    **more: Any,
) -> Path:
    """Write a run's folder; without its last line unless it ended."""
    folder.mkdir(parents=True, exist_ok=True)
    events = [header(number, **more), *extra]
    events += [{"event": "result", **each.as_dict()} for each in results]
    if ended:
        bad = any(each.outcome.bad for each in results)
        events.append({"event": "finish", "exit": int(bad), "seconds": 12.5, "broken": []})
    (folder / "results.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in events))
    when = START + 3600 * number + 60
    os.utime(folder / "results.jsonl", (when, when))
    return folder
