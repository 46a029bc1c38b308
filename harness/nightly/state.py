# SPDX-License-Identifier: GPL-2.0-only
"""What a night has done so far, on disk: killed at any moment, it loses the jobs that were running.

One file for each schedule's name.  A night that is over, that is too old, or whose schedule was
edited meanwhile is not gone on with: the next one takes its place.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from harness.history import store
from harness.kept import Kept

TRIES = 2
"""Runs of a job that are cut short before nobody tries it again."""


@dataclass(slots=True)
class Record:
    """What became of one job."""

    job: str
    """Its name."""
    done: bool = False
    tried: list[str] = field(default_factory=list)
    """Hosts that brought no whole run of it."""
    worker: str = ""
    started: float = 0.0
    """Seconds since 1970."""
    seconds: float = 0.0
    code: int = 3
    folders: list[str] = field(default_factory=list)
    """Of its results; behind the first those of what ran again."""
    broken: list[str] = field(default_factory=list)
    """Why it was not done, or not as a whole."""

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what asdict() gave; ValueError, KeyError or TypeError where it is something else."""
        return cls(
            str(record["job"]),
            bool(record["done"]),
            [str(each) for each in record["tried"]],
            str(record["worker"]),
            float(record["started"]),
            float(record["seconds"]),
            int(record["code"]),
            [str(each) for each in record["folders"]],
            [str(each) for each in record["broken"]],
        )


def folder() -> Path:
    """Return where nights are kept: beside the history."""
    return (store.default_path() or Path("~/.local/state/snptest/x").expanduser()).parent / "nights"


class Night(Kept):
    """A night's records, by the names of its jobs."""

    what = "night"

    def __init__(
        self, name: str, question: Mapping[str, Any], seconds: float, *, restart: bool = False
    ) -> None:
        """`seconds` is how long a night may take; `restart` begins a new one in any case."""
        super().__init__(folder(), name, question, restart=restart)
        self.began = time.time()
        self.over = False
        self.records: dict[str, Record] = {}
        self.lost: dict[str, str] = {}
        """Hosts that are given up, and why."""
        self._seconds = seconds

    @property
    def resumed(self) -> bool:
        """Whether something was done before."""
        return bool(self.records)

    def record(self, job: str) -> Record:
        """Return a job's record, made where there is none."""
        return self.records.setdefault(job, Record(job))

    def content(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "began": self.began,
            "over": self.over,
            "lost": self.lost,
            "records": [asdict(each) for each in self.records.values()],
        }

    def take(self, content: dict[str, Any]) -> None:
        """Go on with a night, if it is this one."""
        began, over = float(content["began"]), bool(content["over"])
        records = [Record.from_dict(each) for each in content["records"]]
        lost = {str(name): str(why) for name, why in content["lost"].items()}
        # A clock that was set back must not keep an old night alive.
        if over or content["question"] != self.question:
            return
        if not 0 <= time.time() - began < self._seconds:
            return
        self.began = began
        self.records = {each.job: each for each in records}
        self.lost = lost
