# SPDX-License-Identifier: GPL-2.0-only
"""From a run's results.jsonl into the tables, as far as it is written."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter, defaultdict
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from harness.history import schema, stream
from harness.history.store import History, Locked
from harness.report import sanitize
from harness.report.events import Event
from harness.report.outcome import Outcome, Result

_NUMBER = {outcome: number for number, outcome in enumerate(schema.OUTCOMES)}
_TEXTS = ("details", "console", "output")
DAY = 86400


class Taker:
    """Takes what is new of one run's results into the tables, any number of times.

    How far it came is in the tables, written in the same transaction as the results: whoever
    goes on, goes on there.
    """

    def __init__(self, history: History, path: Path) -> None:
        """UserError where the file is none of results."""
        self.history = history
        self.path = path.resolve()
        self.header = stream.header(path)
        self._lines = stream.Followed(self.path)
        self._tests: dict[str, int] = {}
        self._reasons: dict[str, int] = {}

    def close(self) -> None:
        """Give the file back."""
        self._lines.close()

    def _forget(self) -> None:
        """Begin the file anew, as after a transaction that was taken back."""
        self._lines.close()
        self._lines = stream.Followed(self.path)
        self._tests = {}
        self._reasons = {}

    def step(self, wait: float | None = None, *, over: bool = False) -> int:
        """Take what is new; return the run's number.

        over: nobody writes the file any more; if it has no last line, the run was cut.
        wait: as for `History.writing`.
        """
        try:
            with self.history.writing(wait):
                run = self._run()
                self._take(run, over=over)
        except Locked:
            raise  # nothing was read
        except BaseException:
            self._forget()
            raise
        return run

    def _run(self) -> int:
        found = self.history.one("SELECT id FROM run WHERE key = ?", (self.header.key,))
        if found:
            return int(found[0])
        head = self.header
        setting = _setting(self.history, head)
        cursor = self.history.db.execute(
            "INSERT INTO run (key, state, started, setting, label, seed, workers, command, file)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                head.key,
                schema.RUNNING,
                head.started,
                setting,
                head.label,
                head.target.seed,
                head.workers,
                json.dumps(head.command),
                str(self.path),
            ),
        )
        return int(cursor.lastrowid or 0)

    def _take(self, run: int, *, over: bool) -> None:
        row = self.history.one(
            f"SELECT state, lines, broken, {', '.join(schema.COUNTS)} FROM run WHERE id = ?", (run,)
        )
        state, taken, broken = row[0], row[1], json.loads(row[2])
        if state == schema.FINISHED:
            return
        batch = _Batch(run, sum(row[3:]))
        changes: dict[str, Any] = {}
        lines, unreadable = taken, 0
        for line in self._lines.new():
            lines = max(lines, line.number)
            if line.number <= taken:
                continue
            event = line.event
            if event is None:
                unreadable += 1
            elif event.result is not None:
                result = event.result
                batch.add(result, self._test(result), self._reason(result.reason))
            elif event.kind == "about":
                changes["setting"] = self._learn(run, event)
            elif event.kind == "finish":
                broken += event.broken
                changes |= {"state": schema.FINISHED, **_end(event.fields)}
        if unreadable:
            broken.append(f"{unreadable} lines of its results cannot be read")
        if over and changes.get("state") != schema.FINISHED:
            changes |= {"state": schema.CUT, "seconds": self._lasted()}
            if state != schema.CUT:
                broken.append(schema.CUT_SHORT)
        elif not over and state == schema.CUT:
            changes.setdefault("state", schema.RUNNING)  # it was thought to be dead
            broken = [each for each in broken if each != schema.CUT_SHORT]
        if lines > taken:
            changes["lines"] = lines
        batch.write(self.history)
        changes["broken"] = json.dumps(broken)
        names = ", ".join(f"{name} = ?" for name in changes)
        self.history.db.execute(f"UPDATE run SET {names} WHERE id = ?", (*changes.values(), run))
        _count_days(self.history, self.header.started, batch)

    def _lasted(self) -> float:
        return max(0.0, round(self.path.stat().st_mtime - self.header.started, 3))

    def _learn(self, run: int, event: Event) -> int:
        """Take in what the running kernel said about itself; return the run's setting."""
        head = self.header

        def said(name: str, before: str) -> str:
            return event.text(name) or before

        kernel = replace(
            head.kernel,
            release=said("release", head.kernel.release),
            build_id=said("build_id", head.kernel.build_id),
        )
        self.header = replace(head, kernel=kernel, firmware=said("firmware", head.firmware))
        return _setting(self.history, self.header)

    def _test(self, result: Result) -> int:
        """Return the number of a result's test; what is known of it is brought up to date."""
        if (number := self._tests.get(result.id)) is not None:
            return number
        about = (
            result.suite,
            result.interface,
            result.backend,
            result.description,
            json.dumps(result.patches),
            json.dumps(result.areas),
        )
        found = self.history.one(
            "SELECT id, suite, interface, backend, description, patches, areas FROM test"
            " WHERE name = ?",
            (result.id,),
        )
        execute = self.history.db.execute
        if found is None:
            names = "name, suite, interface, backend, description, patches, areas"
            cursor = execute(
                f"INSERT INTO test ({names}) VALUES (?, ?, ?, ?, ?, ?, ?)", (result.id, *about)
            )
            number = int(cursor.lastrowid or 0)
        else:
            number = int(found[0])
            # One that died before it said anything knows nothing of its test.
            if found[1:] != about and result.description:
                execute(
                    "UPDATE test SET suite = ?, interface = ?, backend = ?, description = ?,"
                    " patches = ?, areas = ? WHERE id = ?",
                    (*about, number),
                )
        self._tests[result.id] = number
        return number

    def _reason(self, text: str) -> int | None:
        if not text:
            return None
        if (number := self._reasons.get(text)) is None:
            self.history.db.execute("INSERT OR IGNORE INTO reason (text) VALUES (?)", (text,))
            number = int(self.history.one("SELECT id FROM reason WHERE text = ?", (text,))[0])
            self._reasons[text] = number
        return number


