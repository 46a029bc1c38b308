# SPDX-License-Identifier: GPL-2.0-only
"""The way to a host: what ci/hosts.toml says, and what ssh would do where it says nothing."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.ssh import hosts, openssh
from harness.ssh.hosts import Host
from harness.ssh.knownhosts import KnownHosts, name_of
from harness.ssh.openssh import Settings

MAX_HOPS = 8
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A command whose streams are the connection."""

    command: str
    """For the user's shell, its tokens replaced."""
    passes_socket: bool
    """Whether it hands a connected socket over instead: ProxyUseFdpass."""


@dataclass(frozen=True, slots=True)
class Way:
    """One hop: whom to connect to, as whom, with which keys."""

    shown: str
    """What messages call the host."""
    address: str
    port: int
    user: str
    keys: tuple[Path, ...]
    """Files of private keys, or of public ones whose private part an agent has."""
    certificates: tuple[Path, ...]
    """Files named by CertificateFile; without, KEY-cert.pub goes with each key."""
    only_keys: bool
    """Whether nothing but `keys` may be tried: IdentitiesOnly."""
    agent: str | None
    """The agent's socket."""
    public_key: bool
    """PubkeyAuthentication."""
    key_algorithms: tuple[str, ...]
    """PubkeyAcceptedAlgorithms: what a key may be used with."""
    known_as: str
    """Its name in known_hosts."""
    known_files: tuple[Path, ...]
    revoked: tuple[Path, ...]
    unused: tuple[str, ...]
    """Options that are set and not made use of here, for messages."""
    host_key_algorithms: tuple[str, ...]
    """Those that ssh would take, best first."""
    proxy: Proxy | None
    family: int
    """Address family; 0: any."""
    source: str | None
    """Local address to connect from."""

    def known_hosts(self) -> KnownHosts:
        """Read the known_hosts files as they are now."""
        # ssh falls back to the name without the port, unless an alias is set.
        plain = self.address if self.known_as == name_of(self.address, self.port) else None
        return KnownHosts(self.known_as, self.known_files, self.revoked, plain, self.unused)


def hops(host: Host) -> list[Way]:
    """Return the hops to a host, the host itself last; UsageError where they make no way."""
    return list(_hops(host, ()))


def _hops(host: Host, before: tuple[Host, ...], *, proxied: bool = False) -> Iterator[Way]:
    """Yield the hops to a host; with `proxied` the one before it is known, and only that."""
    if host in before or len(before) >= MAX_HOPS:
        chain = " through ".join(each.name for each in (*before, host))
        raise UsageError(f"host {before[0].name} cannot be reached: {chain} leads nowhere")
    settings = openssh.ask(host)
    jump = None if proxied else host.jump or settings.get("proxyjump")
    proxy = None
    if jump and jump.lower() != "none":
        # Names of hosts.toml are for hosts.toml; what ssh is configured with means ssh's.
        known = hosts.load() if host.jump else {}
        through = [known.get(name.strip()) or hosts.parse(name.strip()) for name in jump.split(",")]
        for number, each in enumerate(through):
            # As `ssh -J a,b`: b is reached through a, whatever its own ProxyJump is.
            yield from _hops(each, (*before, host), proxied=number > 0)
    elif not proxied and not host.jump:
        proxy = _proxy(settings)
    yield _way(host, settings, proxy)


def _proxy(settings: Settings) -> Proxy | None:
    command = settings.get("proxycommand")
    if command is None:
        return None
    text = settings.expanded(command, "ProxyCommand", variables=False)
    return Proxy(text, settings.flag("proxyusefdpass"))


def _way(host: Host, settings: Settings, proxy: Proxy | None) -> Way:
    address = settings.get("hostname") or host.address
    port = int(settings.get("port") or 22)
    if host.key is not None and not host.key.is_file():
        raise UsageError(f"host {host.name}: its key {host.key} does not exist")
    if settings.get("bindinterface") and proxy is None:
        raise UsageError(
            f"host {host.name}: BindInterface of the ssh configuration is not supported here",
            "BindAddress is",
        )
    keys, certificates = (
        tuple(settings.path(text, name) for text in settings.each(name.lower()))
        for name in ("IdentityFile", "CertificateFile")
    )
    return Way(
        shown=host.name,
        address=address,
        port=port,
        user=settings.get("user") or "",
        keys=(host.key,) if host.key is not None else keys,
        certificates=() if host.key is not None else certificates,
        only_keys=host.key is not None or settings.flag("identitiesonly"),
        agent=_agent(settings),
        public_key=settings.flag("pubkeyauthentication", True),
        key_algorithms=tuple((settings.get("pubkeyacceptedalgorithms") or "").split(",")),
        known_as=settings.get("hostkeyalias") or name_of(address, port),
        known_files=settings.paths("userknownhostsfile") + settings.paths("globalknownhostsfile"),
        revoked=settings.paths("revokedhostkeys"),
        unused=tuple(
            name for name in ("KnownHostsCommand", "PKCS11Provider") if settings.get(name.lower())
        ),
        host_key_algorithms=tuple((settings.get("hostkeyalgorithms") or "").split(",")),
        proxy=proxy,
        family=_FAMILIES.get(settings.get("addressfamily") or "any", 0),
        source=settings.get("bindaddress"),
    )


def _agent(settings: Settings) -> str | None:
    """Return the agent's socket by IdentityAgent, or else by SSH_AUTH_SOCK."""
    named = settings.values.get("identityagent", ("SSH_AUTH_SOCK",))[0]
    if named.lower() == "none":
        return None
    if named == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK")
    if variable := re.fullmatch(r"\$(\w+)", named):
        return os.environ.get(variable[1])
    return named
