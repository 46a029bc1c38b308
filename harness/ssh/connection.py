# SPDX-License-Identifier: GPL-2.0-only
"""Connections to hosts: hop by hop, each hop's key checked before anything is told to it."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import paramiko

from harness.errors import HostError
from harness.report import sanitize
from harness.ssh.config import Way, hops
from harness.ssh.hosts import Host
from harness.ssh.knownhosts import KnownHosts

CONNECT_TIMEOUT = 15.0
"""Seconds for each step: the connection, the banner, the keys."""
AUTH_TIMEOUT = 30.0
RETRY = 1.0
"""Seconds between attempts to reach a host that is on its way back."""

# paramiko tells the log what it raises, too; unheard, Python would print that.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class Unreachable(HostError):
    """There is no connection to the host now; there may be one later."""

    def __init__(self, message: str, hint: str = "", *, refused: bool = False) -> None:
        super().__init__(message, hint)
        self.refused = refused
        """Whether the host's kernel answers, and says that nobody listens."""


class NotLetIn(HostError):
    """The host knows neither the user nor any of the keys; while it boots, it may not yet."""


class Connection:
    """A connection to one host, with those to the hosts on the way."""

    def __init__(self, host: Host) -> None:
        """Connect once; Unreachable, NotLetIn, or HostError where the host's key is not right."""
        self.host = host
        self._clients: list[paramiko.SSHClient] = []
        try:
            sock: Any = None
            for way in hops(host):
                sock = self._reach(way, sock)
                self._clients.append(_client(way, sock))
        except BaseException:
            self.close()
            raise

    @property
    def transport(self) -> paramiko.Transport:
        """The connection to the host itself."""
        transport = self._clients[-1].get_transport() if self._clients else None
        if transport is None:
            raise Unreachable(f"{self.host.name}: the connection is closed")
        return transport

    @property
    def active(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        transport = self._clients[-1].get_transport() if self._clients else None
        return transport is not None and transport.is_active()

    def session(self) -> paramiko.Channel:
        """Open a channel for one command; Unreachable where the host does not."""
        try:
            return self.transport.open_session(timeout=CONNECT_TIMEOUT)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise Unreachable(f"{self.host.name}: it opens no session: {_words(error)}") from None

    def close(self) -> None:
        """Close it, the last hop first."""
        for client in reversed(self._clients):
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                client.close()
        self._clients.clear()

    def _reach(self, way: Way, through: Any) -> Any:
        """Return something like a socket to a hop: through the one before, where there is one."""
        if self._clients:
            transport = self._clients[-1].get_transport()
            assert transport is not None
            try:
                there = (way.address, way.port)
                return transport.open_channel("direct-tcpip", there, ("", 0), timeout=30.0)
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise Unreachable(
                    f"{way.shown}: {through and 'the host before it'} does not reach it: "
                    f"{_words(error)}",
                    refused="refused" in str(error).lower(),
                ) from None
        if way.proxy_command:
            try:
                return paramiko.ProxyCommand(way.proxy_command)
            except (OSError, ValueError) as error:
                raise HostError(f"{way.shown}: its ProxyCommand fails: {_words(error)}") from None
        return _socket(way)


def _socket(way: Way) -> socket.socket:
    where = f"{way.shown} ({way.address} port {way.port})"
    try:
        sock = socket.create_connection((way.address, way.port), CONNECT_TIMEOUT)
    except socket.gaierror as error:
        raise Unreachable(
            f"{way.shown}: {way.address} is no known name: {error.strerror}",
            "see address in ci/hosts.toml, or HostName in ~/.ssh/config",
        ) from None
    except ConnectionRefusedError:
        raise Unreachable(
            f"{where}: connection refused",
            "is sshd running there, and the port right?",
            refused=True,
        ) from None
    except OSError as error:
        raise Unreachable(f"{where}: no connection: {_words(error)}", "is it up?") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


class _Policy(paramiko.MissingHostKeyPolicy):
    """Has known_hosts decide about every key: paramiko itself is told of none."""

    def __init__(self, known: KnownHosts) -> None:
        self._known = known

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        """Raise HostError unless the key is right."""
        self._known.check(key)


def _transports(known: KnownHosts) -> Callable[..., paramiko.Transport]:
    """Make transports that ask for a key of a type that is known, if there is one."""
    wanted: list[str] = []
    for kind in known.types():
        # The key's type; the signature of it is by SHA-2 only.
        wanted += ["rsa-sha2-512", "rsa-sha2-256"] if kind == "ssh-rsa" else [kind]

    def make(sock: Any, **options: Any) -> paramiko.Transport:
        transport = paramiko.Transport(sock, **options)
        security = transport.get_security_options()
        offered = [kind for kind in security.key_types if kind != "ssh-rsa"]
        first = [kind for kind in dict.fromkeys(wanted) if kind in offered]
        security.key_types = tuple(first + [kind for kind in offered if kind not in first])
        return transport

    return make


def _client(way: Way, sock: Any) -> paramiko.SSHClient:
    """Speak ssh over a socket: check the key, then log in."""
    known = way.known_hosts()
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_Policy(known))
    try:
        client.connect(
            way.address,
            port=way.port,
            username=way.user,
            key_filename=[str(path) for path in way.keys],  # type: ignore[arg-type]  # stubs
            allow_agent=not way.only_keys,
            look_for_keys=not way.keys and not way.only_keys,
            timeout=CONNECT_TIMEOUT,
            banner_timeout=CONNECT_TIMEOUT,
            auth_timeout=AUTH_TIMEOUT,
            sock=sock,
            transport_factory=_transports(known),
        )
    except BaseException as error:
        client.close()
        with contextlib.suppress(OSError, EOFError):
            sock.close()
        if isinstance(error, paramiko.PasswordRequiredException):
            raise NotLetIn(
                f"{way.shown}: user {way.user} is not let in: a key needs its passphrase",
                "ssh-add it to an agent",
            ) from None
        if isinstance(error, paramiko.AuthenticationException) or "No authentication" in str(error):
            tried = ", ".join(map(str, way.keys)) or "the agent's keys and those of ~/.ssh"
            raise NotLetIn(
                f"{way.shown}: user {way.user} is not let in (tried {tried})",
                f"does `ssh {way.user}@{way.address}` work without a password?",
            ) from None
        if isinstance(error, (paramiko.SSHException, EOFError, OSError)):
            raise Unreachable(
                f"{way.shown} ({way.address} port {way.port}): no ssh connection: {_words(error)}"
            ) from None
        raise
    return client


def connect_again(host: Host, deadline: float) -> Connection:
    """Connect to a host that was lost or is booting, by a time.monotonic() deadline.

    Raises the last Unreachable or NotLetIn, and at once what no waiting changes: a wrong key.
    """
    while True:
        try:
            return Connection(host)
        except (Unreachable, NotLetIn):
            if time.monotonic() + RETRY > deadline:
                raise
        time.sleep(RETRY)


def _words(error: BaseException) -> str:
    """Say what an exception says, as one safe line: part of it may come from the host."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return sanitize.line(str(text), 200)
