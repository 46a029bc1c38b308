# SPDX-License-Identifier: GPL-2.0-only
"""A bisection of a series on real kernels, killed twice on its way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests import bisect_series
from tests.marks import real
from tests.mutants.mutant import ROOT

pytestmark = real("builds kernels", 2400)

TEST = "suites/gmem/test_binding.py::test_every_page_of_a_hole"
BAD = 11
TIMEOUT = 2000.0


def begin(series: Path, folder: Path, *more: str) -> subprocess.Popen[str]:
    """Start a bisection, in a group of its own."""
    words = ["bisect", "--base", bisect_series.BASE, "--series", str(series), TEST]
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *words, "--machine", "stock", *more],
        cwd=ROOT,
        env=os.environ | {"SNPTEST_RESULTS": str(folder / "results")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def killed_at(process: subprocess.Popen[str], text: str, seconds: float) -> str:
    """Kill it, and nothing but it, some time after it printed a text; return what it printed."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            break
    else:
        raise AssertionError(f"it never said {text!r}: {''.join(lines)}")
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    return "".join(lines)


def test_killed_twice_it_finds_the_patch(tmp_path: Path) -> None:
    series = bisect_series.write(tmp_path / "series", BAD)  # may wait for another's build
    # While a kernel is built, then while one runs and the next is built.
    first = killed_at(begin(series, tmp_path, "--restart"), "step 1 ", 2.0)
    assert "going on" not in first
    second = killed_at(begin(series, tmp_path), "step 3 ", 8.0)
    answer = tmp_path / "answer.json"
    last = begin(series, tmp_path, "--json", str(answer))
    try:
        text, _ = last.communicate(timeout=TIMEOUT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(last.pid, signal.SIGKILL)
    assert last.returncode == 0, text
    assert "going on: " in text, second
    assert f"the first bad one is patch {BAD} of {bisect_series.COUNT}" in text
    found = json.loads(answer.read_text())
    assert [each["number"] for each in found["suspects"]] == [BAD]
    assert found["suspects"][0]["subject"].endswith("say which page is the last to invalidate")
    assert [each["number"] for each in found["good"]] == [BAD - 1]
    assert all(each.startswith(TEST) for each in found["tests"])
    # What was known before a kill was not asked again: two kernels at most died with it.
    assert found["revisions"] <= 6
    assert found["trials"] <= 7
