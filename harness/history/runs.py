# SPDX-License-Identifier: GPL-2.0-only
"""Stored runs: listed, found by what people call them, read back, the last good one."""

from __future__ import annotations

import functools
import json
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.history import schema, stream
from harness.history.store import History
from harness.history.stream import Kernel
from harness.report.outcome import Outcome, Result

LIMIT_TEXT = 1 << 24
"""Bytes that one result's texts may have, unpacked."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as the history has it; "" where something is not known."""

    id: int
    state: int
    started: float
    """Seconds since 1970."""
    seconds: float | None
    exit: int | None
    setting: int
    """Runs of one setting (kernel, place, snptest) are expected to agree."""
    label: str
    seed: int
    command: tuple[str, ...]
    broken: tuple[str, ...]
    file: Path
    pruned: bool
    """Whether only the counts are kept."""
    counts: Counter[Outcome]
    backend: str
    interface: str
    machine: str
    host: str
    firmware: str
    harness: str
    kernel: Kernel
    key: str
    """The same wherever its results lie."""

    @property
    def whole(self) -> bool:
        """Whether it ended by itself with all its results."""
        return self.state == schema.FINISHED and not self.broken

    @property
    def good(self) -> bool:
        """Whether it is whole and nothing failed that is not known to."""
        return self.whole and self.exit == 0

    @property
    def bad(self) -> int:
        """How many results need somebody's attention."""
        return sum(count for outcome, count in self.counts.items() if outcome.bad)

    @property
    def verdict(self) -> str:
        """Say in a word how it ended."""
        if self.state == schema.RUNNING:
            return "running"
        if self.state == schema.CUT:
            return "cut"
        return "broken" if self.broken else "bad" if self.bad else "good"

    @property
    def what(self) -> str:
        """Name what was tested: kernel and release, or interface."""
        parts = (self.kernel.name, self.kernel.release, self.interface)
        return " ".join(filter(None, parts[:2])) or parts[2]

    @property
    def where(self) -> str:
        """Name the place: backend, machine, host."""
        return " ".join(filter(None, (self.backend, self.machine, self.host)))


@dataclass(frozen=True, slots=True)
class Filter:
    """Which runs; None where anything will do."""

    label: str | None = None
    backend: str | None = None
    interface: str | None = None
    machine: str | None = None
    host: str | None = None
    kernel: str | None = None
    """Its name."""
    before: int | None = None
    """Only runs that began before this one."""
    good: bool = False
    """Only whole runs with exit code 0."""
    ended: bool = False
    """Only runs that came to their end, however."""

    def where(self) -> tuple[str, list[Any]]:
        """Return an SQL condition over run r, setting s, kernel k, and its values."""
        columns = {
            "r.label": self.label,
            "s.backend": self.backend,
            "s.interface": self.interface,
            "s.machine": self.machine,
            "s.host": self.host,
            "k.name": self.kernel,
        }
        given = {name: value for name, value in columns.items() if value is not None}
        words, values = [f"{name} = ?" for name in given], list(given.values())
        if self.before is not None:
            earlier = "(SELECT started FROM run WHERE id = ?)"
            words.append(f"(r.started, r.id) < ({earlier}, ?)")
            values += [str(self.before), str(self.before)]
        if self.good:
            words.append(f"r.state = {schema.FINISHED} AND r.exit = 0 AND r.broken = '[]'")
        if self.ended:
            words.append(f"r.state = {schema.FINISHED}")
        return " AND ".join(words) or "1", values


_KERNEL = "k.name, k.release, k.base, k.tree, k.git_commit, k.series, k.config, k.compiler"
_COLUMNS = (
    "r.id, r.state, r.started, r.seconds, r.exit, r.setting, r.label, r.seed, r.command,"
    f" r.broken, r.file, r.pruned, {', '.join(f'r.{name}' for name in schema.COUNTS)},"
    " s.backend, s.interface, s.machine, s.host, s.firmware, s.harness,"
    f" {_KERNEL}, k.build_id, k.base_commit, k.base_url, k.patchset, r.key"
)
_FROM = "run r JOIN setting s ON s.id = r.setting JOIN kernel k ON k.id = s.kernel"


def runs(history: History, limit: int = -1, which: Filter | None = None) -> list[StoredRun]:
    """Return runs, the newest first; all of them unless limited."""
    condition, values = (which or Filter()).where()
    rows = history.all(
        f"SELECT {_COLUMNS} FROM {_FROM} WHERE {condition}"
        " ORDER BY r.started DESC, r.id DESC LIMIT ?",
        (*values, limit),
    )
    return [_run(row) for row in rows]


