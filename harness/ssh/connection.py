# SPDX-License-Identifier: GPL-2.0-only
"""Connections to hosts: hop by hop, each hop's key checked before anything is told to it."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

import paramiko

from harness.errors import HostError
from harness.report import sanitize
from harness.ssh.config import Way, hops
from harness.ssh.hosts import Host
from harness.ssh.login import log_in
from harness.ssh.problems import NotLetIn, Unreachable
from harness.ssh.proxy import ProxyError, ProxyProcess

CONNECT_TIMEOUT = 15.0
"""Seconds for each step: the connection, the banner, the keys."""
RETRY = 1.0
"""Seconds between attempts to reach a host that is on its way back."""


class Connection:
    """A connection to one host, with those to the hosts on the way."""

    def __init__(self, host: Host) -> None:
        """Connect once; Unreachable, NotLetIn, or HostError where the host's key is not right."""
        self.host = host
        self.keys: list[str] = []
        """What the user was let in with, hop by hop."""
        self._transports: list[paramiko.Transport] = []
        self._proxy: ProxyProcess | None = None
        try:
            for way in hops(host):
                self._log_in(way)
        except BaseException:
            self.close()
            raise

    @property
    def transport(self) -> paramiko.Transport:
        """The connection to the host itself."""
        if not self._transports:
            raise Unreachable(f"{self.host.name}: the connection is closed")
        return self._transports[-1]

    @property
    def active(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        return bool(self._transports) and self._transports[-1].is_active()

    def session(self) -> paramiko.Channel:
        """Open a channel for one command; Unreachable where the host does not."""
        try:
            return self.transport.open_session(timeout=CONNECT_TIMEOUT)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise Unreachable(f"{self.host.name}: it opens no session: {_words(error)}") from None

    def close(self) -> None:
        """Close it, the last hop first."""
        for transport in reversed(self._transports):
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                transport.close()
        self._transports.clear()
        self._end_proxy()

    def _log_in(self, way: Way) -> None:
        """Go one hop further."""
        where = f"{way.shown} ({way.address} port {way.port})"
        sock = self._reach(way)
        try:
            transport, key = log_in(way, sock, CONNECT_TIMEOUT)
        except BaseException as error:
            with contextlib.suppress(OSError, EOFError):
                sock.close()
            if isinstance(error, (paramiko.SSHException, EOFError, OSError)):
                raise self._no_connection(where, error) from None
            raise
        self._transports.append(transport)
        self.keys.append(key)

    def _no_connection(self, where: str, error: Exception) -> HostError:
        if self._proxy is None or self._transports:
            return Unreachable(f"{where}: no ssh connection: {_words(error)}")
        found = not self._proxy.not_found
        said = self._end_proxy() or _words(error)
        kind = Unreachable if found else HostError
        return kind(f"{where}: its ProxyCommand gives no ssh connection: {said}")

    def _end_proxy(self) -> str:
        proxy, self._proxy = self._proxy, None
        return proxy.close() if proxy is not None else ""

    def _reach(self, way: Way) -> Any:
        """Return something like a socket to a hop: through the one before, where there is one."""
        if self._transports:
            there = (way.address, way.port)
            try:
                return self._transports[-1].open_channel(
                    "direct-tcpip", there, ("", 0), timeout=30.0
                )
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise Unreachable(
                    f"{way.shown}: the host before it does not reach it: {_words(error)}",
                    refused="refused" in str(error).lower(),
                ) from None
        if way.proxy is None:
            return _socket(way)
        try:
            self._proxy = ProxyProcess(way.proxy)
        except ProxyError as error:
            raise Unreachable(f"{way.shown}: its ProxyCommand fails: {error}") from None
        return self._proxy.sock


def _socket(way: Way) -> socket.socket:
    where = f"{way.shown} ({way.address} port {way.port})"
    try:
        sock = _connected(way)
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


def _connected(way: Way) -> socket.socket:
    """Connect to the first address that answers, of the family and from the address wanted."""
    problem: OSError | None = None
    found = socket.getaddrinfo(way.address, way.port, way.family, socket.SOCK_STREAM)
    for family, kind, protocol, _, place in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(CONNECT_TIMEOUT)
            if way.source:
                sock.bind((way.source, 0))
            sock.connect(place)
            return sock
        except OSError as error:
            sock.close()
            problem = problem or error
    raise problem or OSError("it has no address")


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
