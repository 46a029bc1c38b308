# SPDX-License-Identifier: GPL-2.0-only
"""What commands made of runs have in common: files that they write, a bar of results."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from harness.cli.streams import document
from harness.errors import UsageError, UserError
from harness.report import files
from harness.report.live import animated
from harness.report.outcome import Result

STDOUT = Path("-")


def write_text(path: Path | None, text: str) -> None:
    """Write a file that the user asked for, if so; - is standard output.

    UserError where it cannot be written: by now it is the disk's fault, not the command line's.
    """
    if path is None:
        return
    try:
        if path == STDOUT:
            document(text)
        else:
            files.write(path, text)
    except OSError as error:
        raise UserError(f"cannot write {error.filename}: {error.strerror}") from error


def to_stdout(*paths: Path | None) -> bool:
    """Whether a report goes to standard output, which is then its alone; only one may."""
    wanted = [path for path in paths if path == STDOUT]
    if len(wanted) > 1:
        raise UsageError("only one report can go to standard output", "name a file for the other")
    return bool(wanted)


def need_writable(*paths: Path | None) -> None:
    """Check that files can be written, before minutes are spent on what belongs in them.

    What there is stays as it is.  UsageError where one cannot be; None and - need no check.
    """
    to_stdout(*paths)
    for path in paths:
        if path is None or path == STDOUT:
            continue
        if path.is_dir():
            raise UsageError(f"{path} is a directory", "name a file")
        there = path.exists()
        if there and not path.is_file():
            continue  # a pipe's reader would take it for the end
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab"):
                pass
            if not there:
                path.unlink()
        except OSError as error:
            raise UsageError(
                f"cannot write {path}: {error.strerror}", "nothing was run; name another file"
            ) from None


class ResultsBar:
    """Counts results as they come: on terminals a bar, elsewhere nothing.

    How many there will be is not known: a run of a run says so only in the end.
    """

    def __init__(self, console: Console) -> None:
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed} results, {task.fields[bad]} bad"),
            TimeElapsedColumn(),
            console=console,
            disable=not animated(console),
            transient=True,
        )
        self._task = self._live.add_task("", total=None, bad=0)
        self._bad = 0

    def begin(self, what: str) -> None:
        """Begin anew, and show it."""
        self._bad = 0
        self._live.reset(self._task, description=what, bad=0)
        self._live.start()

    def result(self, result: Result) -> None:
        """Count a result."""
        self._bad += result.outcome.bad
        self._live.update(self._task, advance=1, bad=self._bad)

    def stop(self) -> None:
        """Take it off the screen."""
        self._live.stop()
