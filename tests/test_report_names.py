# SPDX-License-Identifier: GPL-2.0-only
"""As many names as results, in every format; and with each name the verdict that it had."""

from __future__ import annotations

import itertools
import re
import stat
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from ci import lava_results
from harness.history import record, runs
from harness.history.store import History
from harness.places import ROOT
from harness.report import junit, kcidb, ktap, names
from harness.report.outcome import BOOT, Outcome, Result
from harness.report.verdict import suite_of
from tests.history_runs import result, write

OUTCOMES = list(Outcome)
JUNIT = {
    Outcome.PASS: "",
    Outcome.FAIL: "failure",
    Outcome.CRASH: "error",
    Outcome.ERROR: "error",
    Outcome.SKIP: "skipped",
    Outcome.XFAIL: "skipped",
}
LAVA = {
    Outcome.PASS: "pass",
    Outcome.FAIL: "fail",
    Outcome.CRASH: "fail",
    Outcome.XFAIL: "fail",
    Outcome.ERROR: "unknown",
    Outcome.SKIP: "skip",
}
KCIDB = {
    Outcome.PASS: "PASS",
    Outcome.FAIL: "FAIL",
    Outcome.CRASH: "FAIL",
    Outcome.XFAIL: "FAIL",
    Outcome.ERROR: "ERROR",
    Outcome.SKIP: "SKIP",
}


@pytest.fixture(scope="module")
def ids() -> list[str]:
    """Return the ids of all tests that the suites have, on the emulator."""
    words = ["suites", "--collect-only", "-q", "--backend=emulator", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if line.startswith("suites/")]


def results_of(ids: Sequence[str], repeat: int) -> list[Result]:
    """Make results of a run, every outcome among them; the second of a test is another one."""
    outcomes = itertools.cycle([*OUTCOMES, *OUTCOMES[1:]])
    made = []
    for test in ids:
        interface = re.search(r"\[(v12|merged|7\.3)\b", test)
        for _ in range(repeat):
            outcome = next(outcomes)
            made.append(
                result(
                    id=test,
                    suite=suite_of(test),
                    interface=interface[1] if interface else "",
                    outcome=outcome,
                    reason="" if outcome is Outcome.PASS else "why # not",
                    details="ok 1 forged\n  ok 2 forged\n1..9" if outcome.bad else "",
                )
            )
    boots = [result(id="boot", suite=BOOT, interface="", outcome="fail", reason=x) for x in "ab"]
    return made + boots


def test_ids_are_different_as_they_are_and_in_every_alphabet(ids: list[str]) -> None:
    """Numbers are for tests that are repeated, not for two that a format cannot tell apart."""
    assert len(ids) > 3000
    assert len(set(ids)) == len(ids)
    made = results_of(ids, 1)[:-2]
    called = [names.of(each) for each in made]
    assert len(set(called)) == len(ids)
    assert len({kcidb.path_of(each) for each in made}) == len(ids)
    assert len(set(lava_results.identifiers(called))) == len(ids)
    again = re.compile(r":\d+$")
    assert [each for each in lava_results.identifiers(called) if again.search(each)] == []


def test_every_format_has_a_name_for_each_result(ids: list[str], tmp_path: Path) -> None:
    made = results_of(ids, 2)
    expected = Counter(each.outcome for each in made)

    cases = list(ET.fromstring(junit.render(made, {})).iter("testcase"))
    assert len({(each.get("classname"), each.get("name")) for each in cases}) == len(made)
    tags = Counter(
        next((child.tag for child in each if child.tag != "system-out"), "") for each in cases
    )
    assert tags == told(expected, JUNIT)

    text = ktap.render(made)
    lines = re.findall(r"^  (?:not )?ok \d+ (.*?)(?: # .*)?$", text, re.MULTILINE)
    assert len(set(lines)) == len(lines) == len(made)

    lava, whole = lava_results.read(text)
    assert whole
    assert len({name for name, _ in lava}) == len(lava) == len(made)
    assert Counter(outcome for _, outcome in lava) == told(expected, LAVA)
    assert not [name for name, _ in lava if re.search(r"[^A-Za-z0-9._:-]", name)]
    # Verdict by verdict: both keep the order within a suite and interface.
    ordered = sorted(made, key=lambda each: (each.suite, each.interface))
    assert [outcome for _, outcome in lava] == [LAVA[each.outcome] for each in ordered]

    with History.open(tmp_path / "h.db") as history:
        number = record.take(history, write(tmp_path / "run", made)).run
        run = runs.get(history, number)
        stored = runs.results(history, run)
        tests = kcidb.report(run, stored)["tests"]
        assert len({each["path"] for each in tests}) == len({each["id"] for each in tests})
        assert len(tests) == len(made)
        assert Counter(each["status"] for each in tests) == told(expected, KCIDB)
        # The history knows a test by its id, however often it ran.
        (count,) = history.one("SELECT count(*) FROM test WHERE name LIKE 'suites/%'")
        assert count == len(ids)
        assert [each.id for each in stored] == [each.id for each in made]


