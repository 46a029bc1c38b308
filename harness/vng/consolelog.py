# SPDX-License-Identifier: GPL-2.0-only
"""A target's console: kept in a file from the first line on, its last lines at hand."""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections import deque
from pathlib import Path

from harness.kbuild import cache

KEEP = 60
"""Files of earlier runs that stay for looking at: consoles, and logs of CPU resets."""

TAIL = 25
_numbers = itertools.count(1)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\t -~\u00a0-\uffff]")


def new_path(name: str) -> Path:
    """Return where the next console of that name goes; old ones make room."""
    folder = cache.root() / "consoles"
    folder.mkdir(parents=True, exist_ok=True)
    _prune(folder)
    return folder / f"{name}.{os.getpid()}.{next(_numbers)}.log"


class ConsoleLog:
    """Copies a pipe to a file until the pipe's writers are gone.

    A file that cannot be written (the disk is full) does not stop the copying: a writer that
    waits for its pipe would hang the target.  `error` then says why, and the tail goes on.
    """

    def __init__(self, path: Path, reader: int) -> None:
        self.path = path
        self.error: str | None = None
        self._reader = reader
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._lock = threading.Lock()
        self._grown = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._copy, name=f"console-{path.stem}", daemon=True)
        self._thread.start()

    def tail(self) -> str:
        """Return the last lines, control characters taken out."""
        with self._lock:
            lines = [_CONTROL.sub("", line) for line in self._tail]
        return "\n".join(line for line in lines if line.strip())

    def text(self) -> str:
        """Return everything so far, control characters and all."""
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def wait_for(self, text: str, timeout: float) -> bool:
        """Wait until a text is among the last lines; False when the time is up."""
        until = time.monotonic() + timeout
        with self._grown:
            while not any(text in line for line in self._tail):
                left = until - time.monotonic()
                if left <= 0 or not self._thread.is_alive():
                    return False
                self._grown.wait(min(left, 1.0))
        return True

    def settle(self, quiet: float = 0.2, timeout: float = 3.0) -> None:
        """Wait until nothing has come for a moment, or the writers are gone."""
        until = time.monotonic() + timeout
        with self._grown:
            while self._thread.is_alive() and time.monotonic() < until:
                if not self._grown.wait(quiet):
                    return

    def close(self, timeout: float = 5.0) -> None:
        """Wait for the last lines; the writers must be gone or going."""
        self._thread.join(timeout)

    def _copy(self) -> None:
        partial = b""
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self.error, file = f"{self.path}: {error.strerror}", -1
        with os.fdopen(self._reader, "rb", 0) as pipe:
            while data := pipe.read(1 << 16):
                self._keep(file, data)
                *lines, partial = (partial + data).split(b"\n")
                partial = partial[-4096:]
                with self._grown:
                    self._tail.extend(line.decode(errors="replace") for line in lines)
                    self._grown.notify_all()
        if file >= 0:
            os.close(file)
        with self._grown:
            self._tail.append(partial.decode(errors="replace"))
            self._grown.notify_all()

    def _keep(self, file: int, data: bytes) -> None:
        view = memoryview(data)
        while view and self.error is None:
            try:
                view = view[os.write(file, view) :]
            except OSError as error:
                self.error = f"{self.path}: {error.strerror}"


def _prune(folder: Path) -> None:
    def age(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:  # another process prunes, too
            return 0.0

    for old in sorted(folder.glob("*.log"), key=age, reverse=True)[KEEP:]:
        old.unlink(missing_ok=True)
