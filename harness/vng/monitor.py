# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's monitor (QMP): what QEMU says by itself, and questions put to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import EventListener, QMPClient, QMPError

CONNECT_TIMEOUT = 30.0
EVENTS = 1000
"""Events that are kept."""
_RETRY = 0.05
_Answer = TypeVar("_Answer")


class MonitorError(Exception):
    """QEMU does not answer, or refuses."""


class Monitor:
    """A connection to the monitor on a thread of its own; it may come up at any time or never."""

    def __init__(self, where: Path | socket.socket) -> None:
        """Connect to the socket that QEMU listens on, or take one that is its end already."""
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
        self.shutdown_reason: str | None = None
        """Why QEMU said that it ends: guest-reset, guest-shutdown, guest-panic, host-signal."""
        self.events: list[dict[str, Any]] = []
        """What QEMU told by itself, as QMP has it: the first EVENTS of it."""
        if isinstance(where, socket.socket):
            where.setblocking(False)  # asyncio wants it so
        self._where = where
        self._client = QMPClient("snptest")
        self._closing = False
        self._connected = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._thread.start()

    def connected(self, timeout: float) -> None:
        """Wait until questions can be put; MonitorError where QEMU does not come up in time."""
        if not self._connected.wait(timeout):
            raise MonitorError(f"QEMU's monitor did not come up within {timeout:g} s")

    def ask(self, command: str, timeout: float = 5.0, **arguments: object) -> Any:
        """Put a question; MonitorError where no answer comes in time."""
        if not self._connected.is_set():
            raise MonitorError("the monitor is not connected")
        return self._call(self._client.execute(command, arguments), timeout, command)

    def human(self, line: str, timeout: float = 5.0) -> str:
        """Put a question to the monitor for people, which knows more than QMP."""
        return str(self.ask("human-monitor-command", timeout, **{"command-line": line}))

    def close(self) -> None:
        """End the connection and the thread; QEMU may be gone already."""
        if self._closing:
            return
        self._closing = True
        if self._connected.is_set():
            with contextlib.suppress(MonitorError):
                self._call(self._client.disconnect(), 2.0, "disconnect")
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _call(self, question: Coroutine[Any, Any, _Answer], timeout: float, what: str) -> _Answer:
        future = asyncio.run_coroutine_threadsafe(question, self._loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise MonitorError(f"QEMU did not answer {what} within {timeout:g} s") from None
        except (QMPError, OSError, RuntimeError, EOFError) as error:
            raise MonitorError(f"{what}: {error or type(error).__name__}") from None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(self._listen())
        try:
            self._loop.run_forever()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        """Connect as soon as QEMU listens, then take its events."""
        until = time.monotonic() + CONNECT_TIMEOUT
        events = EventListener()
        self._client.register_listener(events)  # before the connection: none is missed
        while not self._closing and time.monotonic() < until:
            try:
                where = self._where
                await self._client.connect(str(where) if isinstance(where, Path) else where)
                break
            except AssertionError:
                break  # QEMU has ended by then, as qemu.qmp sees: its events came before
            except (QMPError, OSError):
                await asyncio.sleep(_RETRY)
        else:
            return
        self._connected.set()
        async for event in events:
            if len(self.events) < EVENTS:
                self.events.append(dict(event))
            data = event.get("data")
            if event.get("event") == "SHUTDOWN" and isinstance(data, dict):
                self.shutdown_reason = str(data.get("reason"))
