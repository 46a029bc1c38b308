# SPDX-License-Identifier: GPL-2.0-only
"""A host's console, by the command that prints it: what a kernel says that tells nobody else.

The command runs here, for as long as the host is used, and dies with us however we end.
A console is evidence, not a condition: one that ends is started again when the host is used
next, and a run without one is as good a run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

from harness import leash
from harness.ssh.hosts import Host
from harness.vng.consolelog import ConsoleLog, new_path

END_TIMEOUT = 5.0


class Console:
    """The console of one host, from its first use on; nothing where the host has no command."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._process: subprocess.Popen[bytes] | None = None
        self._log: ConsoleLog | None = None
        self._mark = 0

    def start(self) -> None:
        """Start the command unless it runs; what it printed before is kept in another file."""
        command = self._host.console
        if command is None or (self._process is not None and self._process.poll() is None):
            return
        self.close()
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            # Of what it complains is not shown: it may hold a password.
            self._process = subprocess.Popen(
                [sys.executable, leash.__file__, "", "sh", "-c", command],
                stdin=subprocess.PIPE,
                stdout=writing,
                stderr=subprocess.DEVNULL,
            )
        finally:
            os.close(writing)
        safe = "".join(c if c.isalnum() or c in "-." else "_" for c in self._host.name)
        self._log = ConsoleLog(new_path(safe), reading)
        self._mark = 0

    def mark(self) -> None:
        """Begin anew behind what has come so far."""
        self._mark = len(self._text())

    def said(self) -> str:
        """Return what came since the mark, once nothing more does for a moment."""
        if self._log is None:
            return ""
        self._log.settle()
        return self._text()[self._mark :]

    def tail(self) -> str:
        """Return the last lines since the command was started."""
        return self._log.tail() if self._log is not None else ""

    def close(self) -> None:
        """End the command."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()  # the leash
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT)
        if self._log is not None:
            self._log.close()

    def _text(self) -> str:
        return self._log.text() if self._log is not None else ""
