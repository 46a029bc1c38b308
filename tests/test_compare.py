# SPDX-License-Identifier: GPL-2.0-only
"""What differs between two runs, and what `snptest compare` says of it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness import suiterun
from harness.compare import diff, live, render
from harness.compare.diff import Kind, Side
from harness.compare.live import LiveSide
from harness.history import record
from harness.history.store import History
from harness.report.outcome import ExitCode, Outcome, Result
from harness.report.summary import patch_subjects
from harness.target import Target
from tests import history_runs
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
    outcome: Outcome, name: str = "x", seconds: float = 0.1, interface: str = "v12"
) -> Result:
    return Result(
        id=f"suites/psc/test_psc.py::test_{name}[{interface}]",
        suite="psc",
        interface=interface,
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
        ([P, F], [F, P], Kind.FLAKY),
        ([P], [F, P], Kind.FLAKY),
        ([P, P], [S, P], Kind.FLAKY),
        ([F, F], [F, P], Kind.FLAKY),
        ([P, P], [F, P], Kind.NEWLY_FLAKY),
        ([P, P], [P, C, P], Kind.NEWLY_FLAKY),
        ([X, X], [X, F], Kind.NEWLY_FLAKY),
        ([S], [F, P], Kind.NEWLY_FLAKY),
        ([], [F, P], Kind.NEWLY_FLAKY),
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
    b = Side("b", [result(each, interface="merged") for each in after])
    found = diff.compare(a, b)
    assert [change.kind for change in found.changes] == ([] if kind is None else [kind])
    expected = {
        Kind.BROKEN: ExitCode.FAILED,
        Kind.NEWLY_FLAKY: ExitCode.FAILED,
        Kind.UNJUDGED: ExitCode.BROKEN,
    }
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
    """No line of any kind of change is longer, but a word that is, and the line of a failure."""
    word = "a_name_that_is_rather_long_for_a_mail_of_seventy_two_columns"
    hostile = "\x00\x01 " * 40 + "errno is 22, must be 5\tand\nso on " * 5
    cases = {
        "broken": ([P], [F]),
        "races": ([P, P], [F, P]),
        "fixed": ([F], [P]),
        "flaky": ([P, F], [P, F]),
        "known": ([P], [X]),
        "skipped": ([P], [S]),
        "run": ([S], [P]),
        "new": ([], [P]),
        "gone": ([P], []),
        "failing": ([F], [F]),
        "unjudged": ([P], [E]),
    }
    a, b = Side(f"v12 {word}", about="kernel " * 20), Side("v13", about=word * 3)
    for name, (before, after) in cases.items():
        for side, outcomes in ((a, before), (b, after)):
            for outcome in outcomes:
                made = result(outcome, f"{name}_{word}")
                said = "" if outcome is P else hostile
                side.results.append(dataclasses.replace(made, reason=said, description=said))
    a.results.append(result(P, f"slow_{word}", 1.0))
    b.results.append(result(P, f"slow_{word}", 9.0))
    for number in range(20):
        for side, outcome in ((a, P), (b, F)):
            made = result(outcome, word)
            name = f"{made.id[:-5]}[{'with spaces and ' * number}{word}-{number}]"
            side.results.append(dataclasses.replace(made, id=name))
    found = diff.compare(a, b)
    b.broken.append(f"the kernel did not boot: {hostile}")
    assert {change.kind for change in found.changes} == set(Kind)
    text = render.mail(found, a, b, patch_subjects())
    whole = {each.name for each in render.families(found.changes)}
    whole |= {each.sample.reason for each in found.changes if len(each.sample.reason) <= 100}
    for line in text.splitlines():
        assert len(line) <= 72 or " " not in line.strip() or line.strip() in whole, line
    assert text.replace("\n", "").isprintable()
    assert "Newly flaky:\n" in text
    assert f"test_broken_{word}\n" in text
    assert "patch 14: " in text


def stored(path: Path, *results: Result) -> Path:
    events: list[dict[str, object]] = [
        {"event": "start", "backend": "emulator", "interface": "v12"}
    ]
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


def test_interfaces_on_the_emulator_are_run_and_compared() -> None:
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


class Fake:
    """Stands for `snptest run`: a test that fails every so many runs, on each side."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, a: int, b: int) -> None:
        self.fails = {"a": a, "b": b}
        self.runs = {"a": 0, "b": 0}
        self.calls: list[tuple[str, ...]] = []
        monkeypatch.setattr(suiterun, "run", self.run)

    def run(
        self, words: tuple[str, ...], listener: live.Listener, *, history: bool = True
    ) -> suiterun.SuiteRun:
        self.calls.append(tuple(words))
        side = words[words.index("--interface") + 1]
        times = int(words[words.index("--repeat") + 1]) if "--repeat" in words else 1
        done = suiterun.SuiteRun(code=0)
        for _ in range(times):
            fails = self.fails[side] and self.runs[side] % self.fails[side] == 0
            self.runs[side] += 1
            done.results.append(result(F if fails else P, interface=side))
        return done

    def compare(self) -> tuple[diff.Comparison, Side, Side]:
        a, b = (LiveSide(each, Target(interface=each, seed=7), suites=("psc",)) for each in "ab")
        for each in (a, b):
            each.run(lambda result: None)
        live.repeat(a, b, 2, lambda result: None)
        live.assure(a, b, lambda result: None)
        return diff.compare(a.side, b.side), a.side, b.side


