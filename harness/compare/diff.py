# SPDX-License-Identifier: GPL-2.0-only
"""What differs between two sides: results in, changes out; nothing is run or printed here.

A test may have run several times on a side.  Where its runs there disagree it is flaky.  Flaky on
A, it says nothing about B; where B fails now and then what A never failed in several runs (or
skips, or does not have), B has most likely broken it, as a race does: that is "newly flaky", and
counts as broken.  "Slower" is only what passed on both sides and is slower by
SLOWER_RATIO and by SLOWER_SECONDS both, beyond what everything else is slower by; where a test
ran more than once, the fastest run of B must also be slower than the slowest of A.
"""

from __future__ import annotations

import enum
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.report.outcome import BOOT, ExitCode, Outcome, Result, key_of

SLOWER_RATIO = 1.5
SLOWER_SECONDS = 0.5
ENOUGH = 10
"""Tests of SHORTEST seconds or more that it takes to tell how fast a side is altogether."""
SHORTEST = 0.05


class Kind(enum.StrEnum):
    """What became of a test from A to B.  In the order in which they are shown."""

    BROKEN = "broken"
    """B fails what A does not: what A skips or does not have, too."""
    NEWLY_FLAKY = "newly flaky"
    """B fails now and then; A never did, in several runs."""
    FIXED = "fixed"
    FLAKY = "flaky"
    """Runs on one side disagree, and A's do, too, or are too few to tell."""
    KNOWN = "known issue"
    """B fails as a known issue says; A passes."""
    SLOWER = "slower"
    SKIPPED = "newly skipped"
    RUN = "newly run"
    NEW = "new"
    GONE = "gone"
    FAILING = "failing in both"
    UNJUDGED = "not judged"
    """The harness failed, or the side was cut short before the test."""


class State(enum.Enum):
    """What the runs of a test on one side say together."""

    GOOD = "passes"
    BAD = "fails"
    KNOWN = "fails as known"
    SKIP = "skips"
    FLAKY = "is flaky"
    ERROR = "has an error"
    NONE = "is not there"


REGRESSIONS = (Kind.BROKEN, Kind.NEWLY_FLAKY)
"""What B did worse than A: exit code 1."""

_STATES = {
    Outcome.PASS: State.GOOD,
    Outcome.FAIL: State.BAD,
    Outcome.CRASH: State.BAD,
    Outcome.XFAIL: State.KNOWN,
    Outcome.SKIP: State.SKIP,
    Outcome.ERROR: State.ERROR,
}


@dataclass
class Side:
    """One side: what it is called, its results, and whether they are all."""

    label: str
    results: list[Result] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Why it could not be judged as a whole."""
    about: str = ""
    """One line: backend, kernel, release."""
    compiler: str = ""
    """What built its kernel, in short: "gcc 12.2.0"; "" where that is not known."""


@dataclass(frozen=True, slots=True)
class Change:
    """One test that differs."""

    key: str
    kind: Kind
    before: tuple[Result, ...]
    after: tuple[Result, ...]

    @property
    def once(self) -> bool:
        """Whether nothing but one run a side speaks for it."""
        return max(len(self.before), len(self.after)) == 1

    @property
    def sample(self) -> Result:
        """A result that tells what the test is: of B, where there is one; a bad one, if any."""
        runs = self.after or self.before
        if self.kind in (Kind.FIXED, Kind.GONE):
            runs = self.before
        elif self.kind is Kind.FLAKY:
            runs = self.before + self.after
        return next((each for each in runs if each.outcome.bad), runs[-1])


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that differs, and how much was compared."""

    changes: tuple[Change, ...]
    both: int
    """Tests with results on both sides."""
    pace: float
    """How many times as long as A's the tests of B take altogether; 1 where too few tell."""

    def of(self, kind: Kind) -> list[Change]:
        """Return the changes of a kind."""
        return [change for change in self.changes if change.kind is kind]


def state_of(runs: Iterable[Result]) -> State:
    """Judge the runs of one test on one side.  Errors count only where nothing else was seen."""
    states = {_STATES[each.outcome] for each in runs}
    if len(states) > 1:
        states.discard(State.ERROR)
    if not states:
        return State.NONE
    return states.pop() if len(states) == 1 else State.FLAKY


def grouped(sides: Sequence[Side]) -> list[dict[str, list[Result]]]:
    """Group each side's results by test.

    The interface is part of a test's name only where a side has results of several.
    """
    several = any(len({each.interface for each in side.results} - {""}) > 1 for side in sides)
    found = []
    for side in sides:
        tests: defaultdict[str, list[Result]] = defaultdict(list)
        for result in side.results:
            tests[key_of(result, interface=several)].append(result)
        found.append(dict(tests))
    return found


