# SPDX-License-Identifier: GPL-2.0-only
"""JUnit, KTAP, JSON lines and the summary, from results as they could come."""

from __future__ import annotations

import io
import json
import re
import resource
import signal
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli.output import ResultsBar
from harness.kbuild.progress import ConsoleProgress
from harness.report import junit, ktap, summary
from harness.report.events import result_of
from harness.report.jsonl import JsonLines
from harness.report.live import LiveDisplay, PlainDisplay, display
from harness.report.outcome import ExitCode, Outcome, Result, exit_code
from harness.report.schedule import scope


def result(name: str, outcome: Outcome, *, suite: str = "psc", **more: object) -> Result:
    interface = str(more.pop("interface", "v12"))
    fields = {"seconds": 0.5, "reason": "", **more}
    test_id = f"suites/{suite}/test_x.py::{name}[{interface}]"
    record = {"id": test_id, "suite": suite, "interface": interface, "outcome": outcome, **fields}
    return result_of(record)


RESULTS = [
    result("test_pass", Outcome.PASS, patches=(10, 11), areas=("psc",)),
    result("test_fail", Outcome.FAIL, reason="EIO, not EINVAL", details="line 1\nline 2 <&>"),
    result("test_crash", Outcome.CRASH, reason="hung # hard", console="BUG: \\x00", patches=(11,)),
    result("test_error", Outcome.ERROR, reason="", suite="gmem"),
    result("test_skip", Outcome.SKIP, reason="no SNP", suite="gmem", interface="merged"),
    result("test_known", Outcome.XFAIL, reason="lost wake-up", suite="launch"),
]


def test_junit_keeps_outcomes_apart() -> None:
    root = ET.fromstring(junit.render(RESULTS, {"seed": "0"}))
    cases = {case.attrib["name"].partition("[")[0]: case for case in root.iter("testcase")}
    assert [child.tag for child in cases["test_pass"]] == []
    assert cases["test_fail"].find("failure") is not None
    crash = cases["test_crash"].find("error")
    assert crash is not None
    assert crash.attrib["type"] == "crash"
    assert "BUG" in (cases["test_crash"].findtext("system-out") or "")
    # junit-xml drops an error that says nothing; ours must not get lost.
    assert cases["test_error"].find("error") is not None
    assert cases["test_skip"].find("skipped") is not None
    assert {suite.attrib["name"] for suite in root.iter("testsuite")} == {
        "psc[v12]",
        "gmem[v12]",
        "gmem[merged]",
        "launch[v12]",
    }


def parse_ktap(text: str) -> Iterator[tuple[int, bool, str]]:
    """A strict reader of what ktap.rst says: plan, numbers in order, a parent per subtest."""
    lines = text.splitlines()
    assert lines[0] == "KTAP version 1"
    lines = [line for line in lines[1:] if not line.startswith("# ")]
    plan = re.fullmatch(r"1\.\.(\d+)", lines[0])
    assert plan
    number = 0
    nested: list[str] = []
    for line in lines[1:]:
        match = re.fullmatch(r"(not ok|ok) (\d+) ([^#]*?)(?: # (SKIP|XFAIL|ERROR)\b.*)?", line)
        if match:
            number += 1
            assert int(match[2]) == number
            good = match[1] == "ok"
            if nested:
                children = list(parse_ktap("\n".join(nested)))
                # Exactly the parent of a subtest that fails, fails.
                assert good == all(child[1] for child in children)
                yield from children
                nested = []
            else:
                yield number, good, match[3]
        else:
            assert line.startswith("  ")
            nested.append(line[2:])
    assert number == int(plan[1])


def test_ktap_follows_the_kernels_format() -> None:
    cases = list(parse_ktap(ktap.render(RESULTS)))
    assert len(cases) == len(RESULTS)
    assert sum(not good for _, good, _ in cases) == 3


def test_ktap_of_nothing_is_a_plan_of_nothing() -> None:
    assert ktap.render([]) == "KTAP version 1\n1..0\n"


