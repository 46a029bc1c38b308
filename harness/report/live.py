# SPDX-License-Identifier: GPL-2.0-only
"""What is seen while tests run: a progress display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from harness.report import sanitize
from harness.report.outcome import Outcome, Result
from harness.report.words import counted

COLOURS = {
    Outcome.PASS: "green",
    Outcome.FAIL: "bold red",
    Outcome.CRASH: "bold magenta",
    Outcome.ERROR: "bold yellow",
    Outcome.XFAIL: "cyan",
    Outcome.SKIP: "dim",
}
PLAIN_INTERVAL = 5.0
"""Seconds between two lines of progress where there is no terminal."""


class Display(Protocol):
    """What follows a run."""

    def collected(self, count: int) -> None:
        """Take note of how many tests there are."""

    def begin(self, id: str) -> None:
        """Take note of a test that begins."""

    def result(self, result: Result) -> None:
        """Take note of a result."""

    def close(self) -> None:
        """End the display."""


def tally(counts: Counter[Outcome]) -> Text:
    """Render the counts that are not zero, as in '12 pass, 1 fail'."""
    parts = [
        Text(f"{counts[outcome]} {outcome}", style=COLOURS[outcome])
        for outcome in Outcome
        if counts[outcome]
    ]
    return Text(", ").join(parts) if parts else Text("none yet", style="dim")


def announcement(result: Result) -> Text:
    """Render the line that tells of a bad result at once."""
    head = Text.assemble((f"{result.outcome.upper():5} ", COLOURS[result.outcome]))
    return head.append(result.id, style="bold").append(f": {result.reason}")


class LiveDisplay:
    """A bar with counts and the test at hand, failures scrolling above it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.counts: Counter[Outcome] = Counter()
        self.running: dict[str, float] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[counts]}", markup=False),
            TextColumn("{task.fields[now]}", style="dim", markup=False),
            console=console,
            transient=True,
        )
        self.task = self.progress.add_task("collecting", total=None, counts="", now="")
        self.progress.start()

    def collected(self, count: int) -> None:
        """Set the length of the bar."""
        self.progress.update(self.task, total=count, description="running")

    def begin(self, id: str) -> None:
        """Show the test that has run longest."""
        self.running[id] = time.monotonic()
        self._refresh()

    def result(self, result: Result) -> None:
        """Move the bar on."""
        self.running.pop(result.id, None)
        self.counts[result.outcome] += 1
        if result.outcome.bad:
            self.progress.console.print(announcement(result), highlight=False, soft_wrap=True)
        self.progress.advance(self.task)
        self._refresh()

    def _refresh(self) -> None:
        oldest = min(self.running, key=self.running.__getitem__, default="")
        bad = Counter({o: n for o, n in self.counts.items() if o.bad})
        room = max(10, self.console.width - 75)
        self.progress.update(
            self.task,
            counts=tally(bad).plain if bad else "",
            now=sanitize.line(oldest.rpartition("/")[2], room),
        )

    def close(self) -> None:
        """Take the bar away; what was printed above it stays."""
        self.progress.stop()


class PlainDisplay:
    """A line now and then, and every failure at once: for logs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.counts: Counter[Outcome] = Counter()
        self.total = 0
        self.last = time.monotonic()
        self.began = self.last

    def collected(self, count: int) -> None:
        """Say how many tests there are."""
        self.total = count
        self._print(Text(counted(count, "test")))

    def begin(self, id: str) -> None:
        """Begin silently."""

    def result(self, result: Result) -> None:
        """Print failures at once, progress at intervals."""
        self.counts[result.outcome] += 1
        if result.outcome.bad:
            self._print(announcement(result))
        now = time.monotonic()
        if now - self.last >= PLAIN_INTERVAL:
            self.last = now
            done = f"{self.counts.total()}/{self.total} after {now - self.began:.0f} s: "
            self._print(Text(done).append_text(tally(self.counts)))

    def _print(self, text: Text) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """End silently; the summary follows."""


def animated(console: Console) -> bool:
    """Whether lines may be written over: on a terminal, not in a log that is to have colours.

    FORCE_COLOR and TTY_COMPATIBLE, as CI systems set them, make rich call any file a terminal.  A
    dumb terminal cannot take a line back.
    """
    if console.is_dumb_terminal:
        return False
    forced = any(os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))
    return console.is_terminal and (console.file.isatty() or not forced)


def display(console: Console) -> Display:
    """Choose by what the console is."""
    return LiveDisplay(console) if animated(console) else PlainDisplay(console)


def header(console: Console, fields: dict[str, Any]) -> None:
    """Print the line that says what is run."""
    text = "  ".join(f"{key} {value}" for key, value in fields.items() if value not in (None, ""))
    console.print(Text(text, style="bold"), highlight=False, soft_wrap=True)