def compare(a: Side, b: Side) -> Comparison:
    """Hold B against A."""
    before, after = grouped((a, b))
    both = before.keys() & after.keys()
    pace = pace_of(before, after)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        runs = before.get(key, []), after.get(key, [])
        cut = bool(b.broken if key in before else a.broken)
        # A boot is a result only where the kernel printed something bad.
        kind = _of_boot(*runs) if key == BOOT else _kind(*runs, cut=cut, pace=pace)
        if kind is not None:
            changes.append(Change(key, kind, tuple(runs[0]), tuple(runs[1])))
    order = list(Kind)
    changes.sort(key=lambda change: order.index(change.kind))
    return Comparison(tuple(changes), len(both), pace)


def exit_code(comparison: Comparison, a: Side, b: Side) -> ExitCode:
    """1 where something is broken or newly flaky; 3 where a side, or a test, could not be judged.

    A side that was cut short beats what is broken; a single test without a verdict does not.
    """
    if a.broken or b.broken:
        return ExitCode.BROKEN
    if any(comparison.of(kind) for kind in REGRESSIONS):
        return ExitCode.FAILED
    return ExitCode.BROKEN if comparison.of(Kind.UNJUDGED) else ExitCode.PASSED


def to_repeat(a: Side, b: Side) -> list[str]:
    """Name the tests that are worth another run: those that both sides have and that differ."""
    found = compare(a, b)
    pointless = (Kind.FAILING, Kind.NEW, Kind.GONE)
    return [
        change.key
        for change in found.changes
        if change.kind not in pointless and change.before and change.after and change.key != BOOT
    ]


def pace_of(before: Mapping[str, Sequence[Result]], after: Mapping[str, Sequence[Result]]) -> float:
    """Tell how many times as long tests take in B: the median of those that tell."""
    ratios = []
    for key in before.keys() & after.keys():
        times = _seconds(before[key]), _seconds(after[key])
        if times[0] and times[1] and min(times[0]) >= SHORTEST:
            ratios.append(statistics.median(times[1]) / statistics.median(times[0]))
    return statistics.median(ratios) if len(ratios) >= ENOUGH else 1.0


def is_slower(before: Sequence[Result], after: Sequence[Result], pace: float = 1.0) -> bool:
    """Whether a test that passes on both sides became slower, as the module says."""
    old, new = _seconds(before), _seconds(after)
    if not old or not new:
        return False
    usual = statistics.median(old) * max(pace, 1.0)
    found = statistics.median(new)
    if found < usual * SLOWER_RATIO or found - usual < SLOWER_SECONDS:
        return False
    return len(old) + len(new) == 2 or min(new) > max(old) * max(pace, 1.0)


def _seconds(runs: Sequence[Result]) -> list[float]:
    return [each.seconds for each in runs if each.outcome is Outcome.PASS]


def _is_bad(result: Result) -> bool:
    return _STATES[result.outcome] is State.BAD


def _is_steady(before: Sequence[Result]) -> bool:
    """Whether a test does not fail on A, as far as several runs tell; a skip needs but one."""
    state = state_of(before)
    if state in (State.GOOD, State.KNOWN):
        return sum(_STATES[each.outcome] is state for each in before) > 1
    return state in (State.SKIP, State.NONE)


def _of_boot(before: Sequence[Result], after: Sequence[Result]) -> Kind | None:
    old, new = (any(each.outcome.bad for each in runs) for runs in (before, after))
    if old and new:
        return Kind.FAILING
    return Kind.BROKEN if new else Kind.FIXED if old else None


def _kind(
    before: Sequence[Result], after: Sequence[Result], *, cut: bool, pace: float
) -> Kind | None:
    old, new = state_of(before), state_of(after)
    if State.ERROR in (old, new):
        return Kind.UNJUDGED
    if State.NONE in (old, new) and cut:
        return Kind.UNJUDGED
    if new is State.FLAKY and _is_steady(before) and any(_is_bad(each) for each in after):
        return Kind.NEWLY_FLAKY
    if State.FLAKY in (old, new):
        return Kind.FLAKY
    if new is State.BAD:
        return Kind.FAILING if old is State.BAD else Kind.BROKEN
    if new is State.NONE:
        return Kind.GONE
    if old is State.NONE:
        return Kind.NEW
    if old is new:
        return Kind.SLOWER if new is State.GOOD and is_slower(before, after, pace) else None
    if new is State.SKIP:
        return Kind.SKIPPED
    if old is State.SKIP:
        return Kind.RUN
    if new is State.KNOWN:
        return Kind.KNOWN
    return Kind.FIXED
