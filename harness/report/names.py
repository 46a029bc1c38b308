# SPDX-License-Identifier: GPL-2.0-only
"""What reports call results: a name each, whatever format and however often a test ran.

A consumer keeps one of two results of the same name, or shows them as one test that changed its
mind.  The history knows a test by its id (harness/history), which stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from harness.report.outcome import Result

FOLDER = "suites/"


def of(result: Result) -> str:
    """Return suite, file, class, test and parameters: launch/test_types.py::test_x[v12-4K]."""
    return result.id.removeprefix(FOLDER)


def numbered(names: Iterable[str], mark: str = ":") -> list[str]:
    """Tell apart names that come again: x, x:2, x:3; the first stays as it is."""
    wanted = list(names)
    taken = set(wanted)
    seen: Counter[str] = Counter()
    found = []
    for name in wanted:
        seen[name] += 1
        each = name
        while seen[name] > 1 and (each := f"{name}{mark}{seen[name]}") in taken:
            seen[name] += 1
        taken.add(each)
        found.append(each)
    return found
