# SPDX-License-Identifier: GPL-2.0-only
"""What runs say of a revision: bad, good, skipped, or not sure yet because a test is flaky.

How many clean runs make a revision good is in harness/report/rates.py.  As long as no bad revision
has passed, one is enough, but not of the revisions that the answer hangs on in the end.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from harness.report.outcome import BOOT, ExitCode, Outcome, Result
from harness.report.rates import Rates
from harness.splats import find_splats
from harness.suiterun import SuiteRun, last_line

FOLLOWED = 5
"""Failing tests that are followed to the first patch with which one of them fails."""
EXCERPT = 40
"""Lines of a console that are kept as evidence."""
CONSOLES = 10
"""Tests of a run whose consoles are kept."""

_BAD = (Outcome.FAIL, Outcome.CRASH)
_RANKS = {Outcome.CRASH: 2, Outcome.FAIL: 2, Outcome.ERROR: 1}


class Verdict(enum.StrEnum):
    """What is known of a revision."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"
    """It does not build or boot, or the harness failed: nobody knows."""
    OPEN = "open"
    """It was not asked, or too seldom."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One test in one run."""

    outcome: Outcome
    """The worst, where it ran more than once."""
    runs: int = 1
    failed: int = 0
    """How many of the runs failed or crashed."""
    seconds: float = 0.0
    """Of the fastest run."""
    reason: str = ""
    console: str = ""

    @property
    def bad(self) -> bool:
        """Whether the kernel failed it."""
        return self.outcome in _BAD

    def and_then(self, other: Seen) -> Seen:
        """Add another run."""
        worse = _RANKS.get(other.outcome, 0) > _RANKS.get(self.outcome, 0)
        return replace(
            other if worse else self,
            runs=self.runs + other.runs,
            failed=self.failed + other.failed,
            seconds=min(self.seconds, other.seconds),
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of one revision, or its build that failed."""

    number: int
    """The revision's."""
    only: tuple[str, ...] = ()
    """The tests that were asked for; empty: all that the question names."""
    tests: dict[str, Seen] = field(default_factory=dict)
    trouble: str = ""
    """Why it says nothing, in one line: no build, no boot, or it was cut short."""
    folder: str = ""
    """Where its results are."""
    kernel: str = ""
    """The name of the kernel that ran."""
    seconds: float = 0.0
    passing: bool = False
    """Whether the trouble is this computer's (memory, disk): the next time it is tried again."""

    @property
    def rounds(self) -> int:
        """How many times all of it ran."""
        return max((seen.runs for seen in self.tests.values()), default=1)

    def covers(self, wanted: Iterable[str]) -> bool:
        """Whether all of these tests were asked for."""
        return not self.only or set(wanted) <= set(self.only)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Read what as_dict gave; ValueError, KeyError or TypeError where it is something else."""
        tests = {
            str(name): Seen(
                Outcome(seen["outcome"]),
                int(seen["runs"]),
                int(seen["failed"]),
                float(seen["seconds"]),
                str(seen["reason"]),
                str(seen["console"]),
            )
            for name, seen in record["tests"].items()
        }
        return cls(
            int(record["number"]),
            tuple(map(str, record["only"])),
            tests,
            str(record["trouble"]),
            str(record["folder"]),
            str(record["kernel"]),
            float(record["seconds"]),
            record.get("passing") is True,
        )


def trial_of(number: int, only: Sequence[str], done: SuiteRun, kernel: str) -> Trial:
    """Take what a run came to."""
    tests: dict[str, Seen] = {}
    for each in done.results:
        # Of a whole suite that fails a few consoles tell as much as all; of few tests all do.
        failed = each.outcome in _BAD
        tell = len(tests) < CONSOLES or (failed and bads(tests) < CONSOLES)
        name, seen = name_of(each), _seen(each, console=tell)
        tests[name] = tests[name].and_then(seen) if name in tests else seen
    errors = any(seen.outcome is Outcome.ERROR for seen in tests.values())
    trouble = ""
    if not done.whole or (done.code == ExitCode.BROKEN and not errors):
        trouble = "; ".join(done.broken) or last_line(done.said) or f"ended with {done.code}"
    elif not done.results:
        trouble = last_line(done.said) or "no test ran"
    seconds = sum(each.seconds for each in done.results)
    return Trial(number, tuple(only), tests, trouble, done.folder, kernel, round(seconds, 2))


def name_of(result: Result) -> str:
    """Name a test: by its id; what a boot printed is one test, whatever kernel booted."""
    return BOOT if result.suite == BOOT else result.id


def bads(tests: Mapping[str, Seen]) -> int:
    """Count the tests that the kernel failed."""
    return sum(seen.bad for seen in tests.values())


def _seen(result: Result, *, console: bool) -> Seen:
    return Seen(
        result.outcome,
        failed=int(result.outcome in _BAD),
        seconds=round(result.seconds, 3),
        reason=result.reason,
        console=_excerpt(result.console) if console else "",
    )


def _excerpt(console: str) -> str:
    """Return what tells most of a console: its first splat from the head on, else its end."""
    for splat in find_splats(console):
        lines = splat.block.splitlines()
        if len(lines) > EXCERPT:
            lines[EXCERPT:] = [f"[{len(lines) - EXCERPT} lines of this left out]"]
        return "\n".join(lines)
    lines = console.splitlines()
    if len(lines) > EXCERPT:
        lines = [f"[{len(lines) - EXCERPT} lines before this left out]", *lines[-EXCERPT:]]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Interest:
    """Which failures count."""

    ignored: frozenset[str] = frozenset()
    """Tests that fail at the good end, too: they say nothing."""
    followed: tuple[str, ...] = ()
    """Tests whose failing is bad; empty: any that is not ignored."""
    found_at: int = -1
    """The revision that they failed at first."""
    failing: int = 0
    """How many failed there."""

    def in_trial(self, trial: Trial) -> dict[str, Seen]:
        """Return the tests of a trial that count, with what became of them."""
        if self.followed:
            return {name: trial.tests[name] for name in self.followed if name in trial.tests}
        return {name: seen for name, seen in trial.tests.items() if name not in self.ignored}

    @property
    def ask(self) -> tuple[str, ...]:
        """The tests to ask for by name; empty: all of the question."""
        return () if BOOT in self.followed else self.followed

    def covered_by(self, trial: Trial) -> bool:
        """Whether a trial can tell."""
        return trial.covers(self.ask) if self.followed else not trial.only


def interest(trials: Sequence[Trial]) -> Interest:
    """Find out from all trials, in the order in which they were made, which failures count.

    The first revision that fails decides: what fails there is followed from then on, of many
    tests some that fail fast.  Where it was asked again, those that failed each time.
    """
    ignored = frozenset(
        name
        for trial in trials
        if not trial.number
        for name, seen in trial.tests.items()
        if seen.bad
    )
    for trial in trials:
        if trial.only or not trial.number:
            continue
        failing = [name for name in trial.tests if trial.tests[name].bad and name not in ignored]
        if not failing:
            continue
        again = [each for each in trials if each.number == trial.number and not each.trouble]
        always = [
            name
            for name in failing
            if all(each.tests[name].bad for each in again if name in each.tests)
        ]
        tests = [name for name in failing if name != BOOT] or failing
        steady = [name for name in tests if name in always]

        def speed(name: str, seen: dict[str, Seen] = trial.tests) -> tuple[bool, float, str]:
            # A crash costs a boot.
            return seen[name].outcome is Outcome.CRASH, seen[name].seconds, name

        asked = {name for each in again for name in each.only}
        chosen = [name for name in tests if name in asked] or sorted(tests, key=speed)[:FOLLOWED]
        chosen = [name for name in chosen if name in steady] or chosen
        return Interest(ignored, tuple(sorted(chosen)), trial.number, len(failing))
    return Interest(ignored)


@dataclass(slots=True)
class Findings:
    """All trials together."""

    interest: Interest
    rates: Rates
    clean: dict[int, int]
    """Clean runs, by revision."""
    bad: set[int]
    troubles: dict[int, str]
    least: int

    def verdict(self, number: int) -> Verdict:
        """Judge a revision."""
        if number in self.bad:
            return Verdict.BAD
        if self.clean.get(number, 0) >= self.rates.needed(self.least):
            return Verdict.GOOD
        return Verdict.SKIP if number in self.troubles else Verdict.OPEN

    def all_of(self, verdict: Verdict) -> set[int]:
        """Return the revisions of a verdict."""
        numbers = self.bad | self.troubles.keys() | self.clean.keys()
        return {each for each in numbers if self.verdict(each) is verdict}


def findings(trials: Sequence[Trial], least: int = 1) -> Findings:
    """Put trials together; `least` clean runs are asked of every good revision."""
    wanted = interest(trials)
    clean: dict[int, int] = {}
    failed: dict[int, int] = {}
    troubles: dict[int, str] = {}
    for trial in trials:
        counted = wanted.in_trial(trial)
        errors = [seen.reason for seen in counted.values() if seen.outcome is Outcome.ERROR]
        failures = max((seen.failed for seen in counted.values()), default=0)
        if failures:
            failed[trial.number] = failed.get(trial.number, 0) + failures
            passed = max(seen.runs for seen in counted.values()) - failures
            clean[trial.number] = clean.get(trial.number, 0) + passed
        elif trial.trouble or errors:
            troubles[trial.number] = trial.trouble or f"error: {errors[0]}"
        elif wanted.covered_by(trial):
            clean[trial.number] = clean.get(trial.number, 0) + trial.rounds
    runs = sum(failed.values()) + sum(clean.get(each, 0) for each in failed)
    rates = Rates(sum(failed.values()), runs)
    return Findings(wanted, rates, clean, set(failed), troubles, max(1, least))
