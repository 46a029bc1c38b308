# SPDX-License-Identifier: GPL-2.0-only
"""The history on a terminal: runs, one run, one test over time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.history.judge import Judgement, Status
from harness.history.runs import StoredRun
from harness.history.trend import Day, Point
from harness.report.live import COLOURS, tally
from harness.report.outcome import Outcome
from harness.report.words import counted

VERDICTS = {
    "good": "green",
    "bad": "bold red",
    "broken": "bold yellow",
    "cut": "bold yellow",
    "running": "cyan",
}
STATUSES = {
    Status.NEW: "bold red",
    Status.FAILING: "red",
    Status.FLAKY: "bold yellow",
    Status.KNOWN: "cyan",
    Status.FIXED: "green",
    Status.GONE: "yellow",
}
MARKS = {
    Outcome.PASS: ".",
    Outcome.FAIL: "F",
    Outcome.CRASH: "C",
    Outcome.ERROR: "E",
    Outcome.XFAIL: "x",
    Outcome.SKIP: "s",
}
LISTED = 30


def when(started: float) -> str:
    """Return a time as the machine's clock shows it."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(started))


def took(seconds: float | None) -> str:
    """Return a duration in the unit that suits it."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_runs(console: Console, runs: Sequence[StoredRun]) -> None:
    """Print a table of runs."""
    table = Table(box=None, pad_edge=False)
    table.add_column("run", justify="right", no_wrap=True)
    for title in ("began", "verdict", "where"):
        table.add_column(title, no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("label", overflow="fold")
    table.add_column("results", overflow="fold")
    table.add_column("took", justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            str(run.id),
            when(run.started),
            Text(run.verdict, style=VERDICTS[run.verdict]),
            Text(run.where),
            Text(run.what),
            Text(run.label),
            tally(run.counts),
            took(run.seconds),
        )
    console.print(table)


def facts(run: StoredRun) -> dict[str, str]:
    """Return what is known of a run besides its results, by name; only what is."""
    kernel = run.kernel
    known = {
        "label": run.label,
        "backend": run.backend,
        "interface": run.interface,
        "machine": run.machine,
        "host": run.host,
        "firmware": run.firmware,
        "kernel": kernel.name,
        "release": kernel.release,
        "base": kernel.base,
        "series": counted(len(kernel.series), "patch", "patches") if kernel.series else "",
        "config": "+".join(kernel.config),
        "compiler": kernel.compiler,
        "tree": kernel.tree,
        "commit": kernel.commit,
        "build id": kernel.build_id,
        "began": when(run.started),
        "took": took(run.seconds),
        "seed": str(run.seed),
        "snptest": run.harness,
        "command": " ".join(("snptest", *run.command)) if run.command else "",
        "results": str(run.file),
    }
    return {name: value for name, value in known.items() if value}


def show_run(console: Console, judgement: Judgement) -> None:
    """Print a run: what it is of, what came of it, and what that means after those before it."""
    run = judgement.run
    head = Text.assemble(f"run {run.id}: ", (run.verdict, VERDICTS[run.verdict]), ", ")
    console.print(head.append_text(tally(run.counts)), soft_wrap=True)
    for name, value in facts(run).items():
        console.print(Text(f"  {name:9} {value}"), soft_wrap=True)
    for reason in run.broken:
        console.print(Text(f"  not whole: {reason}", style="bold yellow"), soft_wrap=True)
    if run.pruned:
        console.print(Text("  its results were pruned; the counts are what is left", style="dim"))
        return
    console.print(Text(judgement.line, style="bold"), soft_wrap=True)
    for status in Status:
        found = judgement.of(status)
        for each in found[:LISTED]:
            since = each.since
            text = f" since run {since.id} ({when(since.started)})" if since else ""
            line = Text.assemble((f"{status}{text}: ", STATUSES[status]), (each.key, "bold"))
            console.print(line, soft_wrap=True)
            if each.result.reason and status is not Status.GONE:
                console.print(Text(f"    {each.result.reason}"), soft_wrap=True)
        if len(found) > LISTED:
            console.print(f"... and {len(found) - LISTED} more")


def show_test(
    console: Console, name: str, points: Sequence[Point], days: Sequence[Day], flakes: int
) -> None:
    """Print a test over time: a mark for each result, and how long it takes."""
    console.print(Text(name, style="bold"), soft_wrap=True)
    strip = Text("  ")
    for point in reversed(points[:100]):
        strip.append(MARKS[point.outcome], style=COLOURS[point.outcome])
    console.print(strip, soft_wrap=True)
    good = [point.seconds for point in points if point.outcome is Outcome.PASS]
    bad = [point for point in points if point.outcome.bad]
    judged = len(good) + len(bad)
    said = [counted(len(points), "result")]
    if judged:
        said.append(f"{len(good)} good, {len(bad)} bad")
        said.append(f"flake rate {flakes / judged:.1%}")
    if good:
        ordered = sorted(good)
        usual = f"usually {took(statistics.median(good))}"
        said.append(f"{usual} ({took(ordered[0])} to {took(ordered[-1])})")
    console.print(Text(f"  {', '.join(said)}"), soft_wrap=True)
    ever = sum(day.good + day.bad for day in days)
    if ever > judged:
        wrong = sum(day.bad for day in days)
        console.print(Text(f"  ever: {ever} results, {wrong} bad, on {len(days)} days"))
    for point in bad[:5]:
        text = f"  run {point.run}, {when(point.started)}: {point.outcome}: {point.reason}"
        console.print(Text(text, style=COLOURS[point.outcome]), soft_wrap=True)
    if len(bad) > 5:
        console.print(Text(f"  ... and {len(bad) - 5} more that were bad", style="dim"))
