# SPDX-License-Identifier: GPL-2.0-only
"""The search for the first bad revision, with an oracle in the place of kernels."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bisect import search
from harness.bisect.plan import Answer, End, Step, plan, upcoming
from harness.bisect.search import History
from harness.bisect.state import State
from harness.bisect.verdicts import (
    FOLLOWED,
    Seen,
    Trial,
    Verdict,
    findings,
    interest,
    trial_of,
)
from harness.errors import UserError
from harness.report.outcome import BOOT, ExitCode, Outcome, Result
from harness.report.rates import Rates
from harness.suiterun import SuiteRun

P, F, C, E = Outcome.PASS, Outcome.FAIL, Outcome.CRASH, Outcome.ERROR

Oracle = Callable[[int, str], Outcome]
"""What becomes of a test at a revision."""


def seen(outcome: Outcome, seconds: float = 0.2) -> Seen:
    return Seen(outcome, failed=int(outcome in (F, C)), seconds=seconds)


def made(step: Step, tests: Collection[str], oracle: Oracle) -> Trial:
    """The trial that a step comes to."""
    found: dict[str, Seen] = {}
    for name in step.only or tests:
        runs = [seen(oracle(step.number, name)) for _ in range(step.repeat)]
        found[name] = runs[0]
        for each in runs[1:]:
            found[name] = found[name].and_then(each)
    return Trial(step.number, step.only, found)


def bisected(
    history: History,
    oracle: Oracle,
    tests: Collection[str] = ("t",),
    skipped: Collection[int] = (),
    least: int = 1,
    *,
    flaky: bool = False,
) -> tuple[Answer, list[Trial]]:
    """Bisect; what would be built ahead has to be what comes, if the test is steady."""
    trials: list[Trial] = []
    while isinstance(following := plan(history, trials, least), Step):
        assert len(trials) < 500, "no end"
        coming = upcoming(history, trials, following, least)
        if following.number in skipped:
            trials.append(Trial(following.number, following.only, trouble="no build: x"))
        else:
            trials.append(made(following, tests, oracle))
        after = plan(history, trials, least)
        if following.number not in skipped and not flaky and isinstance(after, Step):
            assert after.number in (following.number, *coming)
    return following, trials


def breaks_at(history: History, first: int) -> Oracle:
    """The test fails in whatever contains the revision."""
    return lambda number, name: F if history.ancestors[number] >> first & 1 else P


# The search ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 21))
def test_every_patch_of_a_series_is_found(count: int) -> None:
    """In as few builds as halving takes, and those of the ends where the answer is there."""
    history = History.line(count)
    for first in range(1, count + 1):
        answer, trials = bisected(history, breaks_at(history, first))
        assert (answer.end, answer.suspects, answer.edge) == (End.FOUND, (first,), (first - 1,))
        builds = {trial.number for trial in trials}
        ends = (first == 1) + (first == count)
        assert len(builds) <= (count - 1).bit_length() + ends
        # One boot more tells whether it is flaky, one more that the last good one is good.
        assert len(trials) <= len(builds) + 2


def test_bar_of_sixteen_patches() -> None:
    """At most six boots, whichever patch it is, unless that is the last."""
    history = History.line(16)
    for first in range(1, 17):
        _, trials = bisected(history, breaks_at(history, first))
        assert len({trial.number for trial in trials}) <= 5
        assert len(trials) <= (7 if first == 16 else 6)


@pytest.mark.parametrize("count", range(1, 8))
def test_every_pattern_of_what_does_not_build(count: int) -> None:
    """Whatever is skipped: the culprit is a suspect, all between good and bad were skipped."""
    history = History.line(count)
    everyone = range(count + 1)
    for first in range(1, count + 1):
        for skips in range(1 << (count + 1)):
            skipped = {number for number in everyone if skips >> number & 1}
            answer, trials = bisected(history, breaks_at(history, first), skipped=skipped)
            if count in skipped and not set(range(first, count)) - skipped:
                assert answer.end is End.UNJUDGED
                continue
            assert first in answer.suspects
            assert set(answer.suspects[:-1]) <= skipped
            assert answer.bad == min(set(range(first, count + 1)) - skipped)
            good = max(set(range(1, first)) - skipped, default=0)
            assert answer.edge == (good,)
            assert answer.end is (End.FOUND if len(answer.suspects) == 1 else End.SEVERAL)
            assert len([each for each in trials if each.number in skipped]) <= len(skipped)


def test_neighbours_of_what_does_not_build_are_left_for_later() -> None:
    """A broken stretch in the middle of a long series costs few builds."""
    history = History.line(256)
    skipped = set(range(100, 164))
    for first in (1, 50, 99, 164, 200, 256):
        answer, trials = bisected(history, breaks_at(history, first), skipped=skipped)
        assert first in answer.suspects
        if first not in (99, 164):
            assert len([each for each in trials if each.trouble]) <= 6


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Histories with merges; the last revision contains all others."""
    count = draw(st.integers(1, 24))
    parents: list[list[int]] = [[]]
    for number in range(1, count + 1):
        before = draw(st.sets(st.integers(max(0, number - 5), number - 1), min_size=1, max_size=2))
        parents.append(sorted(before))
    children = {each for before in parents for each in before}
    tips = [number for number in range(1, count + 1) if number not in children]
    parents.append(tips if len(tips) > 1 else [count])
    return History(parents)


