# SPDX-License-Identifier: GPL-2.0-only
"""A side that is run now: a built kernel, or a revision of the interfaces on the emulator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from harness import suiterun
from harness.compare.diff import Side, grouped, to_repeat
from harness.report import sanitize
from harness.report.outcome import BOOT, Result

Listener = Callable[[Result], None]
MOST_NAMED = 400
"""Tests that a repetition names one by one; of more, it runs everything again."""


@dataclass
class Target:
    """What is run for a side, and what has come of it so far."""

    label: str
    options: tuple[str, ...]
    """Options of `snptest run` that make it this side."""
    suites: tuple[str, ...] = ()
    """Suites or tests, and -k EXPR: what is asked for on both sides."""
    side: Side = field(init=False)

    def __post_init__(self) -> None:
        self.side = Side(self.label)

    def run(self, listener: Listener) -> None:
        """Run everything that was asked for."""
        done = suiterun.run((*self.suites, *self.options), listener)
        names = ("backend", "revision", "kernel", "machine", "host")
        found = [f"{name} {done.header[name]}" for name in names if done.header.get(name)]
        self.side.about = sanitize.line(", ".join(found))
        self._take(done)

    def again(self, ids: Iterable[str], listener: Listener) -> None:
        """Run some tests once more, by their ids on this side."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return
        words = wanted if len(wanted) <= MOST_NAMED else list(self.suites)
        self._take(suiterun.run((*words, *self.options), listener, history=False))

    def _take(self, done: suiterun.SuiteRun) -> None:
        self.side.results += done.results
        self.side.broken += [f"{self.label}: {each}" for each in done.broken]
        if not done.results and not done.broken:
            self.side.broken.append(f"{self.label}: {suiterun.last_line(done.said)}")


def repeat(a: Target | Side, b: Target | Side, times: int, listener: Listener) -> int:
    """Run what differs up to `times` times more on each side that is live; tell how often.

    A stored side stays as it is.  Ends early where nothing differs, or a side broke.
    """
    sides = [each.side if isinstance(each, Target) else each for each in (a, b)]
    keys: list[str] = []
    for done in range(times):
        if sides[0].broken or sides[1].broken:
            return done
        # What differed once is repeated to the end: one run that agrees proves nothing.
        keys = keys or to_repeat(sides[0], sides[1])
        if not keys:
            return done
        for target, tests in zip((a, b), grouped(sides), strict=True):
            if isinstance(target, Target):
                ids = [each.id for key in keys for each in tests.get(key, ())[:1]]
                target.again((each for each in ids if each != BOOT), listener)
    return times
