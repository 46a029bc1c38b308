# SPDX-License-Identifier: GPL-2.0-only
"""Lists that do not grow with what is in them: the first of it here, the rest on pages of a size.

A page is opened from a file, where nothing can be loaded on demand but another page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup, escape

PAGE = 200_000
"""Bytes of a page's rows.  A row that is larger has a page of its own."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """Rows with a heading, or some of them."""

    title: str
    said: str
    rows: tuple[Markup, ...]
    anchor: str = ""
    """Name of the place where it begins; "" where it only goes on."""


def size(*texts: str) -> int:
    """Return the bytes of texts on a page."""
    return sum(len(str(escape(text)).encode("utf-8", "replace")) for text in texts)


def first(items: Sequence[T], sizes: Sequence[int], budget: int) -> Sequence[T]:
    """Return as many of the first items as fit."""
    left = budget
    for number, each in enumerate(sizes):
        left -= each
        if left < 0:
            return items[:number]
    return items


def packed(items: Sequence[T], sizes: Sequence[int], budget: int = PAGE) -> list[list[T]]:
    """Spread items over pages, in order."""
    pages: list[list[T]] = []
    left = 0
    for item, each in zip(items, sizes, strict=True):
        if not pages or each > left:
            pages.append([])
            left = budget
        pages[-1].append(item)
        left -= each
    return pages


def paged(groups: Iterable[Group], budget: int = PAGE) -> list[list[Group]]:
    """Spread groups over pages; one that does not fit goes on on the next, under its heading."""
    rows = [(group, row) for group in groups for row in group.rows]
    pages = []
    begun: set[str] = set()
    for page in packed(rows, [size_of(row) for _, row in rows], budget):
        parts: dict[str, list[Markup]] = {}
        heads = {group.title: group for group, _ in page}
        for group, row in page:
            parts.setdefault(group.title, []).append(row)
        pages.append(
            [
                Group(title, heads[title].said, tuple(part), _anchor(heads[title], begun))
                for title, part in parts.items()
            ]
        )
        begun |= parts.keys()
    return pages


def _anchor(group: Group, begun: set[str]) -> str:
    return "" if group.title in begun else group.anchor


def size_of(markup: Markup) -> int:
    """Return the bytes of what is rendered."""
    return len(markup.encode("utf-8", "replace"))
