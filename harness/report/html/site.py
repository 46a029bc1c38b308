# SPDX-License-Identifier: GPL-2.0-only
"""A folder of pages: index.html, run-N.html for each run that is asked for, and lists of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.history.runs import StoredRun
from harness.history.store import History
from harness.report import files
from harness.report.html.listing import Page
from harness.report.html.overview import overview_pages
from harness.report.html.run import run_pages


def write(
    history: History,
    runs: Sequence[StoredRun],
    folder: Path,
    written: Callable[[Path], None] = lambda path: None,
) -> Path:
    """Write pages of some runs and the overview; return the overview's path.

    A page is there whole or as it was before.  UserError: the folder cannot be written.
    """
    # Pages of earlier reports into the same folder stay, and stay linked.
    numbers = {int(path.stem[4:]) for path in folder.glob("run-*.html") if path.stem[4:].isdigit()}
    numbers |= {run.id for run in runs}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for run in runs:
            made = run_pages(history, run, numbers)
            _replace(folder, made, (f"run-{run.id}-*.html",))
            written(folder / f"run-{run.id}.html")
        lists = ("runs-*.html", "tests-*.html", "by-revision-*.html", "by-host-*.html")
        _replace(folder, overview_pages(history, numbers), lists)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None
    index = folder / "index.html"
    written(index)
    return index


def _replace(folder: Path, pages: Iterable[Page], lists: Sequence[str]) -> None:
    """Write pages; of what the patterns name, those of an earlier report go."""
    names = set()
    for name, text in pages:
        files.write(folder / name, text)
        names.add(name)
    for pattern in lists:
        for path in folder.glob(pattern):
            if path.name not in names:
                path.unlink()
