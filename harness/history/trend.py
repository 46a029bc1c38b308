# SPDX-License-Identifier: GPL-2.0-only
"""Tests over time: one test's results, flake rates, the matrix, durations.

A test is flaky where it recovers: a run of a setting (the same kernel, place and snptest) finds it
bad, and the same or a later run of that setting good.  The other way round alone may be a host
that broke.  Its flakes are the results of the minority in such settings; its flake rate is their
share in all its results that were good or bad.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.errors import UsageError
from harness.history import schema
from harness.history.runs import StoredRun
from harness.history.store import History
from harness.history.take import DAY
from harness.report.outcome import Outcome

_WORST = (
    Outcome.CRASH,
    Outcome.FAIL,
    Outcome.ERROR,
    Outcome.XFAIL,
    Outcome.PASS,
    Outcome.SKIP,
)
"""Which of several outcomes of a test in one run stands for them."""
_BAD = f"({', '.join(map(str, schema.BAD))})"
_PASS = schema.OUTCOMES.index(Outcome.PASS)
_SETTING = "r.setting, CASE WHEN s.harness = '' THEN r.id END"
"""Runs that do not say which snptest they are of agree with nothing but themselves."""
_FIRST_BAD = f"min(CASE WHEN x.outcome IN {_BAD} THEN x.run END)"
_LAST_GOOD = f"max(CASE WHEN x.outcome = {_PASS} THEN x.run END)"


@dataclass(frozen=True, slots=True)
class Point:
    """A result of a test, among others of it."""

    run: int
    started: float
    outcome: Outcome
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Day:
    """A test's results of one day (UTC), or those of all tests."""

    started: float
    """Its beginning, in seconds since 1970."""
    good: int
    bad: int
    other: int
    seconds: float
    """Of the good ones, together."""


@dataclass(slots=True)
class Trend:
    """One test in a window of runs."""

    test: int
    name: str
    suite: str
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    """By run; the worst where it ran more than once."""
    seconds: dict[int, float] = field(default_factory=dict)
    """By run, where it passed."""
    good: int = 0
    bad: int = 0
    flakes: int = 0

    @property
    def flake_rate(self) -> float:
        """Share of flakes in the results that were good or bad."""
        return self.flakes / (self.good + self.bad) if self.good + self.bad else 0.0

    @property
    def median(self) -> float:
        """Seconds that it usually takes where it passes; 0 where it never did."""
        return statistics.median(self.seconds.values()) if self.seconds else 0.0

    @property
    def last(self) -> Outcome | None:
        """The outcome in the newest run that has one."""
        return self.outcomes[max(self.outcomes)] if self.outcomes else None


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the outcome that stands for several of one test in one run."""
    return min(outcomes, key=_WORST.index)


def find_tests(history: History, word: str, limit: int = 50) -> list[tuple[int, str]]:
    """Return number and name of the tests that a word means.

    Their id, the id without its parameters, or part of it; UsageError where it means none.
    """
    for condition, value in (
        ("name = ?", word),
        ("name LIKE ? ESCAPE '\\'", _like(word) + "[%"),
        ("name LIKE ? ESCAPE '\\'", "%" + _like(word) + "%"),
    ):
        sql = f"SELECT id, name FROM test WHERE {condition} ORDER BY name LIMIT ?"
        if found := history.all(sql, (value, limit)):
            return [(number, name) for number, name in found]
    raise UsageError(f"the history has no test {word!r}", "an id as reports print it, or part")


def _like(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def points(history: History, test: int, limit: int = -1) -> list[Point]:
    """Return a test's results, the newest first."""
    rows = history.all(
        "SELECT x.run, r.started, x.outcome, x.us, c.text FROM result x INDEXED BY result_test"
        " JOIN run r ON r.id = x.run LEFT JOIN reason c ON c.id ="
        " (SELECT y.reason FROM result y WHERE y.run = x.run AND y.nth = x.nth)"
        " WHERE x.test = ? ORDER BY x.run DESC, x.nth DESC LIMIT ?",
        (test, limit),
    )
    return [
        Point(run, started, schema.OUTCOMES[outcome], us / 1e6, reason or "")
        for run, started, outcome, us, reason in rows
    ]


