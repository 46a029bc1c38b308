# SPDX-License-Identifier: GPL-2.0-only
"""A comparison as people read it: a table and lists on a terminal, plain text for a mail reply.

Mail is as kernel developers write it: 72 columns, no colour, no markup; an id or a message
that is longer stays whole on a line of its own, so that it can be pasted.
"""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.compare.diff import REGRESSIONS, Change, Comparison, Kind, Side
from harness.report import sanitize
from harness.report.outcome import FAILURE_WIDTH, Outcome, Result
from harness.report.words import counted

WIDTH = 72
LISTED = 40
"""Tests that are listed of a kind; the rest is counted."""
PARAMETERS = 8
"""Of a test that are listed."""
COLOURS = {
    Kind.BROKEN: "bold red",
    Kind.NEWLY_FLAKY: "bold red",
    Kind.FIXED: "green",
    Kind.FLAKY: "bold yellow",
    Kind.KNOWN: "cyan",
    Kind.SLOWER: "yellow",
    Kind.SKIPPED: "yellow",
    Kind.RUN: "green",
    Kind.NEW: "",
    Kind.GONE: "yellow",
    Kind.FAILING: "red",
    Kind.UNJUDGED: "bold yellow",
}


def runs(results: Sequence[Result]) -> str:
    """Say what the runs of a test came to: 'pass', 'fail 2 of 3', 'not there'."""
    if not results:
        return "not there"
    counts = Counter(each.outcome for each in results)
    if len(counts) == 1:
        outcome, count = counts.popitem()
        return str(outcome) + (f", {count} times" if count > 1 else "")
    return ", ".join(
        f"{outcome} {counts[outcome]} of {len(results)}" for outcome in Outcome if counts[outcome]
    )


def line_of(change: Change) -> str:
    """Say what happened to a test, on one line."""
    if change.kind is Kind.SLOWER:
        return f"{_usual(change.before):.2f} s -> {_usual(change.after):.2f} s"
    reason = change.sample.reason
    return f"{_said(change)}: {reason}" if reason else _said(change)


def _said(change: Change) -> str:
    return f"{runs(change.before)} -> {runs(change.after)}"


@dataclass(frozen=True, slots=True)
class Family:
    """Changes of one test that differ in its parameters alone."""

    name: str
    """The test's id; without parameters where they are several."""
    parameters: tuple[str, ...]
    """Of each, where they are several."""
    changes: tuple[Change, ...]

    @property
    def first(self) -> Change:
        """The one that stands for all."""
        return self.changes[0]


def families(changes: Iterable[Change]) -> list[Family]:
    """Put together what happened alike to one test with several parameters."""
    found: defaultdict[tuple[str, str], list[Change]] = defaultdict(list)
    for change in changes:
        name = change.key.partition("[")[0]
        # How slow each has become is its own.
        said = change.key if change.kind is Kind.SLOWER else _said(change)
        found[name, said].append(change)
    made = []
    for (name, _), alike in found.items():
        if len(alike) == 1:
            made.append(Family(alike[0].key, (), tuple(alike)))
        else:
            parameters = tuple(each.key.removeprefix(name) or "[]" for each in alike)
            made.append(Family(name, parameters, tuple(alike)))
    return made


def _listed(family: Family) -> str:
    """List the parameters of a family, some of them if they are many."""
    more = len(family.parameters) - PARAMETERS
    shown = family.parameters[: PARAMETERS if more > 0 else None]
    return " ".join(shown) + (f" and {more} more" if more > 0 else "")


def groups(changes: Iterable[Change], subjects: Mapping[str, str]) -> dict[str, list[Change]]:
    """Group changes by area, and by patch of the v12 series: 'area X' and 'patch NN: subject'."""
    areas: defaultdict[str, list[Change]] = defaultdict(list)
    patches: defaultdict[int, list[Change]] = defaultdict(list)
    for change in changes:
        for area in change.sample.areas:
            areas[area].append(change)
        for patch in change.sample.patches:
            patches[patch].append(change)
    found = {f"area {area}": areas[area] for area in sorted(areas)}
    for patch in sorted(patches):
        subject = subjects.get(str(patch), "")
        found[f"patch {patch:02d}" + (f": {subject}" if subject else "")] = patches[patch]
    return found


def show(
    console: Console, comparison: Comparison, a: Side, b: Side, subjects: Mapping[str, str]
) -> None:
    """Print a comparison to a terminal or a pipe."""
    for letter, side in (("A", a), ("B", b)):
        about = f" ({side.about})" if side.about else ""
        console.print(Text(f"{letter}: {side.label}{about}", style="dim"), soft_wrap=True)
    kinds = [kind for kind in Kind if comparison.of(kind)]
    for kind in kinds:
        changes = comparison.of(kind)
        console.print(Text(f"{kind} ({len(changes)})", style=COLOURS[kind]))
        made = families(changes)
        for family in made[:LISTED]:
            change = family.first
            console.print(Text(f"  {family.name}", style="bold"), soft_wrap=True)
            if family.parameters:
                console.print(Text(f"      {_listed(family)}"), soft_wrap=True)
            console.print(Text(f"      {line_of(change)}"), soft_wrap=True)
            if change.kind in REGRESSIONS and change.sample.description:
                text = f"      must hold: {change.sample.description}"
                console.print(Text(text, style="dim"), soft_wrap=True)
        if len(made) > LISTED:
            console.print(f"  ... and {len(made) - LISTED} more")
    found = groups(comparison.changes, subjects)
    if found:
        console.print(_table(found, kinds))
    for text in _remarks(comparison, a, b):
        console.print(Text(text, style="dim"), soft_wrap=True)
    console.print(Text(verdict(comparison, a, b), style="bold"), soft_wrap=True)