@settings(max_examples=300, deadline=None)
@given(histories(), st.data())
def test_every_commit_of_a_history_with_merges_is_found(
    history: History, data: st.DataObject
) -> None:
    first = data.draw(st.integers(1, history.last))
    answer, trials = bisected(history, breaks_at(history, first))
    assert answer.suspects == (first,)
    assert set(answer.edge) == set(history.parents[first])
    assert len({trial.number for trial in trials}) <= history.last + 1


@settings(max_examples=300, deadline=None)
@given(histories(), st.data())
def test_merges_and_skips(history: History, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, history.last))
    skipped = data.draw(st.sets(st.integers(0, history.last)))
    answer, _ = bisected(history, breaks_at(history, first), skipped=skipped)
    if answer.end is End.UNJUDGED:
        assert history.last in skipped
    else:
        assert first in answer.suspects
        # Whoever is a suspect beside the bad one could not be judged.
        assert set(answer.suspects) - {answer.bad} <= skipped


def test_halving_a_history_with_merges() -> None:
    """Of two branches of seven commits each, the merge's half is no half: a branch's end is."""
    left = [[0], *([number] for number in range(1, 7))]
    right = [[0], *([number] for number in range(8, 14))]
    history = History([[], *left, *right, [7, 14]])
    found = search.suspects(history, set(), set())
    assert found is not None
    assert search.choose(history, found, set()) in (7, 14)


def test_commits_are_numbered_behind_their_parents() -> None:
    names, parents = search.order({"a": ["x"], "b": ["a"], "c": ["y"], "m": ["b", "c"]}, "good")
    assert names == ["good", "a", "b", "c", "m"]
    assert parents == [[], [0], [1], [0], [2, 3]]


@pytest.mark.parametrize("parents", [[()], [(), ()], [(), (1,)], [(), (2,), (0,)], [(0,), (0,)]])
def test_what_is_no_history(parents: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"lies between|cannot have the parents"):
        History(parents)


# What counts as bad ---------------------------------------------------------------------


@pytest.mark.parametrize("first", range(1, 17))
def test_what_fails_at_the_good_end_does_not_count(first: int) -> None:
    history = History.line(16)

    def oracle(number: int, name: str) -> Outcome:
        return F if name.startswith("old") or (name == "new" and number >= first) else P

    tests = ["new", "steady", *(f"old{number}" for number in range(9))]
    answer, _ = bisected(history, oracle, tests, flaky=True)
    assert answer.suspects == (first,)
    assert answer.findings.interest.followed == ("new",)
    assert len(answer.findings.interest.ignored) == 9


def test_nothing_that_is_new_fails() -> None:
    history = History.line(16)
    for tests in (["old"], ["fine"], ["old", "fine"]):

        def oracle(number: int, name: str) -> Outcome:
            return F if name == "old" else P

        answer, trials = bisected(history, oracle, tests, flaky=True)
        assert answer.end is End.NOT_BAD
        assert {0, 16} & {trial.number for trial in trials}
        assert len(trials) <= 9


def test_few_of_many_failures_are_followed() -> None:
    """Those that fail fast; what crashes costs a boot each time and comes last."""
    tests = {f"t{number}": seen(F, seconds=number) for number in range(20)}
    tests |= {"c": seen(C, seconds=0.0), BOOT: seen(F, seconds=0.0), "good": seen(P)}
    found = interest([Trial(8, (), tests)])
    assert found.followed == tuple(f"t{number}" for number in range(FOLLOWED))
    assert (found.found_at, found.failing) == (8, 22)
    only_boot = interest([Trial(8, (), {BOOT: seen(F), "good": seen(P)})])
    assert (only_boot.followed, only_boot.ask) == ((BOOT,), ())