def test_json_lines_are_on_disk_at_once_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "r.jsonl"
    lines = JsonLines(path)
    for each in RESULTS:
        lines.result(each)
        assert result_of(json.loads(path.read_text().splitlines()[-1])) == each
    lines.finish({})
    assert path.read_bytes().isascii()


def rendered(*, terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=terminal, markup=False)
    shown = LiveDisplay(console) if terminal else PlainDisplay(console)
    shown.collected(len(RESULTS))
    for each in RESULTS:
        shown.begin(each.id)
        shown.result(each)
    shown.close()
    summary.show(console, RESULTS, 3.0)
    return stream.getvalue()


def test_plain_output_has_no_escapes_and_all_failures() -> None:
    text = rendered(terminal=False)
    assert "\x1b" not in text
    for name in ("test_fail", "test_crash", "test_error"):
        assert name in text
    assert "1 pass, 1 fail, 1 xfail, 1 error, 1 crash, 1 skip in 3.0 s" in text
    assert "./snptest run 'suites/psc/test_x.py::test_fail[v12]'" in text


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_log_that_is_to_have_colours_has_no_animation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """CI systems set them for colours; ten refreshed bars a second are megabytes of log."""
    monkeypatch.setenv(name, "1")
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        console = Console(file=log)
        assert console.is_terminal
        assert isinstance(display(console), PlainDisplay)
        bar = ResultsBar(console)
        bar.begin("a side")
        bar.stop()
        with ConsoleProgress(console) as progress:
            progress.stage("compiling")
            progress.count(1, 2)
    assert "\x1b[2K" not in (tmp_path / "log").read_text()


def test_live_output_tells_the_same() -> None:
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", rendered(terminal=True))
    assert "EIO, not EINVAL" in plain


def test_summary_counts_per_patch() -> None:
    text = rendered(terminal=False)
    row = next(line.split() for line in text.splitlines() if line.startswith("11 "))
    assert row[1:7] == ["1", "·", "·", "·", "1", "·"]
    assert " ".join(row[7:]).startswith("KVM: SEV: Add KVM_SEV_SNP_LAUNCH_UPDATE")


def test_a_narrow_terminal_shows_whole_counts() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=40, markup=False)
    many = [result(f"t{each}", Outcome.PASS, patches=(11,), areas=("psc",)) for each in range(1234)]
    summary.show(console, [*many, result("bad", Outcome.FAIL)], 3.0)
    tables = stream.getvalue().partition("FAIL ")[0]
    assert tables.count("1234") == 3  # of the suite, the patch, the area
    assert "…" not in tables
    assert "crash" not in tables


def test_exit_codes() -> None:
    assert exit_code([RESULTS[0], RESULTS[4], RESULTS[5]]) == ExitCode.PASSED
    assert exit_code([RESULTS[1]]) == exit_code([RESULTS[2]]) == ExitCode.FAILED
    assert exit_code(RESULTS) == ExitCode.BROKEN
    assert exit_code([], broken=True) == ExitCode.BROKEN


def test_tests_of_a_module_and_interface_stay_together() -> None:
    assert scope("suites/a/test_x.py::test_y[v12-4K]") == scope("suites/a/test_x.py::test_z[v12]")
    assert scope("suites/a/test_x.py::test_y[v12]") != scope("suites/a/test_x.py::test_y[merged]")
    assert scope("suites/a/test_x.py::test_y") == "suites/a/test_x.py[]"


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    """On a full disk a file of results stays readable, and says what it lacks."""
    limit = 300
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then write(2) says EFBIG
    lines = JsonLines(tmp_path / "results.jsonl")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        for number in range(20):
            lines.write("result", {"id": f"test_{number}", "text": "x" * 40})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert lines.error is not None
    assert "lacks results: File too large" in lines.error
    lines.finish({})
    events = [json.loads(line) for line in lines.path.read_text().splitlines()]
    ids = [event["id"] for event in events[:-1]]
    assert ids == [f"test_{number}" for number in range(len(ids))]
    assert 0 < len(ids) < 20
    assert events[-1]["event"] == "finish"
