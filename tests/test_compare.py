# SPDX-License-Identifier: GPL-2.0-only
"""What differs between two runs, and what `snptest compare` says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.compare import diff, render
from harness.compare.diff import Kind, Side
from harness.report.outcome import ExitCode, Outcome, Result
from harness.report.summary import patch_subjects
from tests.mutants.mutant import ROOT

P, F, C, S, X, E = (
    Outcome.PASS,
    Outcome.FAIL,
    Outcome.CRASH,
    Outcome.SKIP,
    Outcome.XFAIL,
    Outcome.ERROR,
)


def result(
    outcome: Outcome, name: str = "x", seconds: float = 0.1, revision: str = "v12"
) -> Result:
    return Result(
        id=f"suites/psc/test_psc.py::test_{name}[{revision}]",
        suite="psc",
        revision=revision,
        outcome=outcome,
        seconds=seconds,
        reason="" if outcome is P else f"because of {name}",
        patches=(14,),
        areas=("page state changes",),
        backend="emulator",
    )


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ([P], [P], None),
        ([P], [F], Kind.BROKEN),
        ([P], [C], Kind.BROKEN),
        ([S], [F], Kind.BROKEN),
        ([], [F], Kind.BROKEN),
        ([X], [F], Kind.BROKEN),
        ([F], [P], Kind.FIXED),
        ([F], [C], Kind.FAILING),
        ([P, F], [F, F], Kind.FLAKY),
        ([P, P], [F, P], Kind.FLAKY),
        ([P], [X], Kind.KNOWN),
        ([P], [S], Kind.SKIPPED),
        ([S], [P], Kind.RUN),
        ([], [P], Kind.NEW),
        ([P], [], Kind.GONE),
        ([P], [E], Kind.UNJUDGED),
        ([P, E], [F], Kind.BROKEN),
    ],
)
def test_what_became_of_a_test(
    before: list[Outcome], after: list[Outcome], kind: Kind | None
) -> None:
    a = Side("a", [result(each) for each in before])
    b = Side("b", [result(each, revision="merged") for each in after])
    found = diff.compare(a, b)
    assert [change.kind for change in found.changes] == ([] if kind is None else [kind])
    expected = {Kind.BROKEN: ExitCode.FAILED, Kind.UNJUDGED: ExitCode.BROKEN}
    assert diff.exit_code(found, a, b) == expected.get(kind or Kind.NEW, ExitCode.PASSED)


@pytest.mark.parametrize(
    ("old", "new", "slower"),
    [
        ([1.0], [1.4], False),
        ([0.1], [0.5], False),
        ([1.0], [1.6], True),
        ([1.0, 1.7], [1.6, 2.6], False),
        ([1.0, 1.1], [1.8, 1.9], True),
    ],
)
def test_slower_is_more_than_noise(old: list[float], new: list[float], slower: bool) -> None:
    a, b = ([result(P, seconds=each) for each in times] for times in (old, new))
    assert diff.is_slower(a, b) is slower


def test_a_busy_machine_makes_nothing_slower() -> None:
    a = Side("a", [result(P, str(number), 1.0) for number in range(20)])
    b = Side("b", [result(P, str(number), 2.0) for number in range(19)] + [result(P, "19", 4.0)])
    found = diff.compare(a, b)
    assert found.pace == 2.0
    assert [change.key for change in found.of(Kind.SLOWER)] == ["suites/psc/test_psc.py::test_19"]


def test_a_side_that_was_cut_short_says_nothing_of_the_rest() -> None:
    a = Side("a", [result(P, "one"), result(P, "two")])
    b = Side("b", [result(P, "one")], ["the kernel did not boot"])
    found = diff.compare(a, b)
    assert [change.kind for change in found.changes] == [Kind.UNJUDGED]
    assert diff.exit_code(found, a, b) == ExitCode.BROKEN


def test_what_is_worth_another_run() -> None:
    a = Side("a", [result(P, "broken"), result(F, "fixed"), result(F, "both"), result(P, "gone")])
    b = Side("b", [result(F, "broken"), result(P, "fixed"), result(F, "both"), result(P, "new")])
    wanted = [f"suites/psc/test_psc.py::test_{name}" for name in ("broken", "fixed")]
    assert diff.to_repeat(a, b) == wanted


def test_a_mail_has_72_columns_and_names_tests_and_patches() -> None:
    a = Side("v12", [result(P, "a_name_that_is_rather_long_for_a_mail_of_seventy_two_columns")])
    b = Side("v13", [result(F, "a_name_that_is_rather_long_for_a_mail_of_seventy_two_columns")])
    text = render.mail(diff.compare(a, b), a, b, patch_subjects())
    # What has no spaces cannot be broken.
    assert all(len(line) <= 72 or " " not in line.strip() for line in text.splitlines())
    assert "broken" in text.lower()
    assert "rather_long" in text
    assert "14" in text


def stored(path: Path, *results: Result) -> Path:
    events: list[dict[str, object]] = [{"event": "start", "backend": "emulator", "revision": "v12"}]
    events += [{"event": "result", **each.as_dict()} for each in results]
    events.append({"event": "finish", "exit": 0, "seconds": 1.0, "broken": []})
    path.write_text("".join(f"{json.dumps(each)}\n" for each in events))
    return path


def compare(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", "compare", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_stored_runs_are_compared(tmp_path: Path) -> None:
    a = stored(tmp_path / "a.jsonl", result(P, "one"), result(F, "two"))
    b = stored(tmp_path / "b.jsonl", result(F, "one"), result(P, "two"))
    done = compare(str(a), str(b), "--markdown", str(tmp_path / "mail.txt"))
    assert done.returncode == 1, done.stderr
    assert "test_one" in done.stdout
    assert "because of one" in (tmp_path / "mail.txt").read_text()
    assert compare(str(a), str(a)).returncode == 0


def test_a_file_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{\n")
    done = compare(str(tmp_path / "a.jsonl"), str(tmp_path / "a.jsonl"))
    assert done.returncode in (2, 3)
    assert "Traceback" not in done.stderr


def test_revisions_on_the_emulator_are_run_and_compared() -> None:
    done = compare("merged", "merged", "suites/psc/test_smash.py", "-n", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no difference" in done.stdout


def test_parameters_of_one_test_stand_together() -> None:
    def parametrised(outcome: Outcome, number: int) -> Result:
        name = f"suites/psc/test_psc.py::test_x[{number}]"
        return Result(name, "psc", "", outcome, 0.1, reason="because" if outcome is F else "")

    a = Side("a", [parametrised(P, n) for n in range(12)])
    b = Side("b", [parametrised(F if n < 10 else P, n) for n in range(12)])
    changes = diff.compare(a, b).of(Kind.BROKEN)
    [family] = render.families(changes)
    assert family.name == "suites/psc/test_psc.py::test_x"
    assert len(family.parameters) == len(family.changes) == 10
    text = render.mail(diff.compare(a, b), a, b, {})
    assert text.count("test_x\n") == 1
    assert "    [0] [1] [2] [3] [4] [5] [6] [7] and 2 more\n    pass -> fail: because\n" in text
    # What happened otherwise stands for itself.
    b.results.append(parametrised(F, 3))
    found = render.families(diff.compare(a, b).of(Kind.BROKEN))
    assert [each.name for each in found if not each.parameters] == [
        "suites/psc/test_psc.py::test_x[3]"
    ]
