# SPDX-License-Identifier: GPL-2.0-only
"""What a bisection has found so far, on disk: a kill at any moment loses one run at most.

A file for each question, named by a digest of it: the same command goes on where it was, and a
patch that was edited meanwhile is another question.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.bisect.verdicts import Trial
from harness.errors import UserError
from harness.kbuild import cache

FORMAT = 1


def digest_of(question: Mapping[str, Any]) -> str:
    """Name a question."""
    text = json.dumps(question, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def folder() -> Path:
    """Return where bisections are kept."""
    return cache.root() / "bisect"


class State:
    """The trials of one question.  Use it as a context: it is locked meanwhile."""

    def __init__(self, question: Mapping[str, Any], *, restart: bool = False) -> None:
        """`restart` forgets what was found before."""
        self._restart = restart
        self.question = dict(question)
        self.name = digest_of(question)
        self.file = folder() / f"{self.name}.json"
        self.trials: list[Trial] = []
        self._lock = folder() / f"{self.name}.lock"

    def __enter__(self) -> Self:
        """Take the lock, read what is there; UserError where somebody else works on it."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        self._held = self._lock.open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.close()
            raise UserError(
                "this very bisection is under way in another process", "let it end, or end it"
            ) from None
        try:
            for left in self.file.parent.glob(f"{self.name}.*.new"):  # by one who was killed
                left.unlink()
            if self._restart:
                self.file.unlink(missing_ok=True)
            self.trials = self._read()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.close()

    def add(self, trial: Trial) -> None:
        """Keep a trial: afterwards it is on disk."""
        self.trials.append(trial)
        self._write()

    def drop(self, count: int) -> None:
        """Forget the last trials."""
        del self.trials[len(self.trials) - count :]
        self._write()

    def _write(self) -> None:
        record = {
            "format": FORMAT,
            "question": self.question,
            "trials": [each.as_dict() for each in self.trials],
        }
        cache.write_json(self.file, record)

    def _read(self) -> list[Trial]:
        record = cache.read_json(self.file)
        if record is None and not self.file.exists():
            return []
        try:
            if record is None or record["format"] != FORMAT:
                raise ValueError("it is of another snptest")
            return [Trial.from_dict(each) for each in record["trials"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.file} is damaged, or was left by another snptest", "--restart forgets it"
            ) from None
