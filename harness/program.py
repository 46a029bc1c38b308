# SPDX-License-Identifier: GPL-2.0-only
"""Programs that run on the target while we talk to them, over channels (harness/agent.py).

A channel is a stream socket that the program has as its file 10, 11, ...; channel 0 is what it
prints.  All methods may be called from any thread.  Every wait that is given a timeout raises
TargetTimeoutError, with what did not happen; a lost target raises TargetError in all at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from harness import agent as protocol
from harness.bridge import bridged
from harness.channel import Channel
from harness.frames import failure_of
from harness.operations import TargetError, TargetTimeoutError

LONGEST = 30 * 86400.0
"""Seconds that a program may be given: a frame has 32 bits for milliseconds."""
GRACE = 30.0
"""Seconds that the target may take to end a program whose time is up."""
KILL_TIMEOUT = 30.0
"""Seconds that a killed program may take to end: a virtual machine gives back its memory."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a program ended."""

    status: int | None
    """Exit status, negative for a signal; None where it was not started or did not end in time."""
    failure: str = ""
    """Why there is no status."""

    def __str__(self) -> str:
        """Say it in a few words, as in: the program ended with status 1."""
        if self.status is None:
            return f"did not run to its end: {self.failure}"
        if self.status < 0:
            return f"was ended by signal {-self.status}"
        return f"ended with status {self.status}"


@dataclass(frozen=True, slots=True)
class Link:
    """What programs need of the connection to their target."""

    name: str
    send: Callable[[bytes, bytes], None]
    """Sends a frame: kind and rest."""
    seen: Callable[[], str]
    """What a message about a target that hangs should end with."""


class Program:
    """A program that runs on the target; as a context manager it is killed at the end."""

    def __init__(
        self,
        link: Link,
        number: int,
        argv: Sequence[str],
        channels: int,
        timeout: float,
        backlog: int,
    ) -> None:
        self._link = link
        self._number = number
        self._name = os.path.basename(argv[0])
        self._until = time.monotonic() + timeout
        self._changed = threading.Condition()
        self._ending: Ending | None = None
        self._loss: str | None = None
        self._channels = [Channel(self, each, backlog) for each in range(1 + channels)]
        self._bridged: set[int] = set()

    def __str__(self) -> str:
        return f"program {self._name}"

    def channel(self, number: int) -> Channel:
        """Return a channel, from 1 on, or 0 for what the program prints."""
        if not 0 <= number < len(self._channels):
            raise ValueError(f"channel is {number}; {self} has 0 to {len(self._channels) - 1}")
        return self._channels[number]

    @property
    def output(self) -> Channel:
        """What it prints, stdout and stderr in one; untrusted."""
        return self._channels[0]

    def bridge(self, number: int) -> socket.socket:
        """Return a connected socket that is the channel: for libraries that want one.

        The caller closes it.  From now on nobody else may use the channel.  It is at its end
        when the channel is, when the program has ended, when the target is lost, and when the
        caller reads so slowly that the channel had to drop something: no gap goes unnoticed.
        """
        if not number:
            raise ValueError(f"{self.channel(0)} is what it prints: it has no socket")
        channel = self.channel(number)
        with self._changed:
            if number in self._bridged:
                raise ValueError(f"{channel} has a socket already")
            self._bridged.add(number)
        return bridged(channel, self._until_over)

    def signal(self, number: int) -> None:
        """Send a signal to its process group; nothing where it has ended."""
        if not 0 < number < signal.NSIG:
            raise ValueError(f"signal is {number}; want 1 to {signal.NSIG - 1}")
        if self.ended is None:
            self.send(b"K", protocol.SIGNAL, number)

    def kill(self) -> None:
        """End it and its process group by SIGKILL."""
        self.signal(signal.SIGKILL)

    @property
    def ended(self) -> Ending | None:
        """How it ended, None while it runs."""
        return self._ending

    def wait(self, timeout: float | None = None) -> Ending:
        """Wait for its end, by default until the target must have ended it."""
        if timeout is None:
            timeout = max(self._until - time.monotonic(), 0) + GRACE
        return self.until(lambda: self._ending, timeout, f"{self} did not end")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.kill()
            self.wait(KILL_TIMEOUT)
        except TargetError:
            if error is None:
                raise  # else the first error tells more

    # For channels.

    def until(
        self,
        take: Callable[[], _T | None],
        timeout: float | None,
        what: str,
        began: float | None = None,
    ) -> _T:
        """Wait until `take`, called with the lock held, returns something; return that.

        The timeout counts from `began`, or now.  Raises TargetTimeoutError with `what`, or
        TargetError if the target is lost.
        """
        until = None if timeout is None else (began or time.monotonic()) + timeout
        with self._changed:
            while (value := take()) is None:
                if self._loss is not None:
                    raise TargetError(f"{self._link.name}: {self._loss}")
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            else:
                return value
        seen = self._link.seen()
        raise TargetTimeoutError(f"{self._link.name}: {what} within {timeout:g} s{seen}")

    def send(
        self, kind: bytes, head: struct.Struct, value: int, data: bytes | memoryview = b""
    ) -> None:
        """Send a frame about this program."""
        self._link.send(kind, head.pack(self._number, value) + bytes(data))

    def _until_over(self) -> None:
        """Wait until it has ended, or the target is lost."""
        with contextlib.suppress(TargetError):
            self.until(lambda: self._ending, None, "")

    # For the connection.

    def take(self, channel: int, data: bytes) -> None:
        """Keep data of a channel; ValueError where that breaks the protocol."""
        with self._changed:
            self.channel(channel).store(data)
            self._changed.notify_all()

    def acknowledge(self, channel: int, count: int) -> None:
        """Note that data was taken; ValueError where that breaks the protocol."""
        with self._changed:
            self.channel(channel).acknowledge(count)
            self._changed.notify_all()

    def end(self, ending: Ending) -> None:
        """Note how it ended."""
        with self._changed:
            self._ending = ending
            self._changed.notify_all()

    def lose(self, reason: str) -> None:
        """Note that the target is lost."""
        with self._changed:
            self._loss = reason
            self._changed.notify_all()


