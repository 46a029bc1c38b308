# SPDX-License-Identifier: GPL-2.0-only
"""A side that is run now: a built kernel, or an interface of the emulator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from harness import suiterun
from harness.compare.diff import Kind, Side, compare, grouped, to_repeat
from harness.compare.stored import describe
from harness.report.outcome import BOOT, Outcome, Result
from harness.report.rates import Rates
from harness.report.words import counted
from harness.target import Target

Listener = Callable[[Result], None]
MOST_NAMED = 400
"""Tests that a repetition names one by one; of more, it runs everything again."""


@dataclass
class LiveSide:
    """What is run for a side, and what has come of it so far."""

    label: str
    target: Target
    options: tuple[str, ...] = ()
    """Other options of `snptest run`."""
    suites: tuple[str, ...] = ()
    """Suites or tests, and -k EXPR: what is asked for at first."""
    side: Side = field(init=False)

    def __post_init__(self) -> None:
        self.side = Side(self.label)

    @property
    def _options(self) -> tuple[str, ...]:
        return (*self.target.words(), *self.options)

    def run(self, listener: Listener) -> None:
        """Run everything that was asked for."""
        done = suiterun.run((*self.suites, *self._options), listener)
        describe(self.side, done.header)
        self._take(done)

    def again(self, ids: Iterable[str], listener: Listener, times: int = 1) -> None:
        """Run some tests more times, by their ids on this side; on a kernel, in one boot."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return
        words = wanted if len(wanted) <= MOST_NAMED else list(self.suites)
        options = (*self._options, "--repeat", str(times))
        self._take(suiterun.run((*words, *options), listener, history=False))

    def _take(self, done: suiterun.SuiteRun) -> None:
        self.side.results += done.results
        self.side.broken += [f"{self.label}: {each}" for each in done.broken]
        if not done.results and not done.broken:
            self.side.broken.append(f"{self.label}: {suiterun.last_line(done.said)}")


def repeat(
    a: LiveSide | Side,
    b: LiveSide | Side,
    times: int,
    listener: Listener,
    begin: Callable[[str], None] = lambda what: None,
) -> int:
    """Run what differs up to `times` times more on each side that is live; tell how often.

    A stored side stays as it is.  Ends early where nothing differs, or a side broke.  `begin` is
    told what runs.
    """
    sides = [each.side if isinstance(each, LiveSide) else each for each in (a, b)]
    keys: list[str] = []
    for done in range(times):
        if sides[0].broken or sides[1].broken:
            return done
        # What differed once is repeated to the end: one run that agrees proves nothing.
        keys = keys or to_repeat(sides[0], sides[1])
        if not keys:
            return done
        for live, tests in zip((a, b), grouped(sides), strict=True):
            ids = [each.id for key in keys for each in tests.get(key, ())[:1]]
            ids = [each for each in ids if each != BOOT]
            if isinstance(live, LiveSide) and ids:
                begin(f"{_tests(ids)} again, {done + 1} of {times}: {live.label}")
                live.again(ids, listener)
    return times


def assure(
    a: LiveSide | Side,
    b: LiveSide | Side,
    listener: Listener,
    begin: Callable[[str], None] = lambda what: None,
) -> None:
    """Run what is flaky on B alone so often on A that it would have failed there, too.

    That is, that a test as flaky as on B would pass them all once in a hundred times.
    """
    sides = [each.side if isinstance(each, LiveSide) else each for each in (a, b)]
    if not isinstance(a, LiveSide) or sides[0].broken or sides[1].broken:
        return
    found = [each for each in compare(*sides).of(Kind.NEWLY_FLAKY) if each.before]
    missing = {each.before[0].id: _missing(each.before, each.after) for each in found}
    wanted = [name for name, more in missing.items() if more > 0]
    if wanted:
        times = max(missing.values())
        begin(f"{_tests(wanted)}, flaky on B, {times} times more: {a.label}")
        a.again(wanted, listener, times)


def _missing(before: Sequence[Result], after: Sequence[Result]) -> int:
    """Tell how many runs A lacks."""
    if all(each.outcome is Outcome.SKIP for each in before):
        return 0
    passed = sum(not each.outcome.bad for each in before)
    failed = sum(each.outcome in (Outcome.FAIL, Outcome.CRASH) for each in after)
    runs = sum(each.outcome is not Outcome.ERROR for each in after)
    return Rates(failed, runs).sure() - passed


def _tests(names: Sequence[str]) -> str:
    return counted(len(names), "test")
