# SPDX-License-Identifier: GPL-2.0-only
"""What to do next, from the history and the trials alone: nothing else is remembered.

Therefore a bisection that was killed goes on where it was, and what was seen is judged anew
when a test turns out to be flaky, or to fail at the good end, too.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from harness.bisect import search
from harness.bisect.search import History, Suspects
from harness.bisect.verdicts import Findings, Seen, Trial, Verdict, findings
from harness.report.outcome import Outcome
from harness.report.rates import MOST_RUNS

REPEATS = 10
"""Runs of the followed tests in one boot: next to that they cost little, and tell flaky ones."""
REPEAT_SECONDS = 5.0
"""That the repetitions may take, going by what the tests took before."""
END_RUNS = 3
"""Clean runs of the bad end before it is said not to be bad."""


@dataclass(frozen=True, slots=True)
class Step:
    """One revision to build and run."""

    number: int
    only: tuple[str, ...]
    """The tests to run; empty: all of the question."""
    repeat: int
    """How many times each, in one kernel."""
    why: str
    left: int
    """Verdicts that are still missing at most, this one too, if nothing is skipped or flaky."""


class End(enum.StrEnum):
    """How a bisection can end."""

    FOUND = "found"
    SEVERAL = "several"
    """Between the last good and the first bad one, none can be judged."""
    NOT_BAD = "not bad"
    """Nothing fails at the bad end that does not fail at the good one."""
    UNJUDGED = "unjudged"
    """The bad end does not build or boot, and nothing before it fails."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Who did it, and how that is known."""

    end: End
    findings: Findings
    suspects: tuple[int, ...] = ()
    """In order; the last one is known to be bad, those before could not be judged."""
    edge: tuple[int, ...] = ()
    """The good ones before them."""

    @property
    def bad(self) -> int:
        """The first one that is known to be bad."""
        return self.suspects[-1]


def plan(history: History, trials: Sequence[Trial], least: int = 1) -> Step | Answer:
    """Return what to do next, or what has come out; `least` clean runs make a revision good."""
    found = findings(trials, least)
    wanted = found.interest
    whole = {trial.number for trial in trials if not trial.only}
    if wanted.ignored and 0 not in whole:
        return Step(0, (), 1, "which tests fail at the good end, too?", 1)
    if wanted.ignored and not wanted.followed and history.last not in whole:
        return Step(history.last, (), 1, "does anything fail only at the bad end?", 1)
    known = search.suspects(history, found.all_of(Verdict.GOOD), found.bad)
    times = _times(found, trials)
    if known is None:
        missing = END_RUNS - found.clean.get(history.last, 0)
        if missing > 0:
            return Step(history.last, wanted.ask, missing, "does it fail at times?", 1)
        return Answer(End.NOT_BAD, found)
    again = [each for each in trials if each.number == wanted.found_at and wanted.covered_by(each)]
    left = search.steps_left(known) + 1
    if wanted.followed and len(again) == 1:
        return Step(wanted.found_at, wanted.ask, times, "does it fail again?", left + 1)
    number = search.choose(history, known, found.all_of(Verdict.SKIP))
    if number is not None:
        return Step(number, wanted.ask, times, "is it good?", left + (not wanted.followed))
    return _ends(history, known, found, times)


def _times(found: Findings, trials: Sequence[Trial]) -> int:
    """Say how many times the tests should run in a boot: as often as takes little time.

    One that crashes costs a boot each time.
    """
    wanted = found.interest
    if not wanted.ask:
        return found.least
    seconds = 0.0
    for name in wanted.followed:
        seen = [trial.tests[name] for trial in trials if name in trial.tests]
        if any(each.outcome is Outcome.CRASH for each in seen):
            return found.least
        seconds += min(each.seconds for each in seen)
    return max(found.least, min(REPEATS, int(REPEAT_SECONDS / max(seconds, 0.01))))


def _ends(history: History, known: Suspects, found: Findings, times: int) -> Step | Answer:
    """Look at the two sides that the answer hangs on."""
    ask = found.interest.ask
    verdict = found.verdict(known.bad)
    if verdict is Verdict.OPEN:
        return Step(known.bad, ask, times, "is the bad end bad?", 2)
    if verdict is Verdict.SKIP:
        return Answer(End.UNJUDGED, found, known.numbers, known.edge(history))
    edge = known.edge(history)
    needed = found.rates.sure(found.least)
    for number in edge:
        hopeless = number in found.bad or number in found.troubles
        missing = needed - found.clean.get(number, 0)
        if missing > 0 and not hopeless:
            return Step(number, ask, max(times, missing), "is it good for sure?", 1)
    end = End.FOUND if len(known.numbers) == 1 else End.SEVERAL
    return Answer(end, found, known.numbers, edge)


def upcoming(history: History, trials: Sequence[Trial], step: Step, least: int = 1) -> list[int]:
    """Return what comes after a step, if it is bad and if it is good: what to build meanwhile."""
    followed = findings(trials, least).interest.followed
    coming: list[int] = []
    for outcome in (Outcome.FAIL, Outcome.PASS):
        supposed = list(trials)
        following: Step | Answer = step
        for _ in range(MOST_RUNS + 2):
            if not isinstance(following, Step) or following.number != step.number:
                break
            runs, failed = following.repeat, following.repeat * (outcome is Outcome.FAIL)
            names = following.only or followed or ("any",)
            tests = {name: Seen(outcome, runs, failed) for name in names}
            supposed.append(Trial(step.number, following.only, tests))
            following = plan(history, supposed, least)
        if isinstance(following, Step) and following.number not in (step.number, *coming):
            coming.append(following.number)
    return coming
