# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU process: on a leash, with its console in a file and its end known."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from harness import leash as leash_program
from harness.kernel import TargetError
from harness.vng.consolelog import ConsoleLog

STOP_TIMEOUT = 10.0


class Qemu:
    """One QEMU and what it prints: its messages and the console of its guest."""

    def __init__(self, name: str, scratch: Path, command: list[str]) -> None:
        # A pipe, not a file: QEMU opens it anew for the console, and would write from the start.
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.leash = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(leash_program.__file__)), str(scratch), *command],
            stdin=subprocess.PIPE,
            stdout=writer,
            stderr=writer,
            env={**os.environ, "TMPDIR": str(scratch)},
            start_new_session=True,
        )
        os.close(writer)
        self.console = ConsoleLog(name, reader)

    def accept(self, listener: socket.socket, deadline: float) -> socket.socket:
        """Wait for QEMU to connect; TargetError when it ends or takes too long."""
        ended = os.pidfd_open(self.leash.pid)
        try:
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            poll.register(ended, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(max(deadline - time.monotonic(), 0) * 1000)}
        finally:
            os.close(ended)
        if listener.fileno() in ready:
            return listener.accept()[0]
        if ready:
            raise TargetError(f"QEMU did not start (status {self.leash.wait(1)})")
        raise TargetError("QEMU did not connect in time")

    def ended(self, timeout: float = 0.0) -> int | None:
        """Return the exit status (128 + signal where one killed it); None while it runs."""
        try:
            return self.leash.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Let go of the leash: QEMU and all are killed."""
        assert self.leash.stdin is not None
        self.leash.stdin.close()
        if self.ended(STOP_TIMEOUT) is None:
            self.leash.kill()
            self.leash.wait(STOP_TIMEOUT)
        self.console.close()
