# SPDX-License-Identifier: GPL-2.0-only
"""What a guest prints on a serial port, kept as it comes, and waited for."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from harness.channel import Channel
from harness.operations import TargetError
from harness.report import sanitize

KEPT = 4 << 20
"""Bytes of a console that are kept: the last."""
TAIL = 600
"""Characters of it that a message ends with."""


class Console:
    """A serial port that is read all the time, on a thread of its own.

    Text is as it came, with escape sequences and all: `tail` is fit to be shown.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._data = bytearray()
        self._dropped = 0
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="console", daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """All that was printed, as far as it is kept."""
        with self._changed:
            return self._data.decode(errors="replace")

    @property
    def tail(self) -> str:
        """The end of it, sanitised, for messages."""
        lines = [line for line in sanitize.text(self.text).splitlines() if line.strip()]
        return "\n".join(lines)[-TAIL:] or "nothing"

    @property
    def at_end(self) -> bool:
        """Whether nothing more can come: QEMU has closed it, or its host is lost."""
        return self._ended

    def since(self, position: int) -> tuple[bytes, int]:
        """Return what was printed behind a position, as far as it is kept, and its length."""
        with self._changed:
            end = self._dropped + len(self._data)
            return bytes(self._data[max(position - self._dropped, 0) :]), end - position

    def more(self, position: int, timeout: float) -> None:
        """Wait until there is something behind a position, or nothing can come, or time is up."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or self._dropped + len(self._data) > position, timeout
            )

    def wait(
        self,
        pattern: str,
        timeout: float,
        over: Callable[[], bool] = lambda: False,
    ) -> re.Match[str] | None:
        """Wait for a pattern; None when time is up or nothing more can come.

        `over` is asked now and then: once it is true, what is there already is looked at and no
        more is waited for.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        until = time.monotonic() + timeout
        while True:
            last = over()
            with self._changed:
                match = wanted.search(self._data.decode(errors="replace"))
                if match is not None:
                    return match
                left = until - time.monotonic()
                if self._ended or last or left <= 0:
                    return None
                self._changed.wait(min(left, 0.2))

    def _read(self) -> None:
        """Take what comes until the guest or its host has gone."""
        try:
            while data := self._channel.receive(None):
                self._keep(data)
        except TargetError:  # its users hear of it by what they ask themselves
            data = b""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _keep(self, data: bytes) -> None:
        with self._changed:
            self._data += data
            extra = len(self._data) - KEPT
            if extra > 0:
                del self._data[:extra]
                self._dropped += extra
            self._changed.notify_all()
