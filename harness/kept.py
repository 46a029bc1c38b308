# SPDX-License-Identifier: GPL-2.0-only
"""What a long command has found so far, on disk: a kill at any moment loses one step at most.

A file for each question, and a lock, so that nobody else works on the same one.
"""

from __future__ import annotations

import abc
import fcntl
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.errors import UserError
from harness.kbuild import cache


def digest_of(question: Mapping[str, Any]) -> str:
    """Name a question."""
    text = json.dumps(question, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Kept(abc.ABC):
    """What is kept of one question.  Use it as a context: it is locked meanwhile."""

    format = 1
    what = "command"
    """What is under way, in messages."""

    def __init__(
        self, folder: Path, name: str, question: Mapping[str, Any], *, restart: bool = False
    ) -> None:
        """`restart` forgets what was found before."""
        self.name = name
        self.question = dict(question)
        self.file = folder / f"{name}.json"
        self._lock = folder / f"{name}.lock"
        self._restart = restart

    @abc.abstractmethod
    def content(self) -> dict[str, Any]:
        """Return what is to be kept, in plain types."""

    @abc.abstractmethod
    def take(self, content: dict[str, Any]) -> None:
        """Take what was kept.  ValueError, KeyError, TypeError or AttributeError: it is no such."""

    def write(self) -> None:
        """Keep it: afterwards it is on disk."""
        record = {"format": self.format, "question": self.question, **self.content()}
        cache.write_json(self.file, record)

    def __enter__(self) -> Self:
        """Take the lock, read what is there; UserError where somebody else works on it."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        self._held = self._lock.open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.close()
            raise UserError(
                f"this very {self.what} is under way in another process", "let it end, or end it"
            ) from None
        try:
            for left in self.file.parent.glob(f"{self.name}.*.new"):  # by one who was killed
                left.unlink()
            if self._restart:
                self.file.unlink(missing_ok=True)
            self._read()
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

    def _read(self) -> None:
        record = cache.read_json(self.file)
        if record is None and not self.file.exists():
            return
        try:
            if record is None or record["format"] != self.format:
                raise ValueError("it is of another snptest")
            self.take(record)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.file} is damaged, or was left by another snptest", "--restart forgets it"
            ) from None
