# SPDX-License-Identifier: GPL-2.0-only
"""A ProxyCommand: run as ssh runs it, its streams one socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile

from harness.report import sanitize
from harness.ssh import config

PASS_TIMEOUT = 60.0
"""Seconds in which a command with ProxyUseFdpass hands its socket over."""
END_TIMEOUT = 2.0
_NOT_FOUND = (126, 127)
"""A shell's status where there is no such program."""


class ProxyError(Exception):
    """A command did not do what it should."""


class ProxyProcess:
    """A command that runs, and the connection that it is or has made."""

    def __init__(self, proxy: config.Proxy) -> None:
        """Start it by the user's shell, whose place it takes; ProxyError where that fails."""
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        shell = os.environ.get("SHELL") or "/bin/sh"
        try:
            # A group of its own: what the shell starts ends with it.
            self._process = subprocess.Popen(
                [shell, "-c", f"exec {proxy.command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
                process_group=0,
            )
        except OSError as error:
            ours.close()
            self._errors.close()
            raise ProxyError(f"{shell} does not start: {error.strerror}") from None
        finally:
            theirs.close()
        self.sock = self._passed(ours) if proxy.passes_socket else ours

    def _passed(self, ours: socket.socket) -> socket.socket:
        """Take the connected socket that the command hands over."""
        with ours:
            ours.settimeout(PASS_TIMEOUT)
            try:
                _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
            except OSError as error:
                descriptors, why = [], str(error)
            else:
                why = "it handed no socket over, as ProxyUseFdpass wants"
        if not descriptors:
            said = self.close() or why
            raise ProxyError(said)
        return socket.socket(fileno=descriptors[0])

    @property
    def not_found(self) -> bool:
        """Whether it has ended because there is no such program: waiting changes nothing."""
        return self._process.poll() in _NOT_FOUND

    def close(self) -> str:
        """End it; return how it had ended by itself, and its last words, "" where it had not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # What ends the connection and what it says of it come in any order.
            self._process.wait(0.3)
        status = self._process.poll()
        for number in (signal.SIGHUP, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_TIMEOUT)
                break
        words = self._last_words()
        if status is None:
            return words
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"it {how}" + (f": {words}" if words else "")

    def _last_words(self) -> str:
        if self._errors.closed:
            return ""
        with self._errors:
            self._errors.seek(max(self._errors.seek(0, os.SEEK_END) - 4096, 0))
            lines = self._errors.read().decode(errors="replace").splitlines()
        return next((text for line in reversed(lines) if (text := sanitize.line(line, 200))), "")
