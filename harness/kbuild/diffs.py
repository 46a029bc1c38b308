# SPDX-License-Identifier: GPL-2.0-only
"""Diffs as they come: which lines of a text are one, their paths, their line ends.

Everything here goes by the lines that a hunk's header counts: a removed "-- a/x" looks like the
header "--- a/x", and a log message may quote whatever it likes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from enum import Enum

from harness.errors import UsageError

START = re.compile(
    rb"^(?:diff --git \S|Index: \S|--- (?:\S|\"\S)[^\r\n]*\r?\n\+\+\+ (?:\S|\")[^\r\n]*\r?$)",
    re.MULTILINE,
)
"""Where the first diff of a text begins."""
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_EXTENDED = re.compile(
    rb"(?:old mode|new mode|deleted file mode|new file mode|copy from|copy to|rename from"
    rb"|rename to|similarity index|dissimilarity index|index) "
)
_BINARY = re.compile(rb"GIT binary patch|(?:literal|delta) \d+$|[A-Za-z][!-~]{1,70}$|Binary files ")
_FROM = re.compile(rb"(?:rename|copy) from (.+)")
_NULL = b"/dev/null"
_CHANGES = (b"index ", b"Index: ")
"""Of headers: what depends on the base, and what only tells a name again."""


class Line(Enum):
    """What a line of a text is."""

    TEXT = 0
    GIT = 1
    """diff --git A B"""
    OLD = 2
    """--- A"""
    NEW = 3
    """+++ B"""
    HEADER = 4
    """Another line of a file's header, or of a binary patch."""
    HUNK = 5
    BODY = 6
    """A line of a hunk."""


def lines_of(text: bytes) -> Iterator[tuple[Line, bytes]]:
    """Return each line with its end, and what it is."""
    old = new = 0
    header = False
    lines = text.splitlines(keepends=True) if b"\r" not in text else _lines(text)
    for position, raw in enumerate(lines):
        line = raw.rstrip(b"\r\n")
        if old > 0 or new > 0:
            kind = line[:1]
            if kind in (b" ", b"-", b"+", b"\\", b""):
                old -= kind in (b" ", b"-", b"")
                new -= kind in (b" ", b"+", b"")
                yield Line.BODY, raw
                continue
            old = new = 0  # cut short, or counted wrong: git will say so
        if line.startswith(b"\\ No newline"):
            yield Line.BODY, raw
        elif line.startswith(b"diff --git "):
            header = True
            yield Line.GIT, raw
        elif line.startswith(b"--- ") and _next_is_new(lines, position):
            header = True
            yield Line.OLD, raw
        elif line.startswith(b"+++ ") and header:
            yield Line.NEW, raw
        elif (match := _HUNK.match(line)) and header:
            old, new = (int(each) if each is not None else 1 for each in match.groups())
            yield Line.HUNK, raw
        elif line.startswith(b"Index: ") or (
            header and (_EXTENDED.match(line) or _BINARY.match(line))
        ):
            yield Line.HEADER, raw
        else:
            header = header and not line  # a binary patch has empty lines
            yield Line.TEXT, raw


def _lines(text: bytes) -> list[bytes]:
    """Split at line feeds alone: a carriage return may be part of a line."""
    return [each + b"\n" for each in text.split(b"\n")[:-1]] + (
        [last] if (last := text.rpartition(b"\n")[2]) else []
    )


def _next_is_new(lines: list[bytes], position: int) -> bool:
    return position + 1 < len(lines) and lines[position + 1].startswith(b"+++ ")


def has_diff(text: bytes) -> bool:
    """Whether a text holds a diff."""
    return START.search(text) is not None


def fingerprint(text: bytes) -> str:
    """Hash what a text changes: the same for copies with other footers, headers and messages."""
    content = hashlib.sha256()
    for kind, raw in lines_of(text):
        if kind is Line.HUNK:
            content.update(raw[: raw.rindex(b"@@")].rstrip() + b"\n")
        elif kind is Line.BODY:
            # Mailers drop the blank of an empty line.
            content.update(raw.rstrip(b"\r\n").rstrip() + b"\n")
        elif kind in (Line.OLD, Line.NEW, Line.GIT, Line.HEADER) and not raw.startswith(_CHANGES):
            content.update(raw.rstrip() + b"\n")
    return content.hexdigest()


def normal(name: str, text: bytes, level: int | None = None) -> bytes:
    """Return a patch with the line ends and the path prefixes a/ and b/ that git expects.

    `level` is how many components its paths have before those of the tree, where that is known.
    UsageError where it cannot be said.
    """
    text = _without_carriage_returns(text)
    parsed = list(lines_of(text))
    if level is None:
        level = _level(name, parsed)
    if level == 1 and all(_is_plain(kind, raw) for kind, raw in parsed):
        return text
    return b"".join(_renamed(kind, raw, level) for kind, raw in parsed)


