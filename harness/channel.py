# SPDX-License-Identifier: GPL-2.0-only
"""The byte streams of a program on the target: a bounded backlog one way, a window the other."""

from __future__ import annotations

import contextlib
import errno
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol, TypeVar

from harness import agent as protocol
from harness.operations import DEFAULT_TIMEOUT, TargetTimeoutError

_T = TypeVar("_T")


class Carrier(Protocol):
    """What a channel needs of its program: harness/program.py."""

    @property
    def ended(self) -> object | None:
        """How it ended, None while it runs."""

    def until(
        self,
        take: Callable[[], _T | None],
        timeout: float | None,
        what: str,
        began: float | None = None,
    ) -> _T:
        """Wait until `take` gives something."""

    def send(
        self, kind: bytes, head: struct.Struct, value: int, data: bytes | memoryview = b""
    ) -> None:
        """Send a frame about this program."""


class Channel:
    """One of a program's byte streams; number 0 is what it prints, and takes no data."""

    def __init__(self, program: Carrier, number: int, backlog: int) -> None:
        self.number = number
        self.dropped = 0
        """Bytes that nobody received in time: the oldest go when the backlog is full."""
        self.refused = False
        """Whether the program has closed it, and takes no more."""
        self._program = program
        self._backlog = backlog
        self._sending = threading.Lock()
        self._received: deque[bytes] = deque()
        self._size = 0
        self._at_end = False
        self._under_way = 0
        self._closed = False

    def __str__(self) -> str:
        return f"channel {self.number} of {self._program}"

    def receive(self, timeout: float | None = DEFAULT_TIMEOUT) -> bytes:
        """Return all that came since the last call, at least a byte; b"" at the channel's end.

        Without a timeout it waits as long as the program runs.
        """
        return self._program.until(self._take, timeout, f"nothing came from {self}")

    def send(self, data: bytes, timeout: float | None = DEFAULT_TIMEOUT) -> None:
        """Send data; return when all is on its way.

        Blocks while the program does not read: TargetTimeoutError.  BrokenPipeError where it
        has closed the channel, or has ended.
        """
        if not self.number:
            raise ValueError(f"{self} is what it prints: it takes no data")
        began = time.monotonic()
        with self._turn(timeout):
            view = memoryview(data)
            while view:
                piece, view = view[: protocol.PIECE], view[protocol.PIECE :]
                what = f"{len(piece) + len(view)} bytes for {self} were not read"
                self._program.until(partial(self._reserve, len(piece)), timeout, what, began)
                self._program.send(b"D", protocol.DATA, self.number, piece)

    def close_sending(self, timeout: float | None = DEFAULT_TIMEOUT) -> None:
        """Let the program read the end of the stream; receiving goes on."""
        if not self.number:
            raise ValueError(f"{self} is what it prints: it takes no data")
        with self._turn(timeout):
            if not self._closed:
                self._closed = True
                if self._program.ended is None:
                    self._program.send(b"D", protocol.DATA, self.number)

    @contextlib.contextmanager
    def _turn(self, timeout: float | None) -> Iterator[None]:
        """Keep what two threads send apart."""
        if not self._sending.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            raise TargetTimeoutError(f"another thread has been sending to {self} for {timeout:g} s")
        try:
            yield
        finally:
            self._sending.release()

    # With the program's lock held.

    def _take(self) -> bytes | None:
        if self._received:
            data = b"".join(self._received)
            self._received.clear()
            self._size = 0
            return data
        return b"" if self._at_end or self._program.ended is not None else None

    def _reserve(self, size: int) -> bool | None:
        if self._closed:
            raise ValueError(f"{self}: our side was closed")
        if (ending := self._program.ended) is not None:
            raise BrokenPipeError(errno.EPIPE, f"{self}: the program {ending}")
        if self.refused:
            raise BrokenPipeError(errno.EPIPE, f"{self} was closed by the program")
        if self._under_way + size > protocol.WINDOW:
            return None
        self._under_way += size
        return True

    def store(self, data: bytes) -> None:
        """Keep what came; ValueError where it cannot have come."""
        if self._at_end:
            raise ValueError(f"data of {self} after its end")
        if not data:
            self._at_end = True
            return
        self._received.append(data)
        self._size += len(data)
        while (excess := self._size - self._backlog) > 0:
            oldest = self._received.popleft()
            if excess < len(oldest):
                self._received.appendleft(oldest[excess:])
            gone = min(excess, len(oldest))
            self._size -= gone
            self.dropped += gone

    def acknowledge(self, count: int) -> None:
        """Note what the program has taken, 0 if it takes no more; ValueError if that cannot be."""
        if not count:
            self.refused = True
        if count > self._under_way:
            raise ValueError(f"{self} took {count} bytes, of {self._under_way} sent")
        self._under_way -= count
