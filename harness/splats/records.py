# SPDX-License-Identifier: GPL-2.0-only
"""Lines of a kernel log: where one starts, what stands before its message.

The forms: the serial console and dmesg ("[    1.234567][  T12] text"), syslog(2) ("<4>[ ..."),
and /dev/kmsg ("4,339,5140900,-,caller=T12;text", a newline in the text being "\\x0a").
Documentation/ABI/testing/dev-kmsg and print_caller() in kernel/printk/printk.c, 6.12.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_LINE = 1024
"""Characters of a line that are looked at and kept; printk's own limit is about the same."""

_MAX_PHYSICAL = 8 * MAX_LINE
"""Characters after which a line without a newline counts as ended."""

_STAMP = r"\[ {0,5}\d{1,10}\.\d{6}\]"
_CALLER = r"\[ {0,12}(?P<caller>[TC]\d{1,10})\]"
_PREFIX = re.compile(
    r"(?P<kmsg>\d{1,3},\d{1,20},\d{1,20},[^;,\n]{1,8}(?:,caller=(?P<kcaller>[TC]\d{1,10}))?"
    r"[^;\n]{0,80};)?"
    rf"(?:<\d{{1,3}}>)?(?P<stamp>{_STAMP})?(?:{_CALLER})? ?"
)
_INNER = re.compile(_STAMP)


@dataclass(frozen=True, slots=True)
class Record:
    """One line, or the part of it from the last time stamp on."""

    start: int
    """Where it begins in the log; `end` is behind its newline."""
    end: int
    raw: str
    message: str
    caller: str = ""
    """T and a thread's number, or C and a CPU's (CONFIG_PRINTK_CALLER)."""
    stamped: bool = False


def starting(log: str, at: int, floor: int = 0) -> Iterator[Record]:
    """Yield records from the line that holds position `at` on, or from `floor` in that line."""
    floor = max(floor, at - MAX_LINE, 0)
    position = log.rfind("\n", floor, at) + 1 or floor
    while position < len(log):
        limit = min(len(log), position + _MAX_PHYSICAL)
        end = log.find("\n", position, limit) + 1 or limit
        yield from _split(log, position, end)
        position = end


def before(log: str, at: int, count: int) -> list[Record]:
    """Return up to `count` lines that end at or before position `at`, in their order."""
    found: list[Record] = []
    for _ in range(count):
        if at <= 0:
            break
        floor = max(0, at - 1 - MAX_LINE)
        begin = log.rfind("\n", floor, at - 1) + 1 or floor
        found[:0] = _split(log, begin, at)
        at = begin
    return found


def _split(log: str, begin: int, end: int) -> Iterator[Record]:
    """Cut a line where a time stamp stands inside of it: another CPU, or a program, broke in."""
    while begin < end:
        limit = min(end, begin + MAX_LINE)
        prefix = _PREFIX.match(log, begin, limit)
        assert prefix is not None  # everything in it is optional
        # The prefix's own stamp is no cut.  What is behind the limit is not looked at.
        cut = _INNER.search(log, max(prefix.end(), begin + 1), limit)
        stop = cut.start() if cut else end
        message = log[prefix.end() : min(stop, limit)].rstrip("\r\n")
        yield Record(
            start=begin,
            end=stop,
            raw=log[begin : prefix.end()] + message,
            message=message.partition("\\x0a")[0] if prefix["kmsg"] else message,
            caller=prefix["caller"] or prefix["kcaller"] or "",
            stamped=bool(prefix["stamp"] or prefix["kmsg"] or prefix["caller"]),
        )
        begin = stop