def _without_carriage_returns(text: bytes) -> bytes:
    """Undo what made all lines end in CRLF; where headers do not, the sources do."""
    if b"\r\n" not in text:
        return text
    headers = (Line.GIT, Line.OLD, Line.NEW, Line.HUNK)
    if all(raw.endswith(b"\r\n") for kind, raw in lines_of(text) if kind in headers):
        return text.replace(b"\r\n", b"\n")
    return text


def _is_plain(kind: Line, raw: bytes) -> bool:
    """Whether a line has its paths as git writes them, if it has any."""
    match kind:
        case Line.GIT:
            return raw.startswith((b"diff --git a/", b'diff --git "'))
        case Line.OLD:
            return raw.startswith((b"--- a/", b"--- /dev/null", b'--- "'))
        case Line.NEW:
            return raw.startswith((b"+++ b/", b"+++ /dev/null", b'+++ "'))
    return True


def _level(name: str, parsed: Iterable[tuple[Line, bytes]]) -> int:
    """Return how many components of its paths a patch's author meant to be stripped, 0 or 1."""
    found: list[int | None] = []
    unclear = old = names = b""
    for kind, raw in parsed:
        if kind is Line.GIT:
            names = raw.rstrip()[len(b"diff --git ") :]
            found.append(_level_of_git(names))
        elif kind is Line.HEADER and names and (match := _FROM.match(raw.rstrip())):
            # Git tells it without a prefix.
            found[-1] = 0 if names.startswith(match[1] + b" ") else 1
        elif kind is Line.OLD:
            old = _path(raw)
        elif kind is Line.NEW:
            if not names or found[-1] is None:
                found.append(_level_of_pair(old, _path(raw)))
                if found[-1] is None:
                    unclear = unclear or next(p for p in (_path(raw), old) if p != _NULL)
            names = b""
    levels = {each for each in found if each is not None}
    if len(levels) > 1:
        raise UsageError(
            f"{name}: some paths begin with a/ and b/, some with nothing",
            "make it again by git diff or git format-patch",
        )
    if unclear and not levels:
        raise UsageError(
            f"{name}: is {unclear.decode(errors='replace')} to be applied with -p0 or -p1?",
            "name it in a quilt `series` file with -p0 or -p1 behind it, or make it by git diff",
        )
    return levels.pop() if levels else 1


def _level_of_git(names: bytes) -> int | None:
    """Return the level of "diff --git A B", None where it cannot be told."""
    if names.startswith(b'"') or b' "' in names:
        return 1 if names.startswith((b'"a/', b"a/")) else None
    first, second = _pair(names)
    if first == second:
        return 0 if first else None
    return 1 if _tail(first) == _tail(second) else None


def _pair(names: bytes) -> tuple[bytes, bytes]:
    """Take "A B" apart; A and B are as long, unless prefixes differ or a file was renamed."""
    half = len(names) // 2
    first, second = names[:half], names[half + 1 :]
    if names[half : half + 1] == b" " and (first == second or _tail(first) == _tail(second)):
        return first, second
    words = names.split(b" ")
    return (words[0], words[1]) if len(words) == 2 else (b"", b"")


def _level_of_pair(old: bytes, new: bytes) -> int | None:
    """Return the level of "--- A", "+++ B", None where it cannot be told."""
    if _NULL in (old, new):
        path = new if old == _NULL else old
        return 1 if path.startswith((b"a/", b"b/")) else None
    if old == new:
        return 0
    if _tail(old) and _tail(old) == _tail(new):
        return 1
    if old in (new + b".orig", new + b".old", new + b"~"):
        return 0
    return None


def _tail(path: bytes) -> bytes:
    return path.partition(b"/")[2]


def _path(raw: bytes) -> bytes:
    """Return the path of a "--- " or "+++ " line, without a time stamp."""
    return raw[4:].rstrip(b"\r\n").partition(b"\t")[0].rstrip()


def _renamed(kind: Line, raw: bytes, level: int) -> bytes:
    """Return a line with a/ and b/ before its paths."""
    end = raw[len(raw.rstrip(b"\r\n")) :]
    if kind in (Line.OLD, Line.NEW):
        path = _path(raw)
        if path == _NULL or path.startswith(b'"'):
            return raw
        stripped = _tail(path) if level else path
        prefix = b"--- a/" if kind is Line.OLD else b"+++ b/"
        # A blank in a path needs the tab that git puts behind it.
        return prefix + stripped + (b"\t" if b" " in stripped else b"") + end
    if kind is Line.GIT:
        first, second = _pair(raw.rstrip()[len(b"diff --git ") :])
        if raw.startswith(b'diff --git "') or not first:
            return raw
        if level:
            first, second = _tail(first), _tail(second)
        return b"diff --git a/" + first + b" b/" + second + end
    return raw
