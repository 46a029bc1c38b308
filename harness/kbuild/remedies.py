# SPDX-License-Identifier: GPL-2.0-only
"""What is known of errors that builds fail with: kernels/build-hints.toml."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from harness.kbuild.config import FRAGMENTS
from harness.tables import Values, read

FILE = FRAGMENTS / "build-hints.toml"
_QUOTED = re.compile(r"[`'\u2018][^`'\u2018\u2019]*['\u2019]|\"[^\"]*\"")
_KEYS = ("pattern", "hint", "innocent", "first", "link")


@dataclass(frozen=True, slots=True)
class Remedy:
    """An error that is known by a pattern, and what to do about it."""

    pattern: re.Pattern[str]
    """Searched in the reason, and in the notes around it."""
    hint: str
    innocent: bool = False
    """Whether it is this computer that lacks something: it says nothing about the sources."""
    first: bool = False
    """Whether it counts even if another error stands before it, which may follow from it."""

    def fits(self, reason: str, around: Sequence[str]) -> bool:
        """Whether an error is this one.

        Sources may hold any word: the lines of them that compilers show do not count, and what
        an error quotes cannot make it this computer's.
        """
        if self.innocent:
            return self.pattern.search(_QUOTED.sub("''", reason)) is not None
        said = [line for line in around if not line[:1].isspace()]
        return any(self.pattern.search(line) for line in (reason, *said))


@cache
def remedies() -> tuple[Remedy, ...]:
    """Return all of them, in the file's order: the first that fits counts."""
    found = []
    for number, table in enumerate(read(FILE).get("hint", []), 1):
        values = Values(FILE, f"hint {number}", table, _KEYS)
        pattern, hint = values.text("pattern"), values.text("hint")
        assert pattern is not None and hint is not None, FILE  # noqa: PT018
        found.append(
            Remedy(re.compile(pattern), hint, values.flag("innocent"), values.flag("first"))
        )
    return tuple(found)