def days(history: History, test: int | None = None) -> list[Day]:
    """Return the days of a test, or of all tests together, the oldest first; pruned ones, too."""
    where, values = ("WHERE test = ?", (test,)) if test is not None else ("", ())
    rows = history.all(
        f"SELECT day, sum(good), sum(bad), sum(other), sum(us) FROM daily {where}"
        " GROUP BY day ORDER BY day",
        values,
    )
    return [Day(day * DAY, good, bad, other, us / 1e6) for day, good, bad, other, us in rows]


def totals(history: History) -> dict[int, tuple[int, int]]:
    """Return how often each test was good and bad, ever."""
    rows = history.all("SELECT test, sum(good), sum(bad) FROM daily GROUP BY test")
    return {test: (good, bad) for test, good, bad in rows}


def flakes(history: History, window: Sequence[int]) -> dict[int, int]:
    """Count the flakes of each test in some runs; of those that have any."""
    rows = history.all(
        f"SELECT x.test, sum(x.outcome = {_PASS}), sum(x.outcome IN {_BAD})"
        " FROM run r JOIN setting s ON s.id = r.setting CROSS JOIN result x ON x.run = r.id"
        f" WHERE r.id IN ({_marks(window)})"
        f" GROUP BY x.test, {_SETTING} HAVING {_FIRST_BAD} <= {_LAST_GOOD}",
        window,
    )
    found: defaultdict[int, int] = defaultdict(int)
    for test, good, bad in rows:
        found[test] += min(good, bad)
    return dict(found)


def recovered(history: History, window: Sequence[int]) -> list[tuple[str, str, str, str]]:
    """Return name, suite, interface and backend of the tests that a run of a setting found bad,
    and the same or a later one of that setting good.
    """
    numbers = list(flakes(history, window))
    return history.all(
        f"SELECT name, suite, interface, backend FROM test WHERE id IN ({_marks(numbers)})", numbers
    )


def trends(history: History, window: Sequence[int]) -> list[Trend]:
    """Return what some runs say about each test, by suite and name."""
    rows = history.all(
        f"SELECT test, run, outcome, us FROM result WHERE run IN ({_marks(window)})", window
    )
    found: dict[int, Trend] = {}
    names = _names(history, {row[0] for row in rows})
    for test, run, number, us in rows:
        if (trend := found.get(test)) is None:
            trend = found[test] = Trend(test, *names[test])
        outcome = schema.OUTCOMES[number]
        before = trend.outcomes.get(run)
        trend.outcomes[run] = outcome if before is None else worst((before, outcome))
        if outcome is Outcome.PASS:
            trend.good += 1
            trend.seconds[run] = us / 1e6
        elif outcome.bad:
            trend.bad += 1
    for test, count in flakes(history, window).items():
        found[test].flakes = count
    return sorted(found.values(), key=lambda trend: (trend.suite, trend.name))


def _names(history: History, tests: set[int]) -> dict[int, tuple[str, str]]:
    rows = history.all("SELECT id, name, suite FROM test")
    return {number: (name, suite) for number, name, suite in rows if number in tests}


def _marks(values: Sequence[int]) -> str:
    return ", ".join("?" * len(values))


@dataclass(frozen=True, slots=True)
class Column:
    """One kernel, or one host, of the matrix, and the run that stands for it."""

    title: str
    run: StoredRun


def columns(runs: Iterable[StoredRun], by: str, most: int = 12) -> list[Column]:
    """Choose the matrix's columns of runs that are given the newest first.

    by: "revision" (kernel and release, or the interface) or "host" (backend, machine,
    host).  Each is the newest run there, the oldest column first; one that has no results does
    not count.
    """
    found: dict[str, StoredRun] = {}
    for run in runs:
        title = run.what if by == "revision" else run.where
        if title not in found and run.counts and not run.pruned:
            found[title] = run
            if len(found) == most:
                break
    return [Column(title, run) for title, run in reversed(found.items())]
