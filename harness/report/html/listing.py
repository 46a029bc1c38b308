# SPDX-License-Identifier: GPL-2.0-only
"""Pages that are one long list, as many as it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.report.html.pack import Group
from harness.report.html.templates import environment, render

Page = tuple[str, str]
"""A file's name and its content."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a list of contents."""

    title: str
    said: str
    href: str


def row(macro: str, *values: object) -> Markup:
    """Render a row: a macro of rows.html."""
    module = environment().get_template("rows.html").module
    return Markup(getattr(module, macro)(*values))  # escaped by the template


def pages(
    stem: str, heading: str, kind: str, groups: Sequence[Sequence[Group]], **more: object
) -> Iterator[Page]:
    """Yield STEM-1.html and so on; kind: which table the rows belong to, or failures."""
    for number, each in enumerate(groups, 1):
        yield page(stem, heading, kind, each, number, len(groups), **more)


def page(
    stem: str,
    heading: str,
    kind: str,
    groups: Sequence[Group],
    number: int,
    count: int,
    **more: object,
) -> Page:
    """Return one of these pages."""
    values = {"run": None, "window": 0, "columns": (), "pages": (), **more}
    text = render(
        "list.html",
        stem=stem,
        heading=heading,
        kind=kind,
        groups=groups,
        number=number,
        count=count,
        made=time.time(),
        **values,
    )
    return f"{stem}-{number}.html", text


def contents(stem: str, groups: Sequence[Sequence[Group]]) -> list[Entry]:
    """List where each group begins."""
    return [
        Entry(group.title, group.said, f"{stem}-{number}.html#{group.anchor}")
        for number, page in enumerate(groups, 1)
        for group in page
        if group.anchor
    ]
