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
from harness.vng.init import MARK
from harness.vng.machine import Paths
from harness.vng.monitor import Monitor

STOP_TIMEOUT = 10.0


_STOPPED = ("T", "t")


class Qemu:
    """One QEMU and what it prints: its messages and the console of its guest."""

    def __init__(self, paths: Paths, command: list[str]) -> None:
        self._paths = paths
        scratch = paths.scratch
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
        self.console = ConsoleLog(paths.console, reader)
        self.monitor = Monitor(paths.monitor)

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

    def stopped(self) -> bool:
        """Whether somebody stopped the process (SIGSTOP, a debugger)."""
        for pid in _children(self.leash.pid):
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if stat[stat.rindex(")") + 2 :].split()[0] in _STOPPED:
                return True
        return False

    def triple_fault(self) -> bool:
        """Whether a CPU faulted its way out (known without acceleration only)."""
        try:
            return "Triple fault" in self._paths.resets.read_text(errors="replace")
        except FileNotFoundError:
            return False

    def guest_has_gone(self) -> bool:
        """Whether the console or the monitor says that the guest is at its end."""
        last = self.console.tail()
        ending = ("Kernel panic", "reboot: ", MARK, "sysrq: Resetting")
        return self.monitor.shutdown_reason is not None or any(each in last for each in ending)

    def stop(self) -> None:
        """Let go of the leash: QEMU and all are killed."""
        self.monitor.close()
        assert self.leash.stdin is not None
        self.leash.stdin.close()
        if self.ended(STOP_TIMEOUT) is None:
            self.leash.kill()
            self.leash.wait(STOP_TIMEOUT)
        self.console.close()
        self._paths.resets.unlink(missing_ok=True)


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
