# SPDX-License-Identifier: GPL-2.0-only
"""How a build tells what it does: nothing, lines, or a live bar."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from harness.report.live import animated


class Progress:
    """Silent; what others override."""

    def stage(self, what: str) -> None:
        """Begin something that takes a while."""

    def count(self, done: int, total: int | None = None) -> None:
        """Tell how far the stage has got; without a total nobody knows how much is left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the display."""


class ConsoleProgress(Progress):
    """A live bar on a terminal, one line a stage elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[steps]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not animated(console),
            transient=True,
        )
        self._task = self._live.add_task("", total=None, steps="", visible=False)

    def stage(self, what: str) -> None:
        """Name the stage."""
        if animated(self._console):
            self._live.reset(self._task, description=what, total=None, steps="", visible=True)
        else:
            self._console.print(what, markup=False, highlight=False)

    def count(self, done: int, total: int | None = None) -> None:
        """Move the bar; an estimate that was too low grows."""
        if total is not None:
            total = max(total, done)
        steps = f"{done} of about {total}" if total else f"{done}"
        self._live.update(self._task, completed=done, total=total, steps=steps)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()


def sayer(console: Console) -> Callable[[str], None]:
    """Return what prints lines on a console as they are: brackets in them are no markup."""

    def say(text: str) -> None:
        console.print(Text(text), soft_wrap=True)

    return say
