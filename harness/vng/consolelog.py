# SPDX-License-Identifier: GPL-2.0-only
"""A target's console: kept in a file from the first line on, its last lines at hand."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections import deque
from pathlib import Path

from harness.kbuild import cache

KEEP = 30
"""Console files of earlier runs that stay for looking at."""

TAIL = 25
_numbers = itertools.count(1)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\t -~\u00a0-\uffff]")


class ConsoleLog:
    """Copies a pipe to a file until the pipe's writers are gone."""

    def __init__(self, name: str, reader: int) -> None:
        folder = cache.root() / "consoles"
        folder.mkdir(parents=True, exist_ok=True)
        _prune(folder)
        self.path = folder / f"{name}.{os.getpid()}.{next(_numbers)}.log"
        self._reader = reader
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._copy, name=f"console-{name}", daemon=True)
        self._thread.start()

    def tail(self) -> str:
        """Return the last lines, control characters taken out."""
        with self._lock:
            lines = [_CONTROL.sub("", line) for line in self._tail]
        return "\n".join(line for line in lines if line.strip())

    def text(self) -> str:
        """Return everything so far, control characters and all."""
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def close(self, timeout: float = 5.0) -> None:
        """Wait for the last lines; the writers must be gone or going."""
        self._thread.join(timeout)

    def _copy(self) -> None:
        partial = b""
        with self.path.open("wb", buffering=0) as file, os.fdopen(self._reader, "rb", 0) as pipe:
            while data := pipe.read(1 << 16):
                file.write(data)
                *lines, partial = (partial + data).split(b"\n")
                partial = partial[-4096:]
                with self._lock:
                    self._tail.extend(line.decode(errors="replace") for line in lines)
        with self._lock:
            self._tail.append(partial.decode(errors="replace"))


def _prune(folder: Path) -> None:
    def age(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:  # another process prunes, too
            return 0.0

    for old in sorted(folder.glob("*.log"), key=age, reverse=True)[KEEP:]:
        old.unlink(missing_ok=True)