def test_a_test_that_crashes_is_not_repeated() -> None:
    """Each time costs a boot; where it should pass, it runs until that is sure."""
    history = History.line(16)

    def oracle(number: int, name: str) -> Outcome:
        return C if number >= 11 else P

    answer, trials = bisected(history, oracle)
    assert answer.suspects == (11,)
    assert all(trial.rounds == 1 for trial in trials if trial.number >= 11)
    assert trials[-1].number == 10
    assert trials[-1].rounds > 1


def test_a_steady_failure_is_preferred_to_a_flaky_one() -> None:
    rng = random.Random(1)
    history = History.line(16)

    def oracle(number: int, name: str) -> Outcome:
        if name == "flaky":
            return F if rng.random() < 0.5 else P
        return F if number >= 6 else P

    for _ in range(20):
        answer, _ = bisected(history, oracle, ["flaky", "steady"], flaky=True)
        wanted = answer.findings.interest
        if wanted.found_at >= 6 and "steady" in wanted.followed:
            assert answer.suspects == (6,)
            assert wanted.followed == ("steady",)


def test_a_trial_with_an_error_or_a_trouble_is_no_verdict() -> None:
    trials = [Trial(3, (), {"t": seen(E), "u": seen(P)}), Trial(4, (), {}, trouble="no boot")]
    found = findings(trials)
    assert [found.verdict(number) for number in (3, 4, 5)] == [Verdict.SKIP, Verdict.SKIP, "open"]
    # What failed has failed, whatever came after.
    bad = findings([Trial(3, (), {"t": seen(F), "u": seen(E)}, trouble="the run was ended")])
    assert bad.verdict(3) is Verdict.BAD


def test_what_a_run_came_to() -> None:
    def result(name: str, outcome: Outcome, reason: str = "", console: str = "") -> Result:
        suite = BOOT if name.startswith(BOOT) else "gmem"
        return Result(name, suite, "", outcome, 1.0, reason=reason, console=console)

    run = SuiteRun(
        [
            result("boot::mine", F),
            result("a", P),
            result("a", F, reason="wrong", console="\n".join(map(str, range(100)))),
            result("a", P),
        ],
        header={"folder": "/results/x"},
        code=ExitCode.FAILED,
    )
    trial = trial_of(7, (), run, "kernel")
    assert trial.trouble == ""
    assert trial.folder == "/results/x"
    assert (trial.tests["a"].runs, trial.tests["a"].failed, trial.tests["a"].outcome) == (3, 1, F)
    assert trial.tests["a"].reason == "wrong"
    assert trial.tests["a"].console.startswith("[60 lines before this left out]\n60\n")
    assert BOOT in trial.tests
    assert Trial.from_dict(trial.as_dict()) == trial
    # A splat tells more than the end of a console, which may be the next boot's.
    trace = ["kernel BUG at arch/x86/kvm/svm/sev.c:9!", *(f" f{n}+0x1/0x2" for n in range(50))]
    console = "\n".join(["before"] * 100 + trace + ["---[ end trace 1 ]---"] + ["behind"] * 100)
    died = SuiteRun([result("a", F, console=console)], header={}, code=ExitCode.FAILED)
    lines = trial_of(7, (), died, "").tests["a"].console.splitlines()
    assert lines[:2] == trace[:2]
    assert lines[-2:] == [trace[39], "[12 lines of this left out]"]
    # Tests that have no result: the exit code says so alone.
    cut = SuiteRun([result("a", P)], code=ExitCode.BROKEN, said="snptest: 3 tests have no result")
    assert trial_of(7, (), cut, "").trouble == "3 tests have no result"
    boot = SuiteRun([], code=ExitCode.BROKEN, broken=["the kernel does not boot"])
    assert trial_of(7, (), boot, "").trouble == "the kernel does not boot"


# Flaky tests ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "runs", "needed", "sure"),
    [
        # ceil(ln 0.01 / ln(1 - failed / (runs + 1)))
        (1, 1, 1, 7),
        (4, 4, 1, 3),
        (11, 11, 1, 2),
        (40, 40, 1, 2),
        (1, 2, 12, 12),
        (5, 10, 8, 8),
        (1, 100, 60, 60),
        (0, 0, 1, 1),
    ],
)
def test_how_many_clean_runs_it_takes(failed: int, runs: int, needed: int, sure: int) -> None:
    rates = Rates(failed, runs)
    assert (rates.needed(), rates.sure()) == (needed, sure)
    assert rates.needed(100) == 100