def told(outcomes: Counter[Outcome], words: dict[Outcome, str]) -> Counter[str]:
    counts = Counter[str]()
    for outcome, number in outcomes.items():
        counts[words[outcome]] += number
    return counts


def test_numbers_avoid_names_that_are_there() -> None:
    assert names.numbered(["x", "x", "x:2", "x", "y"]) == ["x", "x:3", "x:2", "x:4", "y"]
    assert names.numbered([]) == []
    assert lava_results.identifiers(["a b", "a_b", "a/b", "a.b"]) == [
        "a_b",
        "a_b:2",
        "a.b",
        "a.b:2",
    ]


def test_a_name_keeps_its_parameters() -> None:
    odd = result(id="suites/psc/test_a.py::TestB::test_c[x/y::z #1]")
    assert odd.name == "test_a.py::TestB::test_c[x/y::z #1]"
    text = ktap.render([odd])
    assert "  ok 1 psc/test_a.py::TestB::test_c[x/y::z \\#1]" in text
    [case] = ET.fromstring(junit.render([odd], {})).iter("testcase")
    assert (case.get("classname"), case.get("name")) == (
        "suites.psc.test_a",
        "TestB::test_c[x/y::z #1]",
    )


# LAVA -------------------------------------------------------------------------------------


FAKE = """#!/bin/sh
[ "$#" = 3 ] && [ "$2" = --result ] || exit 9
echo "$1 $3" >> "$0.log"
"""


@pytest.fixture
def lava(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lava-test-case that writes down what it is told; returns where."""
    fake = tmp_path / "bin" / "lava-test-case"
    fake.parent.mkdir()
    fake.write_text(FAKE)
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    return fake.with_name("lava-test-case.log")


def test_lava_is_told_every_result_and_whether_the_run_is_whole(lava: Path, tmp_path: Path) -> None:
    made = [result(str(each), each) for each in OUTCOMES]
    path = tmp_path / "r.ktap"
    path.write_text(ktap.render(made))
    assert lava_results.main(str(path), "1") == 0
    assert lava.read_text().splitlines() == [
        "psc.test_psc.test_pass_v12 pass",
        "psc.test_psc.test_fail_v12 fail",
        "psc.test_psc.test_xfail_v12 fail",
        "psc.test_psc.test_error_v12 unknown",
        "psc.test_psc.test_crash_v12 fail",
        "psc.test_psc.test_skip_v12 skip",
        "snptest-run pass",
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (ktap.render([result("a")]), "3"),
        (ktap.render([result("a")]), "130"),
        (ktap.render([result("a"), result("b")]).partition("  ok 2")[0], "0"),
        (ktap.render([result("a")]).rpartition("ok 1")[0], "0"),
        (ktap.render([]), "0"),
        ("", "0"),
        (None, "3"),
    ],
    ids=["broken", "interrupted", "cut", "no end", "no result", "empty", "no file"],
)
def test_lava_is_told_that_results_are_missing(
    lava: Path, tmp_path: Path, text: str | None, code: str
) -> None:
    path = tmp_path / "r.ktap"
    if text is not None:
        path.write_text(text)
    assert lava_results.main(str(path), code) == 3
    assert lava.read_text().splitlines()[-1] == "snptest-run fail"


def test_a_board_without_lava_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.ktap"
    path.write_text(ktap.render([result("a")]))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lava_results.main(str(path)) == 3
    assert "lava-test-case" in capsys.readouterr().err
