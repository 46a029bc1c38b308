# SPDX-License-Identifier: GPL-2.0-only
"""When runs are taken in: while they go on, after they were cut, and by import."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.history import schema, stream
from harness.history.store import BUSY, History, Locked
from harness.history.take import Taker


class Recorder:
    """Follows the run that this process does.  What goes wrong never ends the run."""

    EVERY = 1.0
    """Seconds between two looks at the file, at least."""
    SHORT = 0.2
    """Seconds to wait for another writer while tests run; at the end there is more time."""

    def __init__(self, path: Path, file: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self.file = file
        self.say = say
        self.run: int | None = None
        """The run's number, once it has one."""
        self._history: History | None = None
        self._taker: Taker | None = None
        self._next = 0.0

    def tick(self) -> None:
        """Record what there is, unless that was done a moment ago."""
        if time.monotonic() >= self._next:
            self._step(self.SHORT)
            self._next = time.monotonic() + self.EVERY

    def end(self, wait: float | None = None) -> None:
        """Record the rest, and close; say so where that is not possible in time."""
        problem = self._step(wait)
        if problem:
            folder = self.file.parent
            self.say(f"not in the history: {problem}; later: snptest history import {folder}")
        if self._taker is not None:
            self._taker.close()
        if self._history is not None:
            self._history.close()

    def _step(self, wait: float | None) -> str:
        """Record; return why that was not possible."""
        try:
            if self._history is None:
                self._history = History.open(self.path, busy=BUSY if wait is None else wait)
                catch_up(self._history, self.SHORT)
            if self._taker is None:
                self._taker = Taker(self._history, self.file)
            self.run = self._taker.step(BUSY if wait is None else wait)
        except UserError as error:
            return error.message
        return ""


def catch_up(history: History, wait: float = 1.0) -> list[int]:
    """Take what is left of runs whose writer is gone, and mark those that were cut; say which.

    Somebody else who writes just now may do it as well: after `wait` seconds it is left to them.
    """
    done = []
    rows = history.all("SELECT id, key, file FROM run WHERE state = ?", (schema.RUNNING,))
    for run, key, name in rows:
        file = Path(name)
        try:
            if stream.is_written(file):
                continue
            if (taker := _taker(history, file)) is not None and taker.header.key == key:
                taker.step(wait, over=True)
            else:
                _bury(history, run, wait)
        except Locked:
            break
        done.append(run)
    return done


def _taker(history: History, file: Path) -> Taker | None:
    try:
        return Taker(history, file)
    except UserError:
        return None


def _bury(history: History, run: int, wait: float) -> None:
    """Mark a run as cut whose folder is gone."""
    reason = json.dumps([schema.CUT_SHORT, "its folder is gone"])
    with history.writing(wait):
        history.db.execute(
            "UPDATE run SET state = ?, broken = ? WHERE id = ? AND state = ?",
            (schema.CUT, reason, run, schema.RUNNING),
        )


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of a folder that was to be imported."""

    path: Path
    run: int = 0
    new: bool = False
    """Whether the history did not have all of it."""
    problem: str = ""
    """Why it could not be taken in."""


def take(history: History, path: Path) -> Imported:
    """Import a run's folder, or a file of results.  UserError where it holds none."""
    file = stream.find(path)
    taker = Taker(history, file)
    known = "SELECT state, lines FROM run WHERE key = ?"
    before = history.one(known, (taker.header.key,))
    run = taker.step(over=not stream.is_written(file))
    return Imported(path, run, history.one(known, (taker.header.key,)) != before)


def import_all(history: History, paths: Iterable[Path]) -> Iterable[Imported]:
    """Import several, one after the other; what holds no results is told, and the rest goes on.

    A folder of runs' folders, as results/ is, stands for all of these.
    """
    for path in spread(paths):
        try:
            yield take(history, path)
        except UserError as error:
            if isinstance(error, Locked):
                raise
            yield Imported(path, problem=error.message)


def spread(paths: Iterable[Path]) -> list[Path]:
    """Put the runs' folders in the place of a folder that holds them."""
    found: list[Path] = []
    for path in paths:
        below = sorted(each.parent for each in path.glob(f"*/{stream.FILE}"))
        found += below if below and not (path / stream.FILE).exists() else [path]
    return found
