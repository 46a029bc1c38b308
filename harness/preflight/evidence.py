# SPDX-License-Identifier: GPL-2.0-only
"""Evidence from a machine that is not trusted, read by type."""

from __future__ import annotations

from typing import Any

from harness.report import sanitize


class Evidence:
    """Evidence by name and type; what is of another type counts as not there."""

    def __init__(self, evidence: dict[str, Any]) -> None:
        self._evidence = evidence

    def get(self, *path: str) -> Any:
        """Return what is at a path of names, None where nothing is."""
        value: Any = self._evidence
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def number(self, *path: str) -> int | None:
        """Return a whole number, None where there is none."""
        value = self.get(*path)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, *path: str) -> str:
        """Return a text as one safe line, "" where there is none."""
        value = self.get(*path)
        return sanitize.line(value, 200) if isinstance(value, str) else ""

    def texts(self, *path: str) -> list[str]:
        """Return a list's texts as safe lines."""
        value = self.get(*path)
        texts = value if isinstance(value, list) else []
        return [sanitize.line(each, 300) for each in texts if isinstance(each, str)]

    def leaf(self, leaf: str) -> tuple[int, int, int, int] | None:
        """Return eax, ebx, ecx and edx of a leaf of CPUID."""
        value = self.get("cpuid", leaf)
        if isinstance(value, list) and len(value) == 4 and all(type(x) is int for x in value):
            return value[0], value[1], value[2], value[3]
        return None
