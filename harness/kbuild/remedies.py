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
_KEYS = ("pattern", "hint", "innocent", "first", "link")


@dataclass(frozen=True, slots=True)
class Remedy:
    """An error that is known by a pattern, and what to do about it."""

    pattern: re.Pattern[str]
    """Searched in the reason, then in the lines around it."""
    hint: str
    innocent: bool = False
    """Whether it is this computer that lacks something: it says nothing about the sources."""
    first: bool = False
    """Whether it counts even if another error stands before it, which may follow from it."""

    def fits(self, reason: str, around: Sequence[str]) -> bool:
        """Whether an error is this one."""
        return any(self.pattern.search(line) for line in (reason, *around))


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
