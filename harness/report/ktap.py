# SPDX-License-Identifier: GPL-2.0-only
"""KTAP, version 1 (Documentation/dev-tools/ktap.rst, 6.12): a subtest per suite and interface."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from harness.report import names
from harness.report.outcome import Outcome, Result

# A crash or error is "not ok"; the directive words are those that ktap.rst lists.
_DIRECTIVES = {Outcome.SKIP: "SKIP", Outcome.XFAIL: "XFAIL", Outcome.ERROR: "ERROR"}


def render(results: Sequence[Result]) -> str:
    """Return the KTAP document as text."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Sequence[Result]) -> Iterator[str]:
    called = names.numbered(_name(names.of(result)) for result in results)
    ordered = sorted(
        zip(called, results, strict=True), key=lambda each: (each[1].suite, each[1].interface)
    )
    groups = [
        (f"{suite}[{interface}]" if interface else suite, list(group))
        for (suite, interface), group in itertools.groupby(
            ordered, key=lambda each: (each[1].suite, each[1].interface)
        )
    ]
    yield "KTAP version 1"
    yield f"1..{len(groups)}"
    for number, (title, group) in enumerate(groups, 1):
        yield "  KTAP version 1"
        yield f"  # Subtest: {_name(title)}"
        yield f"  1..{len(group)}"
        for index, (name, result) in enumerate(group, 1):
            yield from _case(index, name, result)
        members = [result for _, result in group]
        yield f"{_status(members)} {number} {_name(title)}{_all_skipped(members)}"


def _case(index: int, name: str, result: Result) -> Iterator[str]:
    # Diagnostics come before the result line they belong to.
    if result.outcome.bad:
        if result.outcome is Outcome.CRASH:
            yield "  # the kernel under test died or hung"
        for text in (result.reason, result.details, result.console):
            for line in text.splitlines():
                yield f"  # {line}".rstrip()
    directive = _DIRECTIVES.get(result.outcome)
    suffix = f" # {directive} {_escape(result.reason)}".rstrip() if directive else ""
    yield f"  {_status([result])} {index} {name}{suffix}"


def _status(group: Iterable[Result]) -> str:
    return "not ok" if any(result.outcome.bad for result in group) else "ok"


def _all_skipped(group: Sequence[Result]) -> str:
    return " # SKIP" if all(result.outcome is Outcome.SKIP for result in group) else ""


def _name(text: str) -> str:
    """A test name: any characters but '#', which begins a directive."""
    return _escape(text) or "unnamed"


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("#", "\\#")
