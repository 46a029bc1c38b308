# SPDX-License-Identifier: GPL-2.0-only
"""A Python program of ours on a host: started through ssh, whatever login scripts print."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import paramiko

from harness.errors import HostError
from harness.report import sanitize
from harness.ssh.connection import Connection
from harness.ssh.problems import Unreachable

BOOTSTRAP = Path(__file__).parent / "bootstrap.py"
"""What runs on a host first; it is sent, and never imported here."""
GREETING_TIMEOUT = 60.0
"""Seconds that login scripts and the start of Python may take."""
GARBAGE = 1 << 20
"""Bytes that login scripts may print."""
CHUNK = 1 << 16


class Remote:
    """A program that was started on a host and has greeted us."""

    def __init__(self, connection: Connection, program: Path, options: dict[str, Any]) -> None:
        """Start it; HostError where it does not come up, with what the host says instead."""
        self.host = connection.host
        self.mark = secrets.token_hex(16)
        self.channel = connection.session()
        self._rest = b""
        command = _command(program, options | {"mark": self.mark}, sudo=self.host.sudo)
        self._deadline = time.monotonic() + GREETING_TIMEOUT
        try:
            self.channel.settimeout(1.0)
            self.channel.exec_command(command)
            self._until_ready()
        except (paramiko.SSHException, EOFError, OSError) as error:
            self.close()
            raise Unreachable(
                f"{self.host.name}: the connection broke: {sanitize.line(str(error))}"
            ) from None
        except BaseException:
            self.close()
            raise

    def answer(self) -> dict[str, Any]:
        """Read its marked line of JSON; HostError for what it refuses to do."""
        line = self._line(f"\n{self.mark} ".encode())
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise HostError(f"{self.host.name}: its answer is damaged", _PRINTS)
        if "error" in value:
            raise HostError(f"{self.host.name}: {sanitize.line(str(value['error']), 300)}")
        return value

    def take_rest(self) -> bytes:
        """Return what was read beyond the last line."""
        rest, self._rest = self._rest, b""
        return rest

    def close(self) -> None:
        """Close its streams."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.close()

    def _until_ready(self) -> None:
        if self._line(f"\n{self.mark} ".encode()) != b"ready":
            raise HostError(f"{self.host.name}: the first word is not what it should be", _PRINTS)

    def _line(self, mark: bytes) -> bytes:
        """Return the line after the next mark, and drop what comes before that."""
        buffer = bytearray(self._rest)
        while True:
            at = buffer.find(mark)
            end = buffer.find(b"\n", at + len(mark)) if at >= 0 else -1
            if end >= 0:
                self._rest = bytes(buffer[end + 1 :])
                return bytes(buffer[at + len(mark) : end])
            if at < 0 and len(buffer) > GARBAGE:
                raise HostError(f"{self.host.name}: it prints without end when one logs in")
            if time.monotonic() > self._deadline:
                raise HostError(
                    f"{self.host.name}: no word within {GREETING_TIMEOUT:g} s{self._said(buffer)}",
                    "do its login scripts wait for something?",
                )
            try:
                part = self.channel.recv(CHUNK)
            except TimeoutError:
                continue
            if not part:
                raise self._ended(buffer)
            buffer += part

    def _ended(self, buffer: bytearray) -> HostError:
        if not self.channel.get_transport().is_active():
            return Unreachable(f"{self.host.name}: the connection was closed")
        status = self.channel.recv_exit_status() if self.channel.status_event.wait(5) else -1
        hint = "its login shell runs no commands?"
        if status == 127:
            hint = "it needs python3, 3.9 or newer"
        elif self.host.sudo:
            hint = "does `sudo -n python3 --version` work there?"
        said = self._said(buffer)
        return HostError(f"{self.host.name}: python3 did not start, status {status}{said}", hint)

    def _said(self, buffer: bytearray) -> str:
        with contextlib.suppress(TimeoutError, OSError):
            while len(buffer) < GARBAGE and self.channel.recv_stderr_ready():
                buffer += self.channel.recv_stderr(CHUNK)
        text = sanitize.line(bytes(buffer).replace(b"\0", b"")[-300:])
        return f"; it said: {text}" if text else ""


_PRINTS = "does something else print to the stream, after the login scripts?"


def _command(program: Path, options: dict[str, Any], *, sudo: bool) -> str:
    """Return a command that every login shell takes: one line, nothing in it to be expanded."""
    source = base64.b64encode(program.read_bytes()).decode()
    words = ["sudo", "-n"] if sudo else []
    words += ["python3", "-I", "-c", f"import base64;exec(base64.b64decode('{source}'))"]
    words += ["snptest", base64.b64encode(json.dumps(options).encode()).decode()]
    # In double quotes, for fish and csh do single ones their own way; there is no $, ` or \ in it.
    quoted = (f'"{word}"' if "(" in word else shlex.quote(word) for word in words)
    return f"exec {' '.join(quoted)}"


def look(
    connection: Connection, since: float | None = None, modules: Iterable[str] = ()
) -> dict[str, Any]:
    """Ask a host which kernel runs: boot_id, release, version, the notes of these modules.

    And, in pstore, what others left since then.
    """
    remote = Remote(connection, BOOTSTRAP, {"since": since or None, "modules": list(modules)})
    try:
        return remote.answer()
    finally:
        remote.close()
