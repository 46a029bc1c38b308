# SPDX-License-Identifier: GPL-2.0-only
"""A run against earlier ones of its kind: what fails newly, what is known, flaky, fixed.

Two earlier runs count: the last good one, and the one just before.  What fails now and did not
fail just before is new, unless runs of one setting are known to disagree about it; what failed
before and passes is fixed.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from harness.history import runs as stored
from harness.history import trend
from harness.history.runs import StoredRun
from harness.history.store import History
from harness.report.outcome import BOOT, Outcome, Result, key_of

WINDOW = 60
"""Runs of the same kind, back from the one that is judged, that tell what is flaky."""
FAR = 10
"""Earlier runs of the same kind among which a test's last one is looked for: some run only part."""


class Status(enum.StrEnum):
    """What a result means to somebody who knew the run before.  In the order of urgency."""

    NEW = "new failure"
    FAILING = "still failing"
    FLAKY = "flaky"
    """It failed now or just before, but runs of one kernel in one place disagree about it."""
    KNOWN = "known issue"
    FIXED = "fixed"
    GONE = "gone"
    """The last good run had it; this one has not."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One test that is worth a word."""

    key: str
    status: Status
    result: Result
    since: StoredRun | None = None
    """The first of the runs up to this one in all of which it failed."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a run means."""

    run: StoredRun
    good: StoredRun | None
    """The last good run before it."""
    before: StoredRun | None
    """The run just before it."""
    tests: tuple[Judged, ...]

    def of(self, status: Status) -> list[Judged]:
        """Return the tests of a status."""
        return [each for each in self.tests if each.status is status]

    @property
    def line(self) -> str:
        """Say all of it in one line: '2 new failures, 1 flaky; against run 12'."""
        counts = {status: len(self.of(status)) for status in Status}
        said = [
            f"{count} {status}{'s' * (count > 1 and status in (Status.NEW, Status.KNOWN))}"
            for status, count in counts.items()
            if count
        ]
        text = ", ".join(said) or "nothing failed"
        if not self.run.whole:
            text += " as far as it went"
        if self.good is not None:
            return f"{text}; last good: run {self.good.id}"
        return f"{text}; no good run before it"


def judge(
    history: History,
    run: StoredRun,
    *,
    good: StoredRun | None = None,
    again: Sequence[StoredRun] = (),
    kernel: bool = True,
    host: bool = True,
) -> Judgement:
    """Judge a stored run against those before it.

    good: hold it against this one, instead of the last good one.
    again: runs that repeated what failed in it.
    kernel: only runs of a kernel of the same name count; False where each run names its own.
    host: only runs on the same host count; False where one is as good as another.
    """
    good = good or stored.last_good(history, run, kernel=kernel, host=host)
    earlier = [
        each
        for each in stored.runs(history, WINDOW, stored.same_kind(run, kernel=kernel, host=host))
        if not each.pruned and each.counts
    ]
    before = earlier[0] if earlier else None
    now = _by_key(
        result for each in (run, *again) for result in stored.results(history, each, texts=False)
    )
    was = _before(history, now, earlier[:FAR])
    had = _by_key(stored.results(history, good, texts=False)) if good else {}
    shaky = _shaky(history, run, earlier)
    found = []
    for key, results in now.items():
        status = _status(results, was.get(key, []), key in shaky)
        if status is not None:
            since = _since(history, run, earlier, results) if status is Status.FAILING else None
            found.append(Judged(key, status, _sample(results), since))
    if good and run.whole and run.command and _asked(run) == _asked(good):
        missing = [each for each in had if each not in now and each != BOOT]
        found += [Judged(key, Status.GONE, had[key][0]) for key in missing]
    order = list(Status)
    found.sort(key=lambda each: (order.index(each.status), each.key))
    return Judgement(run, good, before, tuple(found))


def _asked(run: StoredRun) -> list[str]:
    """Return the words of a run's command that say what is to be run."""
    words = list(run.command)
    for option in ("--json", "--junit", "--ktap"):
        while option in words:
            at = words.index(option)
            del words[at : at + 2]
    return words


def _before(
    history: History, wanted: Collection[str], earlier: Sequence[StoredRun]
) -> dict[str, list[Result]]:
    """Return each test's results in the newest of some earlier runs that had it."""
    found: dict[str, list[Result]] = {}
    for run in earlier:
        if all(key in found for key in wanted):
            break
        for key, results in _by_key(stored.results(history, run, texts=False)).items():
            found.setdefault(key, results)
    return found


def _by_key(results: Iterable[Result]) -> dict[str, list[Result]]:
    found: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        found[key_of(result, interface=True)].append(result)
    return dict(found)


def _is_bad(results: Iterable[Result]) -> bool:
    return any(each.outcome.bad for each in results)


def _status(now: Sequence[Result], before: Sequence[Result], shaky: bool) -> Status | None:
    good = any(each.outcome is Outcome.PASS for each in now)
    if _is_bad(now):
        if shaky or good:
            return Status.FLAKY
        return Status.FAILING if _is_bad(before) else Status.NEW
    if any(each.outcome is Outcome.XFAIL for each in now):
        return Status.KNOWN
    if good and _is_bad(before):
        return Status.FLAKY if shaky else Status.FIXED
    return None


def _sample(results: Sequence[Result]) -> Result:
    return next((each for each in results if each.outcome.bad), results[-1])


def _shaky(history: History, run: StoredRun, earlier: Sequence[StoredRun]) -> set[str]:
    """Name the tests that recovered: bad, then good, though nothing had been changed.

    The other way round alone is no flake yet: a host may have broken since.
    """
    window = [run.id, *(each.id for each in earlier)]
    return {
        key_of(Result(name, suite, interface, Outcome.PASS, 0.0, backend=backend), interface=True)
        for name, suite, interface, backend in trend.recovered(history, window)
    }


def _since(
    history: History, run: StoredRun, earlier: Sequence[StoredRun], results: Sequence[Result]
) -> StoredRun:
    """Return the first of the runs, back without a gap from this one, in which a test failed."""
    ((test,),) = history.all("SELECT id FROM test WHERE name = ?", (results[0].id,))
    points = trend.points(history, test, WINDOW * 10)
    bad = {point.run for point in points if point.outcome.bad}
    first = run
    seen = {point.run for point in points}
    for each in earlier:
        if each.id in bad:
            first = each
        elif each.id in seen:
            break
    return first
