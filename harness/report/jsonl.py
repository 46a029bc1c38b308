# SPDX-License-Identifier: GPL-2.0-only
"""One JSON line per result, on disk before the next test ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.report.outcome import Result


class JsonLines:
    """Writes results as they end; what was written survives whatever happens next."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("w", encoding="utf-8")

    def write(self, event: str, fields: dict[str, Any]) -> None:
        """Write one line that is not a result: start, collected, begin, broken."""
        # ASCII only: the line survives tools that guess an encoding.
        self.file.write(json.dumps({"event": event, **fields}) + "\n")
        self.file.flush()

    def result(self, result: Result) -> None:
        """Write one result."""
        fields = {key: value for key, value in result.as_dict().items() if value or value == 0.0}
        self.write("result", fields)

    def finish(self, fields: dict[str, Any]) -> None:
        """Write the last line (its absence tells that the run was cut short) and close."""
        self.write("finish", fields)
        self.file.close()
