# SPDX-License-Identifier: GPL-2.0-only
"""The agent on a host, and the streams to and from it: see harness/ssh/bootstrap.py."""

from __future__ import annotations

import contextlib
import enum
import getpass
import hashlib
import os
import re
import socket
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import paramiko

from harness import agent
from harness.report import sanitize
from harness.ssh import remote
from harness.ssh.connection import Connection
from harness.ssh.problems import Unreachable

PATIENCE = 15.0
"""Seconds that the host's lock may take to become free: an agent that ends gives it back."""
END_TIMEOUT = 10.0


class LossKind(enum.Enum):
    """How a link was lost."""

    AGENT = "agent"
    """The agent has ended; the host said so."""
    CLOSED = "closed"
    """The connection was closed or reset."""
    SILENT = "silent"
    """No sign of life came any more."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What became of a link, in one line."""

    kind: LossKind
    text: str
    status: int | None = None
    """The agent's exit status, negative for a signal."""


class AgentLink:
    """An agent on a host, as a file descriptor for RemoteKernel: both ends of a socket pair.

    Three threads carry the bytes and the signs of life.  When the link is lost, the descriptor
    comes to its end, and `loss` says how.
    """

    def __init__(self, connection: Connection, token: str, who: dict[str, str]) -> None:
        """Take the host's lock and start the agent; HostError says who else has the lock."""
        source = Path(agent.__file__).read_bytes()
        options = {
            "length": len(source),
            "digest": hashlib.sha256(source).hexdigest(),
            "lock": connection.host.lock,
            "patience": PATIENCE,
            "token": token,
        } | who
        self.loss: Loss | None = None
        self._connection = connection
        self._host = connection.host
        self._remote = remote.Remote(connection, remote.BOOTSTRAP, options)
        self._channel = self._remote.channel
        try:
            self._channel.settimeout(remote.GREETING_TIMEOUT)
            self._channel.sendall(source)
            self._channel.settimeout(1.0)
            self.facts = self._remote.answer()
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._remote.close()
            raise Unreachable(
                f"{self._host.name}: the connection broke: {sanitize.line(str(error))}"
            ) from None
        except BaseException:
            self._remote.close()
            raise
        self._outer, self._inner = socket.socketpair()
        self._heard = time.monotonic()
        self._beat = threading.Condition()
        self._beats = 0
        self._words = bytearray()
        self._channel.settimeout(min(self._host.silence / 4, 1.0))
        self._threads = [
            threading.Thread(target=target, name=f"ssh-{self._host.name}", daemon=True)
            for target in (self._carry_out, self._listen, self._carry_in)
        ]
        for thread in self._threads:
            thread.start()

    def take_fd(self) -> int:
        """Hand the descriptor on, for RemoteKernel, which closes it."""
        return self._outer.detach()

    def alive(self, timeout: float) -> bool:
        """Wait for another sign of life; False where the link is lost, or none comes."""
        with self._beat:
            before = self._beats
            self._beat.wait_for(lambda: self.loss is not None or self._beats > before, timeout)
            return self.loss is None and self._beats > before

    def close(self) -> None:
        """Wait a while for the agent to end, as it does when its stream does; let go."""
        self._outer.close()  # where nobody took it
        for thread in self._threads[:2]:
            thread.join(END_TIMEOUT / 2)
        self._remote.close()
        with contextlib.suppress(OSError):
            self._inner.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(END_TIMEOUT)
        self._inner.close()

    # Each on a thread of its own.

    def _carry_out(self) -> None:
        """From the socket to the agent, until one of them ends."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while data := self._inner.recv(remote.CHUNK):
                view = memoryview(data)
                while view and self.loss is None:
                    with contextlib.suppress(TimeoutError):
                        view = view[self._channel.send(view.tobytes()) :]
            self._channel.shutdown_write()

    def _carry_in(self) -> None:
        """From the agent to the socket; its end is told when it is known what it means."""
        data = self._remote.take_rest()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while True:
                if data:
                    self._inner.sendall(data)
                try:
                    data = self._channel.recv(remote.CHUNK)
                except TimeoutError:
                    if self.loss is not None:
                        break
                    data = b""
                    continue
                if not data:
                    break
                self._heard = time.monotonic()
        self._threads[1].join(END_TIMEOUT)
        with contextlib.suppress(OSError):
            self._inner.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        """Take signs of life, until they end or stay away."""
        ended = re.compile(rb"%s ended (-?\d{1,5})\n" % self._remote.mark.encode())
        while True:
            try:
                data = self._channel.recv_stderr(remote.CHUNK)
            except TimeoutError:
                quiet = time.monotonic() - self._heard
                if quiet > self._host.silence:
                    text = f"no sign of life from {self._host.name} for {quiet:.0f} s"
                    self._lost(Loss(LossKind.SILENT, text))
                    return
                continue
            except (OSError, EOFError, paramiko.SSHException):
                data = b""
            if not data:
                break
            self._heard = time.monotonic()
            self._words = (self._words + data)[-4096:]
            with self._beat:
                self._beats += 1
                self._beat.notify_all()
        found = ended.search(self._words)
        if found:
            status = int(found[1])
            how = f"was killed by signal {-status}" if status < 0 else f"exited with {status}"
            said = sanitize.line(bytes(self._words[: found.start()]).replace(b"\0", b"")[-300:])
            text = f"the agent on {self._host.name} {how}" + (f"; it said: {said}" if said else "")
            self._lost(Loss(LossKind.AGENT, text, status))
        elif self._connection.active and self._channel.status_event.wait(1):
            status = self._channel.recv_exit_status()
            text = f"the agent on {self._host.name} and its keeper have ended (status {status})"
            self._lost(Loss(LossKind.AGENT, text))
        else:
            text = f"the connection to {self._host.name} was closed"
            self._lost(Loss(LossKind.CLOSED, text))

    def _lost(self, loss: Loss) -> None:
        with self._beat:
            self.loss = loss
            self._beat.notify_all()
        if loss.kind is not LossKind.AGENT:
            # A connection that has frozen lets nothing through that would end it in order, and
            # whoever sends into it waits for ever.
            threading.Thread(target=self._connection.close, daemon=True).start()


def who() -> dict[str, str]:
    """Name this run to others who want the host, wherever they are."""
    return {
        "who": f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}",
        "began": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
