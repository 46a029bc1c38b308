# SPDX-License-Identifier: GPL-2.0-only
"""The one reader of results as JSON lines (harness/report/jsonl.py writes them).

They come from a worker, from a run that was killed in the middle of a line, from a file that
somebody sent: nobody who wrote one is trusted.  A line is bounded, what it says has the types of a
result, and its text is sanitised, before anybody else sees it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.report import sanitize
from harness.report.outcome import Outcome, Result

LONGEST_LINE = 1 << 20
"""Bytes; a result with all its texts has a third of that."""
MOST_NAMES = 1000
"""Patches or areas of one test."""
MOST_REASONS = 1000
"""Reasons why results are not the whole truth."""

_LINES = ("id", "suite", "interface", "description", "reason", "backend")
_TEXTS = ("details", "console", "output")
_NAMES = {"patches": int, "areas": str}
_UNREADABLE = (ValueError, KeyError, TypeError, RecursionError, OverflowError)


@dataclass(frozen=True, slots=True)
class Event:
    """What one line tells."""

    kind: str
    """start, collected, begin, about, result, trouble, gave up, broken, finish."""
    fields: dict[str, Any]
    """As they were written: whoever takes one looks at its type."""
    result: Result | None = None
    """What became of a test, where that is told."""

    def text(self, name: str, width: int = 300) -> str:
        """Return a field as a safe line; "" where it says nothing."""
        value = self.fields.get(name)
        return "" if value is None else sanitize.line(str(value), width)

    def count(self, name: str) -> int:
        """Return a field that is a number of things; 0 where it is none."""
        value = self.fields.get(name)
        return value if type(value) is int and 0 <= value < 2**31 else 0

    @property
    def broken(self) -> list[str]:
        """Why the results are not the whole truth, as the last line tells."""
        told = self.fields.get("broken")
        if not isinstance(told, list):
            return []
        return [sanitize.line(str(each), 300) for each in told[:MOST_REASONS]]


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is whole; without its event where it is none of results."""

    number: int
    """From 1."""
    event: Event | None
    wrong: str = ""
    """Why it is none."""


@dataclass(slots=True)
class Lines:
    """Cuts bytes, as they come, into lines."""

    read: int = 0
    """Lines so far."""
    unreadable: int = 0
    """Of them, those that are none of results."""
    endless: bool = False
    """Whether the last one is too long, and not at its end yet."""
    _pending: bytes = b""

    @property
    def cut(self) -> bool:
        """Whether half a line came last."""
        return bool(self._pending) or self.endless

    def feed(self, data: bytes) -> Iterator[Line]:
        """Yield the lines that are whole now; one that never ends, when it is too long."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            if self.endless:
                self.endless = False  # the end of one that was told
            else:
                yield self._line(line)
        if len(self._pending) > LONGEST_LINE:
            line, self._pending = self._pending, b""
            if not self.endless:
                self.endless = True
                yield self._line(line)

    def _line(self, line: bytes) -> Line:
        self.read += 1
        try:
            return Line(self.read, decode(line))
        except ValueError as error:
            self.unreadable += 1
            return Line(self.read, None, str(error))

    @property
    def complaint(self) -> str:
        """What to say of lines that are none of results; "" where all are."""
        return f"{self.unreadable} lines of its results cannot be read" if self.unreadable else ""


def decode(line: bytes) -> Event:
    """Return what a line tells; ValueError, with a safe line of text, where it is none."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"it is longer than {LONGEST_LINE} bytes")
    try:
        fields = json.loads(line)
        kind = fields.pop("event")
        if not isinstance(kind, str):
            raise TypeError(f"its event is {kind!r}")
        return Event(kind, fields, result_of(fields) if kind == "result" else None)
    except (*_UNREADABLE, AttributeError) as error:
        raise ValueError(sanitize.line(f"{type(error).__name__}: {error}", 100)) from None


def result_of(record: dict[str, Any]) -> Result:
    """Make a result of what a line says: fields left out are empty, unknown ones are ignored.

    ValueError, KeyError, TypeError, OverflowError: it is none.
    """
    if "revision" in record:  # what an older snptest calls an interface
        record = {"interface": record["revision"], **record}
    texts = {name: sanitize.line(_text(record, name)) for name in _LINES}
    texts |= {name: sanitize.text(_text(record, name)) for name in _TEXTS}
    if not texts["id"]:
        raise ValueError("a test has no id")
    seconds = record["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"a test does not take {seconds!r} s")
    if not 0 <= seconds < 2**31:
        raise ValueError(f"a test does not take {seconds} s")
    return Result(
        **texts,
        outcome=Outcome(record["outcome"]),
        seconds=float(seconds),
        patches=tuple(int(each) for each in _names(record, "patches")),
        areas=tuple(sanitize.line(str(each), 300) for each in _names(record, "areas")),
    )


def _text(record: dict[str, Any], name: str) -> str:
    value = record.get(name, "")
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, no text")
    return value


def _names(record: dict[str, Any], name: str) -> list[Any]:
    value = record.get(name, [])
    if not isinstance(value, list | tuple) or len(value) > MOST_NAMES:
        raise TypeError(f"{name} is no list of up to {MOST_NAMES}")
    wrong = [each for each in value if type(each) is not _NAMES[name]]
    if wrong:
        raise TypeError(f"{name} has {wrong[0]!r}")
    return list(value)
