# SPDX-License-Identifier: GPL-2.0-only
"""A folder of pages: index.html, and run-N.html for each run that is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.history.runs import StoredRun
from harness.history.store import History
from harness.report.html.pages import overview_page, run_page


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
            path = folder / f"run-{run.id}.html"
            _replace(path, run_page(history, run, numbers))
            written(path)
        index = folder / "index.html"
        _replace(index, overview_page(history, numbers))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None
    written(index)
    return index


def _replace(path: Path, text: str) -> None:
    scratch = path.with_suffix(f".{os.getpid()}.new")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
