# SPDX-License-Identifier: GPL-2.0-only
"""`snptest report`: stored runs as HTML, JUnit, KTAP, KCIDB."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options
from harness.cli.output import need_writable, write_text
from harness.errors import UsageError
from harness.report.live import animated

if TYPE_CHECKING:
    from harness.history.runs import StoredRun
    from harness.history.store import History

HELP = """Write reports of stored runs: HTML pages, JUnit, KTAP, KCIDB.

RUN is a run's number in the history, last, last-1, or its folder.  Where all are folders or files
of results, the history is not needed, and the overview is about these alone.

\b
Examples:
  snptest report -o public                  the newest 20 runs, and an overview of all
  snptest report -o public 41 42 last       pages of these; those that are there stay
  snptest report -o public results/20261123-081337
  snptest report last --junit junit.xml --ktap -
  snptest report last --kcidb run.json      for kernelci.org: docs/history.md

\b
The pages need no network and no server; index.html is the overview.
"""
NEWEST = 20


def report(
    runs: Annotated[list[str] | None, typer.Argument(metavar="RUN")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="HTML pages go there")
    ] = None,
    junit: options.Junit = None,
    ktap: options.Ktap = None,
    kcidb: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write KCIDB JSON; - is stdout")
    ] = None,
    origin: Annotated[
        str, typer.Option(metavar="NAME", help="name of your CI system in KCIDB")
    ] = "snptest",
    db: Annotated[Path | None, typer.Option("--db", metavar="FILE", help="another history")] = None,
) -> None:
    """Write reports of stored runs."""
    if not (output or junit or ktap or kcidb):
        raise UsageError("what is to be written?", "-o DIR, --junit, --ktap or --kcidb FILE")
    if not re.fullmatch("[a-z0-9_]+", origin):
        raise UsageError(f"--origin {origin!r}: KCIDB takes a-z, 0-9 and _", "our_ci")
    need_writable(junit, ktap, kcidb)
    words = list(runs or ())
    with _history(words, db) as history, history.reading():
        chosen = _chosen(history, words)
        if junit or ktap or kcidb:
            _files(history, chosen, junit, ktap, (kcidb, origin))
        if output:
            _pages(history, chosen, output)


@contextlib.contextmanager
def _history(words: Sequence[str], db: Path | None) -> Iterator[History]:
    """Open the history; a passing one of the folders where nothing else is named."""
    from harness.cli.history import opened
    from harness.history import record
    from harness.history.store import History

    paths = [Path(word).expanduser() for word in words]
    if db is None and paths and all(path.exists() for path in paths):
        with tempfile.TemporaryDirectory() as folder:
            with History.open(Path(folder) / "history.db") as history:
                for path in record.spread(paths):
                    record.take(history, path)
                yield history
    else:
        with opened(db) as history:
            yield history


def _chosen(history: History, words: Sequence[str]) -> list[StoredRun]:
    from harness.history import runs as stored

    if not words:
        return stored.runs(history, NEWEST)
    if all(Path(word).expanduser().exists() for word in words):
        return stored.runs(history)
    return [stored.find(history, word) for word in words]


def _files(
    history: History,
    chosen: Sequence[StoredRun],
    junit_file: Path | None,
    ktap_file: Path | None,
    kcidb_file: tuple[Path | None, str],
) -> None:
    """Write what holds one run."""
    import json

    from harness.history import runs as stored
    from harness.history.render import facts
    from harness.report import junit, kcidb, ktap

    if len(chosen) != 1:
        raise UsageError(
            f"JUnit, KTAP and KCIDB hold one run, and {len(chosen)} are chosen", "name one: last"
        )
    run = chosen[0]
    results = stored.results(history, run)
    path, origin = kcidb_file
    if junit_file:
        write_text(junit_file, junit.render(results, facts(run)))
    if ktap_file:
        write_text(ktap_file, ktap.render(results))
    if path:
        write_text(path, json.dumps(kcidb.report(run, results, origin), indent=1) + "\n")


def _pages(history: History, chosen: Sequence[StoredRun], output: Path) -> None:
    """Write HTML, showing how far it is."""
    from rich.progress import Progress

    from harness.console import make_console
    from harness.report.html import site

    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=not animated(console)) as progress:
        task = progress.add_task("pages", total=len(chosen) + 1)
        index = site.write(history, chosen, output, lambda path: progress.advance(task))
    print(f"{len(chosen)} runs, overview: {index}")