class Programs:
    """The programs that run on one target."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._running: dict[int, Program] = {}
        self._loss: str | None = None

    def start(
        self, number: int, argv: Sequence[str], channels: int, timeout: float, backlog: int
    ) -> Program:
        """Start a program under a number that nothing else has."""
        argv = list(argv)
        if not argv:
            raise ValueError("argv is empty; want a program and its arguments")
        if not 0 <= channels <= protocol.MAX_CHANNELS:
            raise ValueError(f"channels is {channels}; want 0 to {protocol.MAX_CHANNELS}")
        if not 0 < timeout <= LONGEST:
            raise ValueError(f"timeout is {timeout:g}; want seconds, {LONGEST:g} at most")
        head = protocol.START.pack(number, channels, max(int(timeout * 1000), 1))
        program = Program(self._link, number, argv, channels, timeout, backlog)
        with self._lock:
            if self._loss is not None:
                raise TargetError(f"{self._link.name}: {self._loss}")
            self._running[number] = program
        try:
            self._link.send(b"S", head + json.dumps(argv).encode())
        except BaseException:
            with self._lock:
                self._running.pop(number, None)
            raise
        return program

    def handle(self, kind: bytes, rest: bytes) -> None:
        """Take a frame about a program; ValueError where it breaks the protocol."""
        try:
            if kind == b"D":
                number, channel = protocol.DATA.unpack_from(rest)
                self._program(number).take(channel, rest[protocol.DATA.size :])
            elif kind == b"A":
                number, channel, count = protocol.TAKEN.unpack(rest)
                self._program(number).acknowledge(channel, count)
            else:
                number, status = protocol.ENDED.unpack_from(rest)
                text = rest[protocol.ENDED.size :]
                failure = failure_of(status, text)
                self._program(number).end(Ending(None if failure else status, failure))
                with self._lock:
                    del self._running[number]
        except struct.error as error:
            raise ValueError(f"damaged {kind!r} frame: {error}") from None

    def lose(self, reason: str) -> None:
        """End all that waits for a program."""
        with self._lock:
            self._loss = reason
            running = list(self._running.values())
        for program in running:
            program.lose(reason)

    def _program(self, number: int) -> Program:
        with self._lock:
            program = self._running.get(number)
        if program is None:
            raise ValueError(f"a frame about program {number}, which does not run")
        return program
