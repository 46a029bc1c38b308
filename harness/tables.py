# SPDX-License-Identifier: GPL-2.0-only
"""TOML that users write: read whole, its values by type, and every mistake told by its place.

A message says what was found and what is wanted: "hosts.toml: hosts.a.port is 70000; want a whole
number from 1 to 65535".
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.report import sanitize

SHOWN = 60
"""Characters of a value in a message."""
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read(path: Path, hint: str = "") -> dict[str, Any]:
    """Read a file; UsageError where it is not there, or no TOML, with line and column."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist", hint) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; want a file", hint) from None
    try:
        text = raw.decode("utf-8-sig")  # editors on Windows begin it with a byte order mark
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = f"line {line} has the byte {raw[error.start]:#04x}; want UTF-8"
        raise UsageError(f"{path} is no TOML: {found}", hint) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no TOML: {_with_place(str(error), text)}", hint) from None


def _with_place(said: str, text: str) -> str:
    """Put the place that tomllib names first."""
    match = _PLACE.search(said)
    if match is None:
        return sanitize.line(said, 200)
    reason = sanitize.line(said[: match.start()], 200)
    if match[1]:
        return f"line {match[1]}, column {match[2]}: {reason}"
    return f"line {len(text.splitlines()) or 1}, its end: {reason}"


def shown(value: object) -> str:
    """Return a value as messages have it: in TOML's spelling, one line, shortened."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        text = f"[{', '.join(shown(each) for each in value[:20])}]"
    elif isinstance(value, str | bool):
        safe = sanitize.line(value) if isinstance(value, str) else value
        text = json.dumps(safe, ensure_ascii=False)
    else:
        text = str(value)
    return sanitize.line(text, SHOWN)


def close_to(word: str, known: Iterable[str]) -> str:
    """Say which of the known words may have been meant; "" where none is like it."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {close[0]}?" if close else ""


class Values:
    """One table of the file, its values read by type."""

    def __init__(
        self,
        path: Path,
        where: str,
        table: Any,
        keys: tuple[str, ...],
        hint: str = "",
        secret: frozenset[str] = frozenset(),
    ) -> None:
        """Take a table; UsageError where it is none, or has other keys than these.

        `where` names it, "" the file itself; of values with `secret` keys only the kind is
        shown: they may hold a password.
        """
        self._path, self._secret = path, secret
        name = sanitize.line(where)
        self._prefix = f"{name}{': ' if ' ' in name else '.'}" if name else ""
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name or 'it'} is {shown(table)}; want a table", hint)
        self._table: Mapping[str, Any] = table
        for key in sorted(table.keys() - set(keys)):
            advice = close_to(key, keys) or hint
            found = f"{self._name(key)} is no key that is known; want one of {', '.join(keys)}"
            raise UsageError(f"{path}: {found}", advice)

    def wrong(self, key: str, want: str, found: str = "", hint: str = "") -> UsageError:
        """Make an error of one value: what it is, or `found`, and what is wanted."""
        found = found or f"is {self._shown(key)}"
        return UsageError(f"{self._path}: {self._name(key)} {found}; want {want}", hint)

    def _name(self, key: str) -> str:
        return f"{self._prefix}{sanitize.line(key, SHOWN)}"

    def _shown(self, key: str) -> str:
        if key not in self._table:
            return "missing"
        value = self._table[key]
        if key not in self._secret:
            return shown(value)
        kinds = {str: "a text" if value else "an empty text", list: "a list", bool: "a truth value"}
        return kinds.get(type(value), "a table" if isinstance(value, dict) else "a number")

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return key in self._table

    def text(self, key: str) -> str | None:
        """Return a text that is not empty, or None where there is none."""
        value = self._table.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self.wrong(key, "a text that is not empty")
        return value

    def need(self, key: str, want: str = "a text that is not empty") -> str:
        """Return a text that has to be there."""
        value = self.text(key)
        if value is None:
            raise self.wrong(key, want)
        return value

    def choice(self, key: str, known: Iterable[str], default: str | None = None) -> str:
        """Return one of the known words."""
        words = list(known)
        value = self._table.get(key, default)
        if not isinstance(value, str) or value not in words:
            advice = close_to(value, words) if isinstance(value, str) else ""
            raise self.wrong(key, f"one of {', '.join(words)}", hint=advice)
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """Return true or false."""
        value = self._table.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def whole(self, key: str, least: int, most: int) -> int | None:
        """Return a whole number, or None where there is none."""
        value = self._table.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(key, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float, least: float, most: float, what: str = "") -> float:
        """Return a number, of `what`."""
        value = self._table.get(key, default)
        right = isinstance(value, int | float) and not isinstance(value, bool)
        if not right or not least <= value <= most:
            of = f" of {what}" if what else ""
            raise self.wrong(key, f"a number{of} from {least:g} to {most:g}")
        return float(value)

    def seconds(self, key: str, default: float, most: float, least: float = 1) -> float:
        """Return a number of seconds."""
        return self.number(key, default, least, most, "seconds")

    def words(self, key: str) -> list[str]:
        """Return a list of words."""
        value = self._table.get(key, [])
        if not isinstance(value, list) or not all(
            isinstance(word, str) and word.isprintable() and word.split() == [word]
            for word in value
        ):
            raise self.wrong(key, 'a list of words: ["a", "b"]')
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts of one line that are not empty."""
        value = self._table.get(key, [])
        if not isinstance(value, list) or not all(
            isinstance(text, str) and text.strip() and text.isprintable() for text in value
        ):
            raise self.wrong(key, 'a list of texts: ["a", "b"]')
        return value

    def some(self, key: str) -> tuple[str, ...]:
        """Return texts, of which one may stand there without a list."""
        value = self._table.get(key, [])
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(each, str) and each for each in texts):
            raise self.wrong(key, "a text, or a list of texts, that are not empty")
        return tuple(texts)

    def regex(self, key: str, flags: int = 0) -> re.Pattern[str] | None:
        """Return a regular expression, or None where there is none."""
        text = self.text(key)
        try:
            return re.compile(text, flags) if text is not None else None
        except re.error as error:
            raise self.wrong(key, f"a regular expression ({error})") from None

    def tables(self, key: str) -> list[Any]:
        """Return a list that should be one of tables: [[key]]."""
        value = self._table.get(key, [])
        if not isinstance(value, list):
            raise self.wrong(key, f"tables: [[{key}]]")
        return value

    def named(self, key: str) -> dict[str, Any]:
        """Return what should be tables by name: [key.NAME]."""
        value = self._table.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, f"tables: [{key}.NAME]")
        return value
