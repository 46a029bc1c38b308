# SPDX-License-Identifier: GPL-2.0-only
"""Which guest frames are private: KVM's memory attributes as a set of ranges."""

from __future__ import annotations

import bisect


class PrivateRanges:
    """A set of guest frame numbers kept as sorted, disjoint, non-adjacent half-open ranges."""

    def __init__(self) -> None:
        self._edges: list[int] = []  # start, end, start, end, …

    def __contains__(self, gfn: int) -> bool:
        return bisect.bisect_right(self._edges, gfn) % 2 == 1

    def covers(self, start: int, end: int) -> bool:
        """Whether every frame of [start, end) is in the set."""
        index = bisect.bisect_right(self._edges, start)
        return index % 2 == 1 and self._edges[index] >= end

    def disjoint(self, start: int, end: int) -> bool:
        """Whether no frame of [start, end) is in the set."""
        index = bisect.bisect_right(self._edges, start)
        return index % 2 == 0 and (index == len(self._edges) or self._edges[index] >= end)

    def set(self, start: int, end: int, private: bool) -> None:
        """Put [start, end) into the set or take it out."""
        left = bisect.bisect_left(self._edges, start)
        right = bisect.bisect_right(self._edges, end)
        edges = []
        if (left % 2 == 1) != private:
            edges.append(start)
        if (right % 2 == 1) != private:
            edges.append(end)
        self._edges[left:right] = edges

    def ranges(self) -> list[tuple[int, int]]:
        """The ranges as (start, end) pairs."""
        return list(zip(self._edges[::2], self._edges[1::2], strict=True))