class _Batch:
    """Results of a run that go into the tables together."""

    def __init__(self, run: int, first: int) -> None:
        self.run = run
        self.nth = first
        self.rows: list[tuple[int, int, int, int, int, int | None]] = []
        self.evidence: list[tuple[int, int, bytes]] = []
        self.counts: Counter[Outcome] = Counter()

    def add(self, result: Result, test: int, reason: int | None) -> None:
        us = round(result.seconds * 1e6)
        self.rows.append((self.run, self.nth, test, _NUMBER[result.outcome], us, reason))
        texts = {name: sanitize.tail(text) for name in _TEXTS if (text := getattr(result, name))}
        if texts:
            packed = zlib.compress(json.dumps(texts).encode())
            self.evidence.append((self.run, self.nth, packed))
        self.counts[result.outcome] += 1
        self.nth += 1

    def write(self, history: History) -> None:
        if not self.rows:
            return
        execute = history.db.executemany
        execute("INSERT INTO result VALUES (?, ?, ?, ?, ?, ?)", self.rows)
        execute("INSERT INTO evidence (run, nth, texts) VALUES (?, ?, ?)", self.evidence)
        added = {f"n_{outcome}": count for outcome, count in self.counts.items()}
        names = ", ".join(f"{name} = {name} + ?" for name in added)
        execute(f"UPDATE run SET {names} WHERE id = ?", [(*added.values(), self.run)])


def _count_days(history: History, started: float, batch: _Batch) -> None:
    """Add a batch to what is kept for good."""
    days: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for _, _, test, outcome, us, _ in batch.rows:
        sums = days[test]
        if outcome in schema.BAD:
            sums[1] += 1
        elif schema.OUTCOMES[outcome] is Outcome.PASS:
            sums[0] += 1
            sums[3] += us
        else:
            sums[2] += 1
    day = int(started // DAY)
    history.db.executemany(
        "INSERT INTO daily VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (test, day) DO UPDATE SET"
        " good = good + excluded.good, bad = bad + excluded.bad,"
        " other = other + excluded.other, us = us + excluded.us",
        [(test, day, *sums) for test, sums in days.items()],
    )


def _setting(history: History, head: stream.Header) -> int:
    """Return the number of a run's setting, kernel included; made where it is new."""
    kernel = head.kernel
    values = [json.dumps(each) if isinstance(each, tuple) else each for each in astuple(kernel)]
    digest = hashlib.sha256(json.dumps(values).encode()).digest()
    names = "name, release, base, tree, git_commit, series, config, compiler, build_id"
    names += ", base_commit, base_url, patchset"
    marks = ", ".join("?" * (1 + len(values)))
    history.db.execute(
        f"INSERT OR IGNORE INTO kernel (digest, {names}) VALUES ({marks})", (digest, *values)
    )
    found = history.one("SELECT id FROM kernel WHERE digest = ?", (digest,))
    at = head.target
    texts = [each or "" for each in (at.backend, at.interface, at.machine, at.host)]
    where = (*texts, head.firmware, head.harness)
    place = (*where, found[0])
    history.db.execute(
        "INSERT OR IGNORE INTO setting (backend, interface, machine, host, firmware, harness,"
        " kernel) VALUES (?, ?, ?, ?, ?, ?, ?)",
        place,
    )
    row = history.one(
        "SELECT id FROM setting WHERE backend = ? AND interface = ? AND machine = ? AND host = ?"
        " AND firmware = ? AND harness = ? AND kernel = ?",
        place,
    )
    return int(row[0])


def _end(event: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("seconds", "exit"):
        value = event.get(name)
        if isinstance(value, (int, float)) and abs(value) < 2**53:
            found[name] = int(value) if name == "exit" else float(value)
    return found