def verdict(comparison: Comparison, a: Side, b: Side) -> str:
    """Say in one sentence what the comparison came to."""
    counts = [(kind, len(comparison.of(kind))) for kind in Kind if comparison.of(kind)]
    said = ", ".join(f"{count} {kind}" for kind, count in counts) or "no difference"
    end = "; not all could be judged" if a.broken or b.broken else ""
    tests = counted(comparison.both, "test")
    return f"{tests} on both sides: {said}{end}"


def mail(comparison: Comparison, a: Side, b: Side, subjects: Mapping[str, str]) -> str:
    """Write a comparison as plain text for a reply on a mailing list."""
    lines = []
    for letter, side in (("A", a), ("B", b)):
        about = f" ({side.about})" if side.about else ""
        lines += _wrapped(f"{letter}: {side.label}{about}", after="   ")
    lines += ["", *_wrapped(verdict(comparison, a, b) + ".")]
    for kind in Kind:
        changes = comparison.of(kind)
        if not changes:
            continue
        lines += ["", f"{str(kind).capitalize()}:"]
        made = families(changes)
        for family in made[:LISTED]:
            change = family.first
            lines += ["", f"  {sanitize.line(family.name)}"]
            if family.parameters:
                lines += _wrapped(_listed(family), "    ")
            lines += _change_lines(change)
            if change.kind in REGRESSIONS and change.sample.description:
                lines += _wrapped(f"Must hold: {change.sample.description}", "    ")
        if len(made) > LISTED:
            lines += ["", f"  ... and {len(made) - LISTED} more"]
    found = groups(comparison.changes, subjects)
    if found:
        lines += ["", "By area and patch of the series:", ""]
        for name, changes in found.items():
            counts = Counter(change.kind for change in changes)
            said = ", ".join(f"{counts[kind]} {kind}" for kind in Kind if counts[kind])
            lines += _wrapped(f"{name}: {said}", "  ", "      ")
    remarks = _remarks(comparison, a, b)
    if remarks:
        lines.append("")
        for text in remarks:
            lines += _wrapped(text)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _change_lines(change: Change) -> list[str]:
    """Say what happened to a test; the line of a failure stays whole, so that it can be found."""
    text = sanitize.line(line_of(change))
    reason = sanitize.line(change.sample.reason)
    if len(text) <= WIDTH - 4 or len(reason) > FAILURE_WIDTH or not text.endswith(f": {reason}"):
        return _wrapped(text, "    ")
    return [*_wrapped(text.removesuffix(f" {reason}"), "    "), f"    {reason}"]


def _table(found: Mapping[str, Sequence[Change]], kinds: Sequence[Kind]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("area, patch of the v12 series", overflow="ellipsis")
    for kind in kinds:
        table.add_column(kind, justify="right")
    for name, changes in found.items():
        counts = Counter(change.kind for change in changes)
        cells = [
            Text(str(counts[kind]), style=COLOURS[kind]) if counts[kind] else Text("·", style="dim")
            for kind in kinds
        ]
        table.add_row(Text(name), *cells)
    return table


def _remarks(comparison: Comparison, a: Side, b: Side) -> list[str]:
    """Say what a reader must know to judge the comparison."""
    said = [f"not judged: {reason}" for reason in dict.fromkeys((*a.broken, *b.broken))]
    if a.compiler and b.compiler and a.compiler != b.compiler:
        said.append(
            f"A was built by {a.compiler}, B by {b.compiler}: a difference may be the compiler's"
        )
    if comparison.pace > 1.1 or comparison.pace < 0.9:
        said.append(f"B takes {comparison.pace:.2f} times as long as A altogether")
    changes = [*comparison.of(Kind.BROKEN), *comparison.of(Kind.FIXED)]
    if once := sum(change.once for change in changes):
        tests = "1 of the broken and fixed was" if once == 1 else f"{once} broken or fixed were"
        said.append(f"{tests} seen once: it could be flaky")
    unsure = [each for each in comparison.of(Kind.FLAKY) if len(each.before) == 1]
    if unsure:
        tests = "1 flaky test" if len(unsure) == 1 else f"{len(unsure)} flaky tests"
        said.append(f"{tests} ran once on A: that says not whether it is as flaky there")
    return said


def _usual(results: Sequence[Result]) -> float:
    times = sorted(each.seconds for each in results if each.outcome is Outcome.PASS)
    return times[len(times) // 2] if times else 0.0


def _wrapped(text: str, first: str = "", after: str | None = None) -> list[str]:
    return textwrap.wrap(
        sanitize.line(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if after is None else after,
        break_long_words=False,
        break_on_hyphens=False,
    )
