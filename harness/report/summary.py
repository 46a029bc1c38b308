# SPDX-License-Identifier: GPL-2.0-only
"""The end of a run on one screen: per suite, per patch of the series, per area, and what failed."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import tables
from harness.places import ROOT
from harness.report.live import COLOURS, announcement, tally
from harness.report.outcome import BOOT, Outcome, Result

MAX_SKIP_REASONS = 8
MAX_FAILURES = 40
WIDE = 80
"""Columns of a terminal from which on subjects of patches are shown: counts come first."""


def show(
    console: Console, results: Sequence[Result], seconds: float, rerun: Sequence[str] = ()
) -> None:
    """Print the tables, the failures with how to run each again, and the last line.

    rerun: options of this run that a re-run needs besides the test's id.
    """
    if results:
        wide = console.width >= WIDE
        columns = list(Outcome) if wide else sorted({each.outcome for each in results}, key=_rank)
        console.print(_suites(results, columns))
        for table in (_patches(results, columns, subjects=wide), _areas(results, columns)):
            if table.row_count:
                console.print(table)
    _skips(console, results)
    _failures(console, results, rerun)
    counts = Counter(result.outcome for result in results)
    last = tally(counts) if results else Text("no test ran")
    console.print(last.append(f" in {seconds:.1f} s"), highlight=False)


def _rank(outcome: Outcome) -> int:
    return list(Outcome).index(outcome)


def _table(title: str, columns: Sequence[Outcome], *first: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in first:
        table.add_column(name, overflow="fold")
    for outcome in columns:  # a count that is cut short would be another one
        table.add_column(outcome.value, justify="right", no_wrap=True, min_width=len(outcome))
    return table


def _cells(counts: Counter[Outcome], columns: Sequence[Outcome]) -> list[Text]:
    return [
        Text(str(counts[each]), style=COLOURS[each]) if counts[each] else Text("·", style="dim")
        for each in columns
    ]


K = TypeVar("K", bound=Hashable)


def _group(pairs: Iterable[tuple[K, Outcome]]) -> dict[K, Counter[Outcome]]:
    groups: dict[K, Counter[Outcome]] = defaultdict(Counter)
    for key, outcome in pairs:
        groups[key][outcome] += 1
    return groups


def _suites(results: Sequence[Result], columns: Sequence[Outcome]) -> Table:
    table = _table("suites", columns, "suite", "interface")
    table.add_column("time", justify="right")
    times: defaultdict[tuple[str, str], float] = defaultdict(float)
    for result in results:
        times[result.suite, result.interface] += result.seconds
    groups = _group(((each.suite, each.interface), each.outcome) for each in results)
    for key in sorted(groups):
        table.add_row(*key, *_cells(groups[key], columns), f"{times[key]:.1f} s")
    return table


def _patches(results: Sequence[Result], columns: Sequence[Outcome], *, subjects: bool) -> Table:
    table = _table("patches of the v12 series", columns, "patch")
    if subjects:
        table.add_column("subject", style="dim", no_wrap=True, overflow="ellipsis")
    groups = _group((patch, each.outcome) for each in results for patch in each.patches)
    names = patch_subjects()
    for patch in sorted(groups):
        subject = [names.get(str(patch), "")] if subjects else []
        table.add_row(f"{patch:02d}", *_cells(groups[patch], columns), *subject)
    return table


def patch_subjects() -> dict[str, str]:
    """Subjects of the series' patches by number (kernels/v12.toml)."""
    manifest = ROOT / "kernels" / "v12.toml"
    keys = ("title", "message_id", "date", "patches")
    patches = tables.Values(manifest, "", tables.read(manifest), keys).named("patches")
    values = tables.Values(manifest, "patches", patches, tuple(patches))
    return {number: values.need(number) for number in patches}


def _areas(results: Sequence[Result], columns: Sequence[Outcome]) -> Table:
    table = _table("areas", columns, "area")
    groups = _group((area, each.outcome) for each in results for area in each.areas)
    for area in sorted(groups):
        table.add_row(area, *_cells(groups[area], columns))
    return table


def _skips(console: Console, results: Sequence[Result]) -> None:
    reasons = Counter(each.reason for each in results if each.outcome is Outcome.SKIP)
    for reason, count in reasons.most_common(MAX_SKIP_REASONS):
        console.print(Text(f"skipped {count}: {reason}", style="dim"), soft_wrap=True)
    if len(reasons) > MAX_SKIP_REASONS:
        more = len(reasons) - MAX_SKIP_REASONS
        console.print(Text(f"skipped for {more} other reasons", style="dim"))
    for result in results:
        if result.outcome is Outcome.XFAIL:
            text = f"known issue: {result.id}: {result.reason}"
            console.print(Text(text, style=COLOURS[Outcome.XFAIL]), soft_wrap=True)


def _failures(console: Console, results: Sequence[Result], rerun: Sequence[str]) -> None:
    bad = [each for each in results if each.outcome.bad]
    for result in bad[:MAX_FAILURES]:
        console.print(announcement(result), soft_wrap=True, highlight=False)
        if result.description:
            console.print(Text(f"      {result.description}"), soft_wrap=True)
        if result.suite != BOOT:
            command = shlex.join(["./snptest", "run", result.id, *rerun])
            console.print(Text(f"      again: {command}", style="dim"), soft_wrap=True)
    if len(bad) > MAX_FAILURES:
        console.print(f"... and {len(bad) - MAX_FAILURES} more, in the results file")
