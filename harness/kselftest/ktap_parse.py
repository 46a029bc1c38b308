# SPDX-License-Identifier: GPL-2.0-only
"""Reads KTAP and TAP 13/14 as kernel selftests print them (Documentation/dev-tools/ktap.rst, 6.12).

Lenient where the kernel's own tests are: text of any kind between the lines, results without
a version line before them, nested documents that begin without one (as of KUnit before 6.3).
What is missing (results of a plan, the line that ends nested results, all that would have come
after "Bail out!") is a problem of the document and not an exception.  What is read is untrusted:
depth, length of names and numbers are bounded.

PyPI's tap.py is no help here: it reads no nested results, which the kernel's tests have.
"""

from __future__ import annotations

import enum
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from harness.report.words import counted

MAX_DEPTH = 16
"""Documents within documents; what is deeper counts as text."""
MAX_NAME = 200
MAX_DIAGNOSTICS = 50
"""Lines kept before a result; of more, the last."""


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


_DIRECTIVES = {
    "SKIP": Status.SKIP,
    "TODO": Status.XFAIL,
    "XFAIL": Status.XFAIL,
    # Whatever the line begins with, these are no good news.
    "XPASS": Status.FAIL,
    "TIMEOUT": Status.FAIL,
    "ERROR": Status.FAIL,
}


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
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the document itself, each in one line."""
        found = []
        if self.bailed is not None:
            found.append(f"bailed out: {self.bailed}" if self.bailed else "bailed out")
        if self.plan is not None and self.plan != len(self.cases):
            found.append(f"{counted(len(self.cases), 'result')} where {self.plan} were planned")
        found += [*self._of_numbers(), *self._of_totals()]
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


_BAD_TOTALS = ("fail", "error", "xpass")
_INDENT = re.compile(r" *")
_VERSION = re.compile(r"(?:KTAP version|TAP version) \d{1,3}$")
_PLAN = re.compile(r"1\.\.(\d{1,9})(?:\s*#\s*(?:SKIP\S*)\s*(.*))?$", re.IGNORECASE)
_RESULT = re.compile(r"(not )?ok(?: +(\d{1,9}))?(?=\s|$)(?:\s+-(?=\s|$))?\s*(.*)$")
_BAIL = re.compile(r"Bail out!\s*(.*)$")
_SUBTEST = re.compile(r"# Subtest: (.*)$")
# ksft_print_cnts() of kselftest.h, and KUnit.
_TOTALS = re.compile(r"# Totals: ((?:[a-z]{1,10}:\d{1,9}(?: |$))+)$")
# What printk() puts before a line, where results went through the kernel's log.
_STAMP = re.compile(r"(?:<\d{1,3}>)?\[ *\d{1,10}\.\d{6}\] ?")
# A '#' that no backslash escapes, at the beginning or after a space, parts name and directive.
_HASH = re.compile(r"(?:^|(?<=\s))#\s*")
_ESCAPED = re.compile(r"\\([#\\])")
# "# SKIP", "# skip: ..." and "# Skipped ..." are all in use.  Words of bad news count in capitals
# only: "ok 5 x # error count 0" is a remark.
_DIRECTIVE = re.compile(
    r"(?:(?i:(skip)(?:ped|ping)?|(todo|xfail))|(XPASS|TIMEOUT|ERROR)):?(?=\s|$)\s*"
)


@dataclass(slots=True)
class _Open:
    """A document of which the end is not there yet."""

    indent: int
    title: str = ""
    cases: list[Case] = field(default_factory=list)
    plan: int | None = None
    plans: int = 0
    totals: Counter[str] = field(default_factory=Counter)
    skipped: str | None = None
    bailed: str | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_DIAGNOSTICS))
    nested: _Open | None = None
    """One level deeper, ended, waiting for the result line that it belongs to."""

    def close(self) -> Document:
        self.settle()
        return Document(
            cases=tuple(self.cases),
            plan=self.plan,
            skipped=self.skipped,
            bailed=self.bailed,
            rest=tuple(self.lines),
            totals=dict(self.totals),
            plans=self.plans,
        )

    def settle(self) -> None:
        """Give nested results that nothing ended a case of their own."""
        if self.nested is not None:
            waiting, self.nested = self.nested, None
            name = waiting.title or f"unnamed {len(self.cases) + 1}"
            self.cases.append(Case(name, Status.MISSING, children=waiting.close()))

    def take_lines(self) -> tuple[str, ...]:
        taken = tuple(self.lines)
        self.lines.clear()
        return taken


class _Parser:
    def __init__(self) -> None:
        self.stack = [_Open(0)]
        self.versioned = False

    def feed(self, line: str) -> None:
        text = _STAMP.sub("", line.rstrip(), count=1) if line[:1] in ("[", "<") else line.rstrip()
        indent = len(_INDENT.match(text)[0])  # type: ignore[index]  # it matches everything
        body = text[indent:]
        if _BAIL.match(body):
            self._bail(body)
        elif _VERSION.match(body):
            self.versioned = True
            self._level(indent)
        elif (match := _SUBTEST.match(body)) and indent:
            self._level(indent).title = _name(match[1])
        elif match := _TOTALS.match(body):
            self._totals(indent, text, match[1])
        elif match := _PLAN.match(body):
            self._plan(self._level(indent), int(match[1]), match[2])
        elif (match := _RESULT.match(body)) and self._is_result(indent, match):
            self._result(self._level(indent), match)
        else:
            if body:
                self.stack[-1].lines.append(body[1:].lstrip() if body[0] == "#" else text)

    def _is_result(self, indent: int, match: re.Match[str]) -> bool:
        """Tell a result from prose: without a number it needs a document that it belongs to."""
        if match[2] is not None:
            return True
        known = any(each.indent == indent for each in self.stack)
        return known and (self.versioned or self.stack[0].plan is not None)

    def _level(self, indent: int) -> _Open:
        """Return the document for an indentation, ending deeper ones or beginning one."""
        while len(self.stack) > 1 and self.stack[-1].indent > indent:
            self._end_nested()
        top = self.stack[-1]
        if indent > top.indent and len(self.stack) < MAX_DEPTH:
            top.settle()
            self.stack.append(_Open(indent))
        return self.stack[-1]

    def _end_nested(self) -> None:
        ended = self.stack.pop()
        self.stack[-1].settle()
        self.stack[-1].nested = ended

    def _totals(self, indent: int, text: str, counts: str) -> None:
        """Add up what programs counted themselves; those of a script's several go together."""
        level = next(each for each in reversed(self.stack) if each.indent <= indent)
        for each in counts.split():
            word, _, number = each.partition(":")
            level.totals[word] += int(number)
        self.stack[-1].lines.append(text.strip()[1:].lstrip())

    def _plan(self, level: _Open, count: int, skip: str | None) -> None:
        # A script that runs several programs has several plans.
        level.plan = (level.plan or 0) + count
        level.plans += 1
        if skip is not None and count == 0:
            level.skipped = _unescaped(skip)

    def _result(self, level: _Open, match: re.Match[str]) -> None:
        nested, level.nested = level.nested, None
        rest = match[3]
        parts = _HASH.split(rest, maxsplit=1)
        directive, reason = "", ""
        status = Status.FAIL if match[1] else Status.PASS
        if len(parts) == 2:
            word = _DIRECTIVE.match(parts[1])
            reason = parts[1][word.end() :] if word else parts[1]
            if word:
                directive = (word[1] or word[2] or word[3]).upper()
                status = _DIRECTIVES[directive]
                if directive == "TODO" and not match[1]:
                    status = Status.PASS
        number = int(match[2]) if match[2] else None
        name = _name(parts[0])
        if not name:
            # ksft_test_result_skip() and others put the name behind the directive.
            name = (
                _name(reason)
                or (nested.title if nested else "")
                or f"unnamed {len(level.cases) + 1}"
            )
        case = Case(
            name=name,
            status=status,
            number=number,
            directive=directive,
            reason=_unescaped(reason),
            diagnostics=level.take_lines(),
            children=nested.close() if nested else None,
        )
        level.cases.append(case)

    def _bail(self, body: str) -> None:
        while len(self.stack) > 1:
            self._end_nested()
        match = _BAIL.match(body)
        assert match is not None
        self.stack[0].bailed = _unescaped(match[1])

    def end(self) -> Document:
        while len(self.stack) > 1:
            self._end_nested()
        return replace(self.stack[0].close(), versioned=self.versioned)


def parse(text: str) -> Document:
    """Read what a program printed."""
    parser = _Parser()
    for line in text.split("\n"):
        parser.feed(line)
    return parser.end()


def _name(text: str) -> str:
    return _unescaped(text.strip()).removeprefix("- ")[:MAX_NAME].strip()


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text.strip())
