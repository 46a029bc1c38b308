# SPDX-License-Identifier: GPL-2.0-only
"""One JSON line per result, on disk before the next test ends."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from harness.report.outcome import Result


class JsonLines:
    """Writes results as they end; what was written survives whatever happens next.

    A line is there whole or not at all: one that does not fit on the disk is taken back and
    `error` says why.  Later lines are tried again.  What is no file (a pipe, a device) gets no
    more lines after one that failed.

    path: - is standard output.
    needed: raise what goes wrong instead, for nobody is there to look at `error`.
    """

    def __init__(self, path: Path, *, needed: bool = False) -> None:
        self.path = path
        self.error: str | None = None
        """Why the file lacks lines."""
        self.file = _open(path)
        self._needed = needed
        self._whole = 0 if path.is_file() else None

    def write(self, event: str, fields: dict[str, Any]) -> None:
        """Write one line that is not a result: start, collected, begin, broken."""
        if self.error is not None and self._whole is None:
            return
        # ASCII only: the line survives tools that guess an encoding.
        line = memoryview((json.dumps({"event": event, **fields}) + "\n").encode())
        size = len(line)
        try:
            while line:
                line = line[self.file.write(line) or 0 :]
        except OSError as error:
            if self._needed:
                raise
            self.error = f"{self.path} lacks results: {error.strerror}"
            if self._whole is None:
                return
            os.ftruncate(self.file.fileno(), self._whole)
            self.file.seek(self._whole)
            return
        if self._whole is not None:
            self._whole += size

    def result(self, result: Result) -> None:
        """Write one result."""
        fields = {key: value for key, value in result.as_dict().items() if value or value == 0.0}
        self.write("result", fields)

    def finish(self, fields: dict[str, Any]) -> None:
        """Write the last line (its absence tells that the run was cut short) and close."""
        self.write("finish", fields)
        self.file.close()


def _open(path: Path) -> io.FileIO:
    if path == Path("-"):
        return io.FileIO(os.dup(sys.stdout.fileno()), "w")
    path.parent.mkdir(parents=True, exist_ok=True)
    return io.FileIO(path, "w")