def test_what_is_flaky_on_b_alone_is_broken_once_a_is_sure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """B fails 1 of 3, so A passes 17 runs: three quarters to the 17th are less than a hundredth."""
    fake = Fake(monkeypatch, a=0, b=3)
    found, a, b = fake.compare()
    assert [change.kind for change in found.changes] == [Kind.NEWLY_FLAKY]
    assert fake.runs == {"a": 17, "b": 3}
    assert len(fake.calls) == 7  # the rest in one
    assert all(words[words.index("--seed") + 1] == "7" for words in fake.calls)
    assert diff.exit_code(found, a, b) == ExitCode.FAILED
    assert "1 newly flaky" in render.verdict(found, a, b)


def test_what_is_as_flaky_on_a_is_seen_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three runs of A passed, of more some fail: then it is no change."""
    fake = Fake(monkeypatch, a=5, b=3)
    fake.runs["a"] = 1
    found, a, b = fake.compare()
    assert [change.kind for change in found.changes] == [Kind.FLAKY]
    assert diff.exit_code(found, a, b) == ExitCode.PASSED


def test_what_differs_for_sure_is_run_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch, a=0, b=1)
    found, _, _ = fake.compare()
    assert [change.kind for change in found.changes] == [Kind.BROKEN]
    assert fake.runs == {"a": 3, "b": 3}


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A history of three runs; in the second a test broke, the third was cut."""
    made = history_runs.result
    history_runs.write(tmp_path / "0", [made("one"), made("two", suite="gmem")], 0)
    history_runs.write(tmp_path / "1", [made("one", F), made("two", suite="gmem")], 1)
    history_runs.write(tmp_path / "2", [made("one")], 2, ended=False)
    with History.open(tmp_path / "h.db") as history:
        for number in range(3):
            record.take(history, tmp_path / str(number))
    monkeypatch.setenv("SNPTEST_HISTORY", str(tmp_path / "h.db"))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("1", "2"), 1, "test_one"),
        (("2", "1"), 0, "1 fixed"),
        (("last-2", "last~1"), 1, "1 broken"),
        (("1", "2", "gmem"), 0, "no difference"),
        (("1", "last"), 3, "run 3: it was cut short"),
    ],
)
def test_runs_of_the_history_are_compared(
    nights: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    done = compare(*words)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("1", "99"), 2, "the history has no run 99"),
        (("1", "last-9"), 2, "there is no run last-9: the history has 3"),
        (("1", "2", "-k", "one"), 2, "-k cannot choose among its tests"),
        (("1", "2", "psk"), 2, "no suite is called 'psk'"),
        (("1", "tests/data"), 2, "tests/data holds no stored run"),
        (("1", "results/no_such_run"), 2, "results/no_such_run does not exist"),
        (("1", "no_such_kernel"), 2, "no kernel is called no_such_kernel"),
        (("1", "2", "--markdown", "/proc/nope/x"), 2, "cannot write /proc/nope/x"),
        (("12", "13", "--backend", "emulator"), 2, "the emulator has no interface '12'"),
    ],
)
def test_mistakes_are_one_line_with_a_hint(
    nights: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    done = compare(*words)
    assert done.returncode == code, done.stdout + done.stderr
    first = done.stderr.splitlines()[0]
    assert first.startswith("snptest: ")
    assert said in first
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
