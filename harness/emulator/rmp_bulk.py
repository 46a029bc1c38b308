# SPDX-License-Identifier: GPL-2.0-only
"""Bulk work on the RMP in numpy: any machine can run it, and the C path is held against it.

Each operation treats entries in order and stops before the first that the single instruction
would refuse.  Why it refuses is the business of the single instruction.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from harness.emulator.rmp_entry import (
    ASID_MASK,
    ASID_SHIFT,
    ASSIGNED,
    HEAD_2M,
    IMMUTABLE,
    SIZE_2M,
    VALIDATED,
    VMSA,
)

Words = npt.NDArray[np.uint64]

REGION = 512
"""Entries per 2 MiB."""


class Bulk(Protocol):
    """Operations on entries [first, first + count) of one table."""

    def update(self, first: int, count: int, lo: int, step: int, hi: int) -> int:
        """RMPUPDATE of 4 KiB pages: entry i becomes (lo + i * step, hi).  Returns how many."""

    def fill(self, first: int, count: int, lo: int, step: int, hi: int) -> None:
        """Entry i becomes (lo + i * step, hi), whatever it was."""

    def validate(self, first: int, count: int, lo: int, validate: bool) -> tuple[int, int]:
        """PVALIDATE of 4 KiB pages that look like lo + i * 4096.  Returns how many, and changed."""

    def count(self, first: int, count: int, asid: int) -> tuple[int, int]:
        """Assigned entries, and 4 KiB pages that entries with this ASID (0: any guest's) cover."""


class NumpyBulk:
    """The operations, vectorised."""

    name = "numpy"

    def __init__(self, table: Words) -> None:
        self._lo, self._hi = table[0::2], table[1::2]

    def update(self, first: int, count: int, lo: int, step: int, hi: int) -> int:
        """RMPUPDATE of 4 KiB pages."""
        words = self._lo[first : first + count]
        good = _leading((words & _u64(IMMUTABLE)) == 0)
        start = first // REGION * REGION
        heads = self._lo[start : first + count : REGION]
        huge = np.flatnonzero((heads & _u64(HEAD_2M)) == _u64(HEAD_2M))
        if huge.size:
            good = min(good, max(0, start + int(huge[0]) * REGION - first))
        self.fill(first, good, lo, step, hi)
        return good

    def fill(self, first: int, count: int, lo: int, step: int, hi: int) -> None:
        """Write entries."""
        self._lo[first : first + count] = ramp(lo, step, count)
        self._hi[first : first + count] = hi

    def validate(self, first: int, count: int, lo: int, validate: bool) -> tuple[int, int]:
        """PVALIDATE of 4 KiB pages."""
        words = self._lo[first : first + count]
        good = _leading(((words ^ ramp(lo, 4096, count)) & ~_u64(VALIDATED | VMSA)) == 0)
        words = words[:good]
        before = int(np.count_nonzero(words & _u64(VALIDATED)))
        if validate:
            words |= _u64(VALIDATED)
            return good, good - before
        words &= ~_u64(VALIDATED)
        return good, before

    def count(self, first: int, count: int, asid: int) -> tuple[int, int]:
        """Count assigned entries and covered pages."""
        words = self._lo[first : first + count]
        words = words[(words & _u64(ASSIGNED)) != 0]
        asids = words >> _u64(ASID_SHIFT) & _u64(ASID_MASK)
        found = words[asids == _u64(asid)] if asid else words[asids != 0]
        huge = int(np.count_nonzero(found & _u64(SIZE_2M)))
        return len(words), len(found) + huge * (REGION - 1)


def _u64(value: int) -> np.uint64:
    return np.uint64(value)


def ramp(lo: int, step: int, count: int) -> Words:
    """lo, lo + step, ..."""
    return np.arange(count, dtype=np.uint64) * _u64(step) + _u64(lo)


def _leading(good: npt.NDArray[Any]) -> int:
    """How many are true before the first that is not."""
    return len(good) if good.all() else int(good.argmin())
