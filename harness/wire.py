# SPDX-License-Identifier: GPL-2.0-only
"""The host's side of the agent: a Kernel behind a byte stream.

The frames are described in harness/agent.py, which both sides share.  Every wait has a
deadline, and whatever ends the stream (the agent dies, its machine panics, garbage comes)
makes each pending and later call raise TargetError at once, with the reason.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import agent as protocol
from harness.frames import completed, decode_results, drop_until_greeting, encode
from harness.kernel import Kernel
from harness.operations import (
    DEFAULT_BACKLOG,
    DEFAULT_TIMEOUT,
    Completed,
    Op,
    Result,
    TargetError,
    TargetTimeoutError,
    Ticket,
    describe,
)
from harness.program import GRACE, Link, Program, Programs

MOST_SAID = 1 << 16
"""Bytes that are kept of what a program says that was to end a boot."""

SEND_TIMEOUT = 30.0
"""Seconds a frame may take to leave: a target that no longer reads has hung."""


@dataclass(slots=True)
class _Reply:
    """What somebody waits for."""

    event: threading.Event = field(default_factory=threading.Event)
    value: Any = None
    """Results of a batch, text and errno of the log, or a Completed; None until it is there."""
    lost: bool = False
    """Whether it was under way when the target was booted anew."""


class RemoteKernel(Kernel):
    """A kernel whose KVM an agent drives for us, over two file descriptors (or one twice).

    `last_seen` says what a message about a lost or hung target should end with (the tail
    of a console); `on_close` gives the target's processes back.
    """

    thread_limit = protocol.MAX_THREADS - 64
    runs_programs = True

    def __init__(
        self,
        name: str,
        reader: int,
        writer: int,
        *,
        last_seen: Callable[[], str] = lambda: "",
        on_close: Callable[[], None] = lambda: None,
        hello_timeout: float = 10.0,
    ) -> None:
        self.name = name
        self.hello: dict[str, object] = {}
        self._reader, self._writer = reader, writer
        self._last_seen, self._on_close = last_seen, on_close
        self._numbers = itertools.count(1)
        self._replies: dict[int, _Reply] = {}
        self._lock = threading.Lock()
        self._answered = threading.Condition(self._lock)
        self._send_lock = threading.Lock()
        self._program_link = Link(name, self._send, self._seen)
        self._programs = Programs(self._program_link)
        self._next_boot = False
        """Whether the agent of the target's next boot is waited for."""
        self._death: str | None = None
        self._closing = False
        self.pid: int | None = None
        self._greeted = threading.Event()
        self._wake_reader, self._wake_writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._thread = threading.Thread(target=self._receive, name=f"wire-{name}", daemon=True)
        self._thread.start()
        try:
            self._greet(hello_timeout)
        except BaseException:
            self.shutdown()
            raise

    # The Kernel protocol.

    def start(self, ops: Sequence[Op], *, thread: int = 0) -> Ticket:
        """Send a batch to a thread of the target."""
        ops = list(ops)
        if not 0 < len(ops) <= protocol.MAX_OPS:
            raise ValueError(f"a batch has 1 to {protocol.MAX_OPS} operations, not {len(ops)}")
        what = describe(ops[0]) + (f" and {len(ops) - 1} more" if len(ops) > 1 else "")
        body = b"".join(encode(op) for op in ops)
        number = self._register()
        self._send(b"B", protocol.BATCH.pack(number, thread, len(ops)) + body)
        return Ticket(number, thread, what)

    def wait(self, ticket: Ticket, timeout: float = DEFAULT_TIMEOUT) -> list[Result]:
        """Wait for a batch; one that timed out can be waited for again."""
        what = f"{ticket.what} on thread {ticket.thread}"
        results: list[Result] = self._await(ticket.number, timeout, what)
        return results

    def wait_any(self, tickets: Sequence[Ticket], timeout: float = DEFAULT_TIMEOUT) -> Ticket:
        """Wait until one of several batches has ended, or the target is lost."""
        with self._lock:
            replies = [(ticket, self._reply(ticket.number, ticket.what)) for ticket in tickets]
            if not self._answered.wait_for(
                lambda: any(reply.event.is_set() for _, reply in replies), timeout
            ):
                what = ", ".join(f"{one.what} on thread {one.thread}" for one in tickets)
                raise TargetTimeoutError(
                    f"{self.name}: none of {what} ended within {timeout:g} s{self._seen()}"
                )
        return next(ticket for ticket, reply in replies if reply.event.is_set())

    def interrupt(self, thread: int) -> None:
        """Have the batch under way on a thread return EINTR (see harness/agent.py)."""
        self._send(b"I", protocol.INTERRUPT.pack(thread))

    def log(self) -> str:
        """Return the target's kernel log; one line saying why where it may not be read."""
        number = self._register()
        self._send(b"L", protocol.LOG.pack(number))
        text, code = self._await(number, DEFAULT_TIMEOUT, "the kernel log")
        if code:
            return f"(snptest may not read the kernel log: {os.strerror(code)})\n"
        return str(text.decode(errors="replace"))

    def run_program(
        self, argv: Sequence[str], timeout: float = DEFAULT_TIMEOUT, limit: int = 1 << 20
    ) -> Completed:
        """Run a program on the target; the target ends it when its time is up."""
        number = self._register()
        head = protocol.PROGRAM.pack(number, max(int(timeout * 1000), 1), limit)
        self._send(b"X", head + json.dumps(list(argv)).encode())
        # The target keeps the time; this is for a target that does not.
        done = self._await(number, timeout + GRACE, f"program {argv[0]}")
        assert isinstance(done, Completed)
        return done

    def start_program(
        self,
        argv: Sequence[str],
        *,
        channels: int = 0,
        timeout: float = DEFAULT_TIMEOUT,
        backlog: int = DEFAULT_BACKLOG,
    ) -> Program:
        """Start a program on the target; the target ends it when its time is up."""
        number = next(self._numbers)
        return self._programs.start(number, argv, channels, timeout, backlog)

    def boot_anew(self, argv: Sequence[str], timeout: float, *, by_reset: bool = False) -> None:
        """Run a program that ends the target's kernel; wait for the agent of the next boot.

        Only where the stream outlives the kernel (`boots_anew`): a machine's port.
        """
        number = self._register()
        with self._lock:
            self._next_boot = True
            reply = self._replies[number]
        try:
            head = protocol.PROGRAM.pack(number, max(int(timeout * 1000), 1), MOST_SAID)
            self._send(b"X", head + json.dumps(list(argv)).encode(), ending=True)
            with self._lock:
                in_time = self._answered.wait_for(
                    lambda: reply.event.is_set() or self._death is not None, timeout
                )
        finally:
            with self._lock:
                booted, self._next_boot = not self._next_boot, False
                if reply.event.is_set():
                    self._replies.pop(number, None)
        if booted:
            return
        with self._lock:
            self._check_alive()
        what = f"{self.name}: program {argv[0]}"
        if not in_time:
            raise TargetTimeoutError(
                f"{what} was to boot it anew; no agent spoke within {timeout:g} s{self._seen()}"
            )
        done = reply.value
        assert isinstance(done, Completed)
        how = done.failure or f"status {done.status}"
        said = done.output.decode(errors="replace").strip()
        raise TargetError(f"{what} did not boot it anew: {how}{': ' if said else ''}{said}")

    def shutdown(self) -> None:
        """Close the stream: the agent exits, and the kernel closes what it had open."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._die("the target was shut down")
        os.write(self._wake_writer, b"x")
        self._thread.join(10)
        with self._send_lock:
            for fd in {self._reader, self._writer, self._wake_reader, self._wake_writer}:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._on_close()

    # Sending and waiting.

    def _register(self) -> int:
        with self._lock:
            self._check_alive()
            number = next(self._numbers)
            self._replies[number] = _Reply()
            return number

    def _check_alive(self) -> None:
        if self._death is not None:
            raise TargetError(f"{self.name}: {self._death}")
        if self._next_boot:
            raise TargetError(f"{self.name}: it is being booted anew")

    def _await(self, number: int, timeout: float, what: str) -> Any:
        with self._lock:
            reply = self._reply(number, what)
        if not reply.event.wait(timeout):
            raise TargetTimeoutError(
                f"{self.name}: {what} did not end within {timeout:g} s{self._seen()}"
            )
        with self._lock:
            self._replies.pop(number, None)
            if reply.lost:
                raise TargetError(f"{self.name}: {what} ended with the boot it was started in")
            if reply.value is None:
                self._check_alive()
        return reply.value

    def _reply(self, number: int, what: str) -> _Reply:
        reply = self._replies.get(number)
        if reply is None:
            raise ValueError(f"nothing is under way as ticket {number} ({what})")
        return reply

    def _seen(self) -> str:
        seen = self._last_seen()
        return f"; last seen:\n{seen}" if seen else ""

    def _send(self, kind: bytes, rest: bytes, *, ending: bool = False) -> None:
        if len(rest) + 1 > protocol.MAX_FRAME:
            raise ValueError(f"a batch of {len(rest)} bytes, {protocol.MAX_FRAME} is the most")
        data = memoryview(protocol.LENGTH.pack(len(rest) + 1) + kind + rest)
        deadline = time.monotonic() + SEND_TIMEOUT
        with self._send_lock, selectors.DefaultSelector() as selector:
            if not ending:
                self._check_alive()
            selector.register(self._writer, selectors.EVENT_WRITE)
            while data:
                try:
                    data = data[os.write(self._writer, data) :]
                    continue
                except BlockingIOError:
                    pass
                except OSError as error:
                    # The reader thread knows more: the agent's last words, the end of file.
                    self._thread.join(1)
                    self._die(f"the connection to the agent broke: {error.strerror}")
                    self._check_alive()
                left = deadline - time.monotonic()
                if left <= 0:
                    # Half a frame is out: nothing sensible can follow it.
                    self._die(f"the agent did not read for {SEND_TIMEOUT:g} s")
                    raise TargetTimeoutError(f"{self.name}: {self._death}")
                selector.select(left)

    def _die(self, why: str) -> None:
        """Note the end of the target, once, and wake everybody who waits for it."""
        seen = "" if self._closing else self._seen()
        with self._lock:
            if self._death is None:
                self._death = why + seen
            death = self._death
            for reply in self._replies.values():
                reply.event.set()
            self._answered.notify_all()
        self._programs.lose(death)
        self._greeted.set()

    # Receiving, on a thread of its own.

    def _greet(self, timeout: float) -> None:
        if not self._greeted.wait(timeout):
            raise TargetTimeoutError(
                f"{self.name}: the agent said nothing within {timeout:g} s{self._seen()}"
            )
        self._check_alive()

    def _receive(self) -> None:
        buffer = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            try:
                while not self._closing:
                    ready = {key.fd for key, _ in selector.select()}
                    if self._reader not in ready:
                        continue
                    try:
                        part = os.read(self._reader, 1 << 20)
                    except BlockingIOError:
                        continue
                    except OSError as error:
                        self._die(f"the connection to the agent broke: {error.strerror}")
                        return
                    if not part:
                        self._die("the agent has gone" + (" inside a frame" if buffer else ""))
                        return
                    buffer += part
                    self._take_frames(buffer)
            except ValueError as error:
                self._die(f"the agent broke the protocol: {error}")

    def _take_frames(self, buffer: bytearray) -> None:
        """Handle the whole frames at the start of the buffer and drop them from it."""
        if self._next_boot:
            drop_until_greeting(buffer)
        while len(buffer) >= protocol.LENGTH.size:
            (length,) = protocol.LENGTH.unpack_from(buffer)
            if not 0 < length <= protocol.MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes is out of bounds")
            end = protocol.LENGTH.size + length
            if len(buffer) < end:
                return
            frame = bytes(memoryview(buffer)[protocol.LENGTH.size : end])
            del buffer[:end]
            self._handle(frame[:1], frame[1:])

    def _handle(self, kind: bytes, rest: bytes) -> None:
        if kind == b"H" and (self._next_boot or not self._greeted.is_set()):
            hello = json.loads(rest)
            if not isinstance(hello, dict) or hello.get("magic") != protocol.MAGIC:
                raise ValueError("what answers is not the agent")
            if hello.get("version") != protocol.VERSION:
                raise ValueError(
                    f"the agent speaks version {hello.get('version')}, this is {protocol.VERSION}"
                )
            self.hello = hello
            if self._next_boot:
                self._begin_boot()
            self._greeted.set()
        elif not self.hello:
            raise ValueError("what answers is not the agent")
        elif kind == b"R":
            self._answer(*decode_results(rest))
        elif kind == b"L" and len(rest) >= protocol.LOG_REPLY.size:
            number, code = protocol.LOG_REPLY.unpack_from(rest)
            self._answer(number, (rest[protocol.LOG_REPLY.size :], code))
        elif kind == b"X" and len(rest) >= protocol.PROGRAM_REPLY.size:
            number, status, dropped = protocol.PROGRAM_REPLY.unpack_from(rest)
            output = rest[protocol.PROGRAM_REPLY.size :]
            self._answer(number, completed(status, output, dropped))
        elif kind in (b"D", b"A", b"S"):
            self._programs.handle(kind, rest)
        elif kind == b"E":
            raise ValueError(f"it complains of us: {rest.decode(errors='replace')}")
        else:
            raise ValueError(f"unknown frame {kind!r}")

    def _begin_boot(self) -> None:
        """Give up what the boot before was asked for: its agent will answer nothing more."""
        self._programs.lose("the program ended with the boot it was started in")
        self._programs = Programs(self._program_link)
        with self._lock:
            self._next_boot = False
            self.boots += 1
            for reply in self._replies.values():
                reply.lost = True
                reply.event.set()
            self._answered.notify_all()

    def _answer(self, number: int, value: object) -> None:
        with self._lock:
            reply = self._replies.get(number)
            if reply is None:
                raise ValueError(f"an answer to ticket {number}, which nobody asked for")
            reply.value = value
            reply.event.set()
            self._answered.notify_all()
