# SPDX-License-Identifier: GPL-2.0-only
"""Bulk work on the RMP in numpy: any machine can run it, and the C path is held against it.

Each operation treats entries in order and stops before the first that the single instruction
would refuse.  Why it refuses is the business of the single instruction.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from harness.emulator.memory import PAGE_SIZE
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
BLOCK = 4096
"""Entries worked on at once, so that they and what is computed from them stay in the cache."""

_PAGES: Words = np.arange(BLOCK, dtype=np.uint64) * np.uint64(PAGE_SIZE)


class Bulk(Protocol):
    """Operations on entries [first, first + count) of one table."""

    name: str

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
        done = 0
        while done < count:
            at, size = first + done, min(BLOCK, count - done)
            good = self._updatable(at, size)
            self.fill(at, good, lo + done * step, step, hi)
            done += good
            if good < size:
                break
        return done

    def _updatable(self, first: int, count: int) -> int:
        good = _leading((self._lo[first : first + count] & _u64(IMMUTABLE)) == 0)
        start = first // REGION * REGION
        heads = self._lo[start : first + count : REGION]
        huge = np.flatnonzero((heads & _u64(HEAD_2M)) == _u64(HEAD_2M))
        if huge.size:
            good = min(good, max(0, start + int(huge[0]) * REGION - first))
        return good

    def fill(self, first: int, count: int, lo: int, step: int, hi: int) -> None:
        """Write entries."""
        for done in range(0, count, BLOCK):
            at, size = first + done, min(BLOCK, count - done)
            self._lo[at : at + size] = ramp(lo + done * step, step, size) if step else lo
        self._hi[first : first + count] = hi

    def validate(self, first: int, count: int, lo: int, validate: bool) -> tuple[int, int]:
        """PVALIDATE of 4 KiB pages."""
        done = changed = 0
        while done < count:
            at, size = first + done, min(BLOCK, count - done)
            words = self._lo[at : at + size]
            expected = ramp(lo + done * PAGE_SIZE, PAGE_SIZE, size)
            good = _leading(((words ^ expected) & ~_u64(VALIDATED | VMSA)) == 0)
            words = words[:good]
            before = int(np.count_nonzero(words & _u64(VALIDATED)))
            if validate:
                words |= _u64(VALIDATED)
            else:
                words &= ~_u64(VALIDATED)
            changed += good - before if validate else before
            done += good
            if good < size:
                break
        return done, changed

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
    if step == PAGE_SIZE and count <= BLOCK:
        return _PAGES[:count] + _u64(lo)
    return np.arange(count, dtype=np.uint64) * _u64(step) + _u64(lo)


def _leading(good: npt.NDArray[Any]) -> int:
    """How many are true before the first that is not."""
    return len(good) if good.all() else int(good.argmin())