def get(history: History, number: int) -> StoredRun:
    """Return a run by its number; UsageError where there is none."""
    row = history.one(f"SELECT {_COLUMNS} FROM {_FROM} WHERE r.id = ?", (number,))
    if row is None:
        raise UsageError(f"the history has no run {number}", "`snptest history` lists them")
    return _run(row)


_NAME = re.compile(r"(?P<number>[0-9]+)|last(?:[-~](?P<back>[0-9]+))?")


def is_name(word: str) -> bool:
    """Whether a word can only mean a run of the history: a number, last, last-2 (or last~2)."""
    return _NAME.fullmatch(word) is not None


def find(history: History, word: str) -> StoredRun:
    """Return the run that a word names: its number, `last`, `last-2`, or its folder.

    UsageError where it names none.
    """
    if match := _NAME.fullmatch(word):
        if match["number"]:
            return get(history, int(word[:18]))
        back = int((match["back"] or "0")[:9])
        found = runs(history, back + 1)
        if len(found) == back + 1:
            return found[-1]
        raise UsageError(
            f"there is no run {word}: the history has {len(found)}", "`snptest history` lists them"
        )
    path = Path(word).expanduser()
    if path.exists():
        head = stream.header(stream.find(path))
        row = history.one("SELECT id FROM run WHERE key = ?", (head.key,))
        if row is not None:
            return get(history, row[0])
        raise UsageError(f"{word} is not in the history", f"snptest history import {word}")
    raise UsageError(
        f"{word!r} names no run", "its number as `snptest history` lists it, last, or its folder"
    )


def results(history: History, run: StoredRun | int, *, texts: bool = True) -> list[Result]:
    """Return a run's results in the order in which they came; [] where they were pruned.

    texts: with details, console and output, where they are kept.
    """
    number = run if isinstance(run, int) else run.id
    packed = "e.texts" if texts else "NULL"
    join = "LEFT JOIN evidence e ON e.run = x.run AND e.nth = x.nth" if texts else ""
    rows = history.all(
        "SELECT t.name, t.suite, t.interface, x.outcome, x.us, t.description, c.text,"
        f" t.patches, t.areas, t.backend, {packed} FROM result x JOIN test t ON t.id = x.test"
        f" LEFT JOIN reason c ON c.id = x.reason {join} WHERE x.run = ? ORDER BY x.nth",
        (number,),
    )
    return [_result(row) for row in rows]


def same_kind(run: StoredRun, *, kernel: bool = True, host: bool = True) -> Filter:
    """Return what runs before a run and of its kind have in common: label, place, kernel's name.

    kernel: False where each run names its own; host: False where one is as good as another.
    """
    return Filter(
        label=run.label,
        backend=run.backend,
        interface=run.interface,
        machine=run.machine,
        host=run.host if host else None,
        kernel=run.kernel.name if kernel else None,
        before=run.id,
    )


def last_good(
    history: History, run: StoredRun, *, kernel: bool = True, host: bool = True
) -> StoredRun | None:
    """Return the last good run before a run, of the same label and in the same place.

    kernel, host: as for same_kind().  None where there is none: then nothing is new.
    """
    which = replace(same_kind(run, kernel=kernel, host=host), good=True)
    return next(iter(runs(history, 1, which)), None)


def _run(row: Sequence[Any]) -> StoredRun:
    """Make a run of a row of _COLUMNS: the fields, in their order."""
    after = 12 + len(schema.COUNTS)
    counts = zip(schema.OUTCOMES, row[12:after], strict=True)
    kernel: list[Any] = list(row[after + 6 : -1])
    for number in (5, 6):  # series, config
        kernel[number] = tuple(json.loads(kernel[number]))
    values: list[Any] = [*row[:8], tuple(json.loads(row[8])), tuple(json.loads(row[9]))]
    values += [Path(row[10]), bool(row[11])]
    values += [
        Counter({each: n for each, n in counts if n}),
        *row[after : after + 6],
        Kernel(*kernel),
        row[-1],
    ]
    return StoredRun(*values)


@functools.lru_cache(maxsize=4096)
def _listed(text: str) -> tuple[Any, ...]:
    """Read a list that many tests share."""
    return tuple(json.loads(text))


def _result(row: Sequence[Any]) -> Result:
    name, suite, interface, outcome, us, description, reason, patches, areas, backend, packed = row
    texts: dict[str, str] = {}
    if packed is not None:
        texts = json.loads(zlib.decompressobj().decompress(packed, LIMIT_TEXT))
    return Result(
        id=name,
        suite=suite,
        interface=interface,
        outcome=schema.OUTCOMES[outcome],
        seconds=us / 1e6,
        description=description,
        reason=reason or "",
        patches=_listed(patches),
        areas=_listed(areas),
        backend=backend,
        **texts,
    )
