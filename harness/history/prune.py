# SPDX-License-Identifier: GPL-2.0-only
"""Retention: of old runs go the texts, or the results; counts and daily sums stay for good."""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.errors import UsageError
from harness.history import schema
from harness.history.store import History
from harness.history.take import DAY

AT_ONCE = 50
"""Runs whose results go in one transaction: others get their turn in between."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went, or would."""

    runs: int
    results: int
    bytes: int
    """By which the file became smaller; 0 where nothing was done."""


def prune(
    history: History,
    *,
    older: float | None = None,
    keep: int | None = None,
    texts: bool = False,
    dry_run: bool = False,
) -> Pruned:
    """Remove the results of runs that began over `older` days ago, or of all but the newest `keep`.

    texts: only details, consoles and output, most of the size.  A run that goes on stays, and so
    does the newest good run of each kind: the next one is held against it.
    """
    if older is None and keep is None:
        raise UsageError("what is to be removed?", "--older DAYS or --keep N")
    numbers = _chosen(history, older, keep)
    table = "evidence" if texts else "result"
    marks = f"SELECT count(*) FROM {table} WHERE run = ?"
    counts = {number: int(history.one(marks, (number,))[0]) for number in numbers}
    numbers = [number for number in numbers if counts[number]]
    pruned = Pruned(len(numbers), sum(counts.values()), 0)
    if dry_run or not numbers:
        return pruned
    size = _size(history)
    for first in range(0, len(numbers), AT_ONCE):
        with history.writing():
            for number in numbers[first : first + AT_ONCE]:
                history.db.execute("DELETE FROM evidence WHERE run = ?", (number,))
                if not texts:
                    history.db.execute("DELETE FROM result WHERE run = ?", (number,))
                    history.db.execute("UPDATE run SET pruned = 1 WHERE id = ?", (number,))
    # Pages that are free are filled again by later runs; VACUUM gives them back now.
    with history.alone():
        history.db.execute("VACUUM")
    return Pruned(pruned.runs, pruned.results, max(0, size - _size(history)))


def _chosen(history: History, older: float | None, keep: int | None) -> list[int]:
    conditions, values = [f"state <> {schema.RUNNING}", "pruned = 0"], []
    if older is not None:
        conditions.append("started < ?")
        values.append(time.time() - older * DAY)
    if keep is not None:
        conditions.append("id NOT IN (SELECT id FROM run ORDER BY started DESC, id DESC LIMIT ?)")
        values.append(keep)
    good = (
        "SELECT id FROM (SELECT r.id, max(r.started) FROM run r JOIN setting s ON s.id = r.setting"
        " JOIN kernel k ON k.id = s.kernel"
        f" WHERE r.state = {schema.FINISHED} AND r.exit = 0 AND r.broken = '[]'"
        " GROUP BY r.label, s.backend, s.interface, s.machine, s.host, k.name)"
    )
    where = " AND ".join([*conditions, f"id NOT IN ({good})"])
    return [row[0] for row in history.all(f"SELECT id FROM run WHERE {where}", values)]


def _size(history: History) -> int:
    return int(history.one("PRAGMA page_count")[0]) * int(history.one("PRAGMA page_size")[0])
