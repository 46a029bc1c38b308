# SPDX-License-Identifier: GPL-2.0-only
"""What a program's KTAP consists of: results, results in results, and what is wrong with it all."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness.report.words import counted

_BAD_TOTALS = ("fail", "error", "xpass")


class Status(enum.StrEnum):
    """What a result line says, its directive heeded."""

    PASS = "ok"
    FAIL = "not ok"
    SKIP = "skip"
    XFAIL = "xfail"
    """It failed, or may fail, and is expected to: TODO and XFAIL."""
    MISSING = "no result"
    """Nested results came, but not the line that ends them."""

    @property
    def bad(self) -> bool:
        """Whether the test as a whole cannot have passed."""
        return self in (Status.FAIL, Status.MISSING)


@dataclass(frozen=True, slots=True)
class Case:
    """One result line and what came before it."""

    name: str
    status: Status
    number: int | None = None
    directive: str = ""
    """In upper case; empty where there is none."""
    reason: str = ""
    """What follows the directive or the '#'."""
    diagnostics: tuple[str, ...] = ()
    """The lines before it that are no results, '# ' taken off."""
    children: Document | None = None

    @property
    def bad(self) -> bool:
        """Whether it or something in it failed, unless that is expected."""
        if self.status is Status.XFAIL:
            return False
        if self.status is Status.SKIP:
            # What was left undone is no failure then; a result that failed is.
            return self.children is not None and self.children.failed
        return self.status.bad or (self.children is not None and self.children.bad)


@dataclass(frozen=True, slots=True)
class Document:
    """What a program printed, or the nested results of a case."""

    cases: tuple[Case, ...] = ()
    plan: int | None = None
    """How many results were announced."""
    skipped: str | None = None
    """The reason where all was skipped at once: "1..0 # SKIP reason"."""
    bailed: str | None = None
    """What follows "Bail out!"."""
    rest: tuple[str, ...] = ()
    """Lines after the last result."""
    totals: Mapping[str, int] = field(default_factory=dict)
    """What it counted itself: "# Totals: pass:3 fail:1 ..."; empty where it did not."""
    plans: int = 0
    """How many lines announced results: a script that runs several programs has several."""
    versioned: bool = False
    """Whether a line said that KTAP follows."""
    quoted: tuple[str, ...] = ()
    """Results that failed, in comments: of a program that another one ran and quotes."""
    short: str = ""
    """What it says itself of results that were planned and did not come."""

    @property
    def found(self) -> bool:
        """Whether there is any KTAP at all."""
        return bool(self.cases) or self.plan is not None or self.bailed is not None

    @property
    def failed(self) -> bool:
        """Whether a result, or its own count of them, speaks of a failure."""
        return (
            self.bailed is not None
            or any(case.bad for case in self.cases)
            or any(self.totals.get(word, 0) for word in _BAD_TOTALS)
            or bool(self.quoted)
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the document itself, each in one line."""
        found = []
        if self.bailed is not None:
            found.append(f"bailed out: {self.bailed}" if self.bailed else "bailed out")
        if self.plan is not None and self.plan != len(self.cases):
            found.append(f"{counted(len(self.cases), 'result')} where {self.plan} were planned")
        elif self.short:
            found.append(f"it says: {self.short}")
        found += [*self._of_numbers(), *self._of_totals()]
        if self.quoted and not any(case.bad for case in self.cases):
            found.append(f"a comment has a result that failed: {self.quoted[0]}")
        return tuple(found)

    def _of_numbers(self) -> Iterator[str]:
        """Say which numbers of one plan came twice: another result has none then."""
        if self.plans != 1 or self.plan != len(self.cases):
            return
        numbers = Counter(case.number for case in self.cases if case.number is not None)
        missing = [str(n) for n in range(1, self.plan + 1) if n not in numbers]
        for number, times in numbers.items():
            if times > 1 and missing:
                yield f"result {number} came {times} times, and {', '.join(missing[:3])} did not"

    def _of_totals(self) -> Iterator[str]:
        """Say where its own count of the results is not that of the lines."""
        if not self.totals:
            return
        bad = {word: self.totals[word] for word in _BAD_TOTALS if self.totals.get(word)}
        if bad and not any(case.bad for case in self.cases):
            count = " ".join(f"{word}:{number}" for word, number in bad.items())
            yield f"its totals say {count}, and no result line does"
        total = sum(number for word, number in self.totals.items() if word != "total")
        nested = any(case.children is not None for case in self.cases)
        if total != len(self.cases) and not nested and not self.bailed:
            yield f"its totals count {counted(total, 'result')}, and it printed {len(self.cases)}"

    @property
    def bad(self) -> bool:
        """Whether something failed, or is missing."""
        return bool(self.problems) or any(case.bad for case in self.cases)

    @property
    def counts(self) -> Counter[Status]:
        """Count the results that have no results in them."""
        return Counter(case.status for _, case in self.leaves())

    def leaves(self, above: str = "") -> Iterator[tuple[str, Case]]:
        """Yield the cases that have no others in them, with their path: "suite/case"."""
        for case in self.cases:
            path = f"{above}{case.name}"
            if case.children is not None and case.children.cases:
                yield from case.children.leaves(f"{path}/")
            else:
                yield path, case

    def failures(self, above: str = "") -> Iterator[tuple[str, str]]:
        """Yield path and reason of what failed, innermost first, then the document's problems."""
        for case in self.cases:
            if not case.bad:
                continue
            path = f"{above}{case.name}"
            inner = list(case.children.failures(f"{path}/")) if case.children else []
            yield from inner or [(path, _why(case))]
        for problem in self.problems:
            yield above.rstrip("/"), problem


def _why(case: Case) -> str:
    if case.status is Status.MISSING:
        return "it has no result of its own"
    words = [case.directive] if case.directive else []
    return " ".join([*words, case.reason]) if case.reason else " ".join(words)
