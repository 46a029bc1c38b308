# SPDX-License-Identifier: GPL-2.0-only
"""The pipe on which a process of ours tells its results: pytest's, or a run of snptest's."""

from __future__ import annotations

import os

from harness import standstill
from harness.report.events import Event, Lines

_CHUNK = 1 << 16


class ResultPipe:
    """Made before the process, which gets `fd` and writes to `name`; read until it `ended`."""

    def __init__(self) -> None:
        self._reading, self.fd = os.pipe()
        self.lines = Lines()
        self.ended = False
        """Whether nobody can write any more, and everything was read."""

    @property
    def name(self) -> str:
        """The pipe as a file, to the process that has `fd`."""
        return f"/dev/fd/{self.fd}"

    def started(self) -> None:
        """Leave writing to the process, now that it has its end of the pipe."""
        os.close(self.fd)
        self.fd = -1

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to read, or the end; False after so many seconds."""
        return standstill.readable(self._reading, seconds)

    def events(self) -> list[Event]:
        """Read what is there; what is no event is counted by `lines`."""
        chunk = os.read(self._reading, _CHUNK)
        self.ended = not chunk
        return [line.event for line in self.lines.feed(chunk) if line.event is not None]

    def __enter__(self) -> ResultPipe:
        return self

    def __exit__(self, *details: object) -> None:
        os.close(self._reading)
        if self.fd >= 0:
            os.close(self.fd)