@pytest.mark.parametrize(
    ("chance", "wrong", "boots"), [(0.9, 0.01, 7), (0.7, 0.03, 8), (0.5, 0.06, 9)]
)
def test_a_flaky_test_does_not_mislead(chance: float, wrong: float, boots: float) -> None:
    """Its answer is right nearly always, in little more boots than that of a steady one."""
    history = History.line(16)
    mistakes = total = 0
    rounds = 300
    for seed in range(rounds):
        rng = random.Random(seed)
        first = rng.randint(1, 16)

        def oracle(number: int, name: str, rng: random.Random = rng, first: int = first) -> Outcome:
            return F if number >= first and rng.random() < chance else P

        answer, trials = bisected(history, oracle, flaky=True)
        mistakes += answer.suspects != (first,)
        total += len(trials)
    assert mistakes / rounds <= wrong
    assert total / rounds <= boots


def test_more_runs_find_what_fails_seldom() -> None:
    history = History.line(16)
    mistakes = 0
    for seed in range(100):
        rng = random.Random(seed)

        def oracle(number: int, name: str, rng: random.Random = rng) -> Outcome:
            return F if number >= 7 and rng.random() < 0.1 else P

        answer, _ = bisected(history, oracle, least=60, flaky=True)
        mistakes += answer.suspects != (7,)
    assert mistakes <= 2


def test_a_false_good_is_found_out() -> None:
    """The test passes once where it should fail: the runs that the answer hangs on tell."""
    history = History.line(16)
    luck = itertools.count()

    def oracle(number: int, name: str) -> Outcome:
        if number == 8 and next(luck) == 0:
            return P
        return F if number >= 5 and not (number == 5 and next(luck) % 3 == 0) else P

    answer, trials = bisected(history, oracle, flaky=True)
    assert [trial.number for trial in trials][:2] == [8, 12]
    assert answer.suspects == (5,)
    assert answer.findings.rates.flaky


# What is kept ---------------------------------------------------------------------------


def test_a_plan_needs_nothing_but_the_trials() -> None:
    """Whenever it is cut off, it goes on with the same step."""
    history = History.line(16)
    _, trials = bisected(history, breaks_at(history, 11))
    for count in range(len(trials)):
        following = plan(history, trials[:count])
        assert isinstance(following, Step)
        assert (following.number, following.only) == (trials[count].number, trials[count].only)


def test_steps_left_come_true() -> None:
    history = History.line(16)
    for first in range(1, 16):
        _, trials = bisected(history, breaks_at(history, first))
        for count in range(len(trials)):
            following = plan(history, trials[:count])
            assert isinstance(following, Step)
            assert len(trials) - count <= following.left + 1


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "snptest" / "bisect"


def test_trials_are_kept(home: Path) -> None:
    question = {"tests": ["gmem"]}
    trials = [Trial(3, (), {"t": Seen(F, 2, 1, 0.5, "why", "log\nlog")}), Trial(1, ("t",))]
    with State(question) as state:
        for trial in trials:
            state.add(trial)
    (home / f"{state.name}.99999.new").write_text("by one who was killed")
    with State({"tests": ["psc"]}) as other:
        assert other.trials == []
    with State(question) as state:
        assert state.trials == trials
        state.drop(1)
    assert not list(home.glob("*.new"))
    with State(question) as state:
        assert state.trials == trials[:1]
    with State(question, restart=True) as state:
        assert state.trials == []


def test_one_question_is_worked_on_by_one(home: Path) -> None:
    with State({"tests": []}):
        with pytest.raises(UserError, match="under way"):
            State({"tests": []}).__enter__()
        with State({"tests": ["other"]}):
            pass


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"format": 0}', '{"format": 1}', '{"format": 1, "trials": [{"number": 1}]}'],
)
def test_a_damaged_file_is_told(home: Path, content: str) -> None:
    state = State({})
    home.mkdir(parents=True)
    state.file.write_text(content)
    with pytest.raises(UserError, match=r"damaged.*--restart forgets"):
        state.__enter__()
    with State({}, restart=True) as again:
        assert again.trials == []
