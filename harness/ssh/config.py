# SPDX-License-Identifier: GPL-2.0-only
"""The way to a host: what ci/hosts.toml says, and ~/.ssh/config where it says nothing."""

from __future__ import annotations

import getpass
import glob
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from harness.errors import UsageError
from harness.ssh import hosts
from harness.ssh.hosts import Host
from harness.ssh.knownhosts import GLOBAL_FILES, USER_FILES, KnownHosts, name_of

SYSTEM = Path("/etc/ssh/ssh_config")
MAX_INCLUDES = 16
"""Files deep, as in ssh."""
MAX_HOPS = 8


@dataclass(frozen=True, slots=True)
class Way:
    """One hop: whom to connect to, as whom, with which keys."""

    shown: str
    """What messages call the host."""
    address: str
    port: int
    user: str
    keys: tuple[Path, ...]
    only_keys: bool
    """Whether nothing but `keys` may be tried: IdentitiesOnly."""
    known_as: str
    """Its name in known_hosts."""
    known_files: tuple[Path, ...]
    revoked: Path | None
    proxy_command: str | None

    def known_hosts(self) -> KnownHosts:
        """Read the known_hosts files as they are now."""
        return KnownHosts(self.known_as, self.known_files, self.revoked)


def hops(host: Host) -> list[Way]:
    """Return the hops to a host, the host itself last; UsageError where they make no way."""
    return list(_hops(host, _read_config(), ()))


def _hops(host: Host, config: paramiko.SSHConfig, before: tuple[str, ...]) -> Iterator[Way]:
    if host.name in before or len(before) >= MAX_HOPS:
        chain = " through ".join((*before, host.name))
        raise UsageError(f"host {before[0]} cannot be reached: {chain} leads nowhere")
    options = _lookup(config, host)
    proxy_command = None
    jumps = host.jump or options.get("proxyjump", "")
    if jumps and jumps.lower() != "none":
        known = hosts.load()
        for jump in jumps.split(","):
            jump = jump.strip().removeprefix("ssh://")
            through = known.get(jump) or hosts.parse(jump)
            yield from _hops(through, config, (*before, host.name))
    elif options.get("proxycommand", "none").lower() != "none" and not host.jump:
        proxy_command = options["proxycommand"]
    yield _way(host, options, proxy_command)


def _way(host: Host, options: dict[str, str], proxy_command: str | None) -> Way:
    address = options["hostname"]
    port = host.port or _port(host, options.get("port", "22"))
    if host.key is not None:
        if not host.key.is_file():
            raise UsageError(f"host {host.name}: its key {host.key} does not exist")
        keys = [host.key]
    else:
        # ssh passes over those that are not there, and so do its users' configurations.
        named = [Path(os.path.expanduser(each)) for each in _list(options, "identityfile")]
        keys = [path for path in named if path.is_file()]
    known = [*_files(options, "userknownhostsfile", USER_FILES)]
    known += _files(options, "globalknownhostsfile", GLOBAL_FILES)
    revoked = options.get("revokedhostkeys", "none")
    return Way(
        shown=host.name,
        address=address,
        port=port,
        user=host.user or options.get("user") or getpass.getuser(),
        keys=tuple(keys),
        only_keys=options.get("identitiesonly", "no").lower() == "yes",
        known_as=options.get("hostkeyalias") or name_of(address, port),
        known_files=tuple(known),
        revoked=None if revoked.lower() == "none" else Path(os.path.expanduser(revoked)),
        proxy_command=proxy_command,
    )


def _port(host: Host, text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise UsageError(f"host {host.name}: the ssh configuration has a Port that is none")
    return int(text)


def _list(options: dict[str, str], name: str) -> list[str]:
    value: object = options.get(name, [])
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _files(options: dict[str, str], name: str, default: tuple[str, ...]) -> Iterator[Path]:
    names = shlex.split(options[name]) if name in options else default
    return (Path(os.path.expanduser(each)) for each in names if each.lower() != "none")


def _lookup(config: paramiko.SSHConfig, host: Host) -> dict[str, str]:
    try:
        options: dict[str, str] = dict(config.lookup(host.address))
    except (paramiko.SSHException, ImportError, ValueError, KeyError) as error:
        raise UsageError(
            f"the ssh configuration cannot be used for {host.address}: {error}"
        ) from None
    return options


def _read_config() -> paramiko.SSHConfig:
    """Read the user's configuration, then the system's, as ssh does."""
    lines = list(_lines(Path.home() / ".ssh" / "config"))
    lines += ["Host *", *_lines(SYSTEM)]
    try:
        return paramiko.SSHConfig.from_text("\n".join(lines) + "\n")
    except (paramiko.SSHException, ValueError) as error:
        raise UsageError(f"the ssh configuration is not understood: {error}") from None


def _lines(path: Path, depth: int = 0) -> Iterator[str]:
    """Read a file with those it includes, which paramiko passes over."""
    if depth > MAX_INCLUDES:
        raise UsageError(f"{path}: more than {MAX_INCLUDES} files include each other")
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    block = "Host *"
    for line in text.splitlines():
        words = line.strip().replace("=", " ", 1).split(None, 1)
        keyword = words[0].lower() if words else ""
        if keyword in ("host", "match"):
            block = line
        if keyword != "include" or len(words) < 2:
            yield line
            continue
        for pattern in shlex.split(words[1]):
            base = path.parent if path == SYSTEM else Path.home() / ".ssh"
            for name in sorted(glob.glob(str(base / Path(pattern).expanduser()))):
                yield from _lines(Path(name), depth + 1)
                yield block  # an included file's blocks end with it
