# SPDX-License-Identifier: GPL-2.0-only
"""TOML that users write: read whole, its values by type, and every mistake told by its place."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.report import sanitize


def read(path: Path, hint: str = "") -> dict[str, Any]:
    """Read a file; UsageError where it is not there, or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist", hint) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}", hint) from None


class Values:
    """One table of the file, its values read by type."""

    def __init__(
        self, path: Path, where: str, table: Any, keys: tuple[str, ...], hint: str = ""
    ) -> None:
        """Take a table; UsageError where it is none, or has other keys than these."""
        self._path, self._where = path, where
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {where} is no table", hint)
        self._table: Mapping[str, Any] = table
        for key in table.keys() - set(keys):
            close = difflib.get_close_matches(key, keys, 1)
            advice = f"did you mean {close[0]}?" if close else f"there are {', '.join(keys)}"
            raise UsageError(f"{path}: {where} has an unknown key {sanitize.line(key)!r}", advice)

    def wrong(self, key: str, what: str) -> UsageError:
        """Make an error of one value; never with the value: it may hold a password."""
        return UsageError(f"{self._path}: {self._where}.{key} {what}")

    def text(self, key: str) -> str | None:
        """Return a text that is not empty, or None where there is none."""
        value = self._table.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self.wrong(key, "is a text that is not empty")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self._table.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "is true or false")
        return value

    def whole(self, key: str, least: int, most: int) -> int | None:
        """Return a whole number, or None where there is none."""
        value = self._table.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(key, f"is a number from {least} to {most}")
        return value

    def number(self, key: str, default: float, least: float, most: float, what: str = "") -> float:
        """Return a number, of `what`."""
        value = self._table.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            value = None
        if value is None or not least <= value <= most:
            of = f" of {what}" if what else ""
            raise self.wrong(key, f"is a number{of} from {least:g} to {most:g}")
        return float(value)

    def seconds(self, key: str, default: float, most: float) -> float:
        """Return a number of seconds from 1 on."""
        return self.number(key, default, 1, most, "seconds")

    def words(self, key: str) -> list[str]:
        """Return a list of words."""
        value = self._table.get(key, [])
        if not isinstance(value, list) or not all(
            isinstance(word, str) and word.isprintable() and word.split() == [word]
            for word in value
        ):
            raise self.wrong(key, "is a list of words")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts of one line that are not empty."""
        value = self._table.get(key, [])
        if not isinstance(value, list) or not all(
            isinstance(text, str) and text.strip() and text.isprintable() for text in value
        ):
            raise self.wrong(key, "is a list of texts")
        return value
