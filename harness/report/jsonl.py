# SPDX-License-Identifier: GPL-2.0-only
"""One JSON line per result, on disk before the next test ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from harness.report.outcome import Result


class JsonLines:
    """Writes results as they end; what was written survives whatever happens next.

    A line is there whole or not at all: one that does not fit on the disk is taken back and
    `error` says why.  Later lines are tried again.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.error: str | None = None
        """Why the file lacks lines."""
        self.file = path.open("wb", buffering=0)
        self._whole = 0 if path.is_file() else None

    def write(self, event: str, fields: dict[str, Any]) -> None:
        """Write one line that is not a result: start, collected, begin, broken."""
        # ASCII only: the line survives tools that guess an encoding.
        line = memoryview((json.dumps({"event": event, **fields}) + "\n").encode())
        size = len(line)
        try:
            while line:
                line = line[self.file.write(line) or 0 :]
        except OSError as error:
            if self._whole is None:
                raise  # a pipe: nobody reads any more
            self.error = f"{self.path} lacks results: {error.strerror}"
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
