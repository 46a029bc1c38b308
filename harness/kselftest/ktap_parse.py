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

import re
from collections import Counter, deque
from dataclasses import dataclass, field, replace

from harness.kselftest.document import Case, Document, Status

MAX_DEPTH = 16
"""Documents within documents; what is deeper counts as text."""
MAX_NAME = 200
MAX_DIAGNOSTICS = 50
"""Lines kept before a result; of more, the last."""


_DIRECTIVES = {
    "SKIP": Status.SKIP,
    "TODO": Status.XFAIL,
    "XFAIL": Status.XFAIL,
    # Whatever the line begins with, these are no good news.
    "XPASS": Status.FAIL,
    "TIMEOUT": Status.FAIL,
    "ERROR": Status.FAIL,
}
_INDENT = re.compile(r"[ \t]*")
_VERSION = re.compile(r"(?:KTAP version|TAP version) \d{1,3}$")
_PLAN = re.compile(r"1\.\.(\d{1,9})(?:\s*#\s*(?:SKIP\S*)\s*(.*))?$", re.IGNORECASE)
_RESULT = re.compile(r"(not )?ok(?: +(\d{1,9}))?(?=\s|$)(?:\s+-(?=\s|$))?\s*(.*)$")
_BAIL = re.compile(r"Bail out!\s*(.*)$")
_SUBTEST = re.compile(r"# Subtest: (.*)$")
# ksft_print_cnts() of kselftest.h, and KUnit.
_TOTALS = re.compile(r"# Totals: ((?:[a-z]{1,10}:\d{1,9}(?: |$))+)$")
# ksft_print_cnts(), before its totals.
_SHORT = re.compile(r"# (Planned tests != run tests \(\d{1,9} != \d{1,9}\))$")
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
    quoted: list[str] = field(default_factory=list)
    short: str = ""
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
            quoted=tuple(self.quoted),
            short=self.short,
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
        white = _INDENT.match(text)[0]  # type: ignore[index]  # it matches everything
        indent = len(white.expandtabs(4))
        body = text[len(white) :]
        if _BAIL.match(body):
            self._bail(body)
        elif _VERSION.match(body):
            self.versioned = True
            self._level(indent)
        elif (match := _SUBTEST.match(body)) and indent:
            self._level(indent).title = _name(match[1])
        elif match := _TOTALS.match(body):
            self._totals(indent, text, match[1])
        elif match := _SHORT.match(body):
            self._above(indent).short = match[1]
        elif match := _PLAN.match(body):
            self._plan(self._level(indent), int(match[1]), match[2])
        elif (match := _RESULT.match(body)) and self._is_result(indent, match):
            self._result(self._level(indent), match)
        else:
            self._quoted(indent, body)
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

    def _above(self, indent: int) -> _Open:
        """Return the innermost document that something so indented can be about."""
        return next(each for each in reversed(self.stack) if each.indent <= indent)

    def _quoted(self, indent: int, body: str) -> None:
        """Note a failure in a comment, as scripts have them that run other programs."""
        match = _RESULT.match(body.lstrip("# ")) if body.startswith("#") else None
        if match is None or not match[1] or match[2] is None:
            return
        parts = _HASH.split(match[3], maxsplit=1)
        word = _DIRECTIVE.match(parts[1]) if len(parts) == 2 else None
        if word is None or word[3]:
            level = self._above(indent)
            if len(level.quoted) < MAX_DIAGNOSTICS:
                level.quoted.append(_name(parts[0]) or f"number {match[2]}")

    def _totals(self, indent: int, text: str, counts: str) -> None:
        """Add up what programs counted themselves; those of a script's several go together."""
        level = self._above(indent)
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
