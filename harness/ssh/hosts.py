# SPDX-License-Identifier: GPL-2.0-only
"""The hosts that can be tested, as data: ci/hosts.toml, which explains every key."""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.places import ROOT
from harness.report import sanitize
from harness.tables import Values, read

FILE = ROOT / "ci" / "hosts.toml"
VARIABLE = "SNPTEST_HOSTS"
"""Environment variable that names another file."""

_HINT = "ci/hosts.toml explains its form"

BOOT_TIMEOUT = 600.0
"""Seconds in which a host is back after a reset, unless it says otherwise: servers are slow."""
MAX_BOOT_TIMEOUT = 1800.0
SILENCE = 20.0
"""Seconds without a heartbeat after which a connection counts as lost, unless a host says."""
LOCK = "/run/lock/snptest.lock"

FOLDER = "/var/lib/snptest"
REBOOT = "systemctl reboot || reboot"

HOW = ("none", "kexec", "one-shot")
"""Ways of booting a kernel on a host."""


@dataclass(frozen=True, slots=True)
class BootWay:
    """How a kernel that was built elsewhere is booted on a host."""

    how: str = "none"
    """One of HOW."""
    command: str = ""
    """one-shot: what makes the next boot, and only that one, take the kernel."""
    prepare: str = ""
    """Command that runs on the host before: it may make an initrd."""
    parameters: str = ""
    """For the kernel's command line."""
    reboot: str = REBOOT
    """one-shot: how the host is rebooted then."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host: how it is reached, and what can be done to it."""

    name: str
    address: str
    """Host name, IP address, or an alias of ~/.ssh/config."""
    user: str | None = None
    port: int | None = None
    key: Path | None = None
    """Private key, the only one that is tried; without one those that ssh would offer are."""
    jump: str | None = None
    """Hosts to go through, with commas: those of the file, or [USER@]ADDRESS[:PORT]."""
    sudo: bool = False
    """Whether the agent is started by `sudo -n`."""
    boot: BootWay = BootWay()
    power_cycle: str | None = None
    """Command, run here, that switches the host off and on."""
    console: str | None = None
    """Command, run here, that prints the host's console for as long as it runs."""
    has: frozenset[str] = frozenset()
    """Words for what it has; known issues and schedules go by them."""
    boot_timeout: float = BOOT_TIMEOUT
    silence: float = SILENCE
    lock: str = LOCK
    """File on the host whose lock keeps two runs apart."""
    folder: str = FOLDER
    """Folder on the host for kernels that were built elsewhere."""


def load(path: Path | None = None) -> dict[str, Host]:
    """Read the hosts by name; UsageError, naming file and key, where the file is wrong."""
    path = path or Path(os.environ.get(VARIABLE) or FILE)
    if not path.exists() and VARIABLE not in os.environ:
        return {}
    data = read(path, _HINT if path.exists() else f"{VARIABLE} names it")
    tables = Values(path, "", data, ("hosts",), "a host is a table [hosts.NAME]").named("hosts")
    return {name: _host(path, name, table) for name, table in tables.items()}


def get(name: str | None) -> Host:
    """Find a host; one that is in no file may be written as USER@ADDRESS, ADDRESS:PORT or both.

    UsageError where none is meant.
    """
    known = load()
    if name in known:
        return known[name]
    names = ", ".join(known) or "no host yet"
    where = f"{os.environ.get(VARIABLE) or 'ci/hosts.toml'} has {names}"
    if not name:
        raise UsageError("--backend ssh needs --host NAME", where)
    if not any(sign in name for sign in "@:.") and name != "localhost":
        raise UsageError(f"no host is called {sanitize.line(name)!r}", f"{where}; or USER@ADDRESS")
    return parse(name)


def parse(text: str) -> Host:
    """Read [USER@]ADDRESS[:PORT]; an IPv6 address with a port stands in brackets.

    ssh://[USER@]ADDRESS[:PORT] is read, too.
    """
    bare = text
    if text.startswith("ssh://"):
        bare = text.removeprefix("ssh://").removesuffix("/")
    user, _, rest = bare.rpartition("@")
    if bare is not text:
        user = urllib.parse.unquote(user)
    address, port = rest, ""
    if rest.startswith("["):
        address, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") == 1:
        address, _, port = rest.partition(":")
    shown = sanitize.line(text)
    if not address or address.startswith("-") or any(c.isspace() for c in text):
        raise UsageError(f"{shown!r} is no host", "[USER@]ADDRESS[:PORT]")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"{shown!r}: {port!r} is no port", "1 to 65535")
    return Host(shown, address, user=user or None, port=int(port) if port else None)


_KEYS = (
    "address",
    "user",
    "port",
    "key",
    "jump",
    "sudo",
    "boot",
    "power-cycle",
    "console",
    "has",
    "boot-timeout",
    "silence",
    "lock",
    "folder",
)
_SECRET = frozenset({"power-cycle", "console"})
"""Commands that may hold passwords."""
_BOOT_KEYS = ("how", "command", "prepare", "parameters", "reboot")


def _host(path: Path, name: str, table: Any) -> Host:
    """Make a host of its table."""
    values = Values(path, f"hosts.{name}", table, _KEYS, _HINT, _SECRET)
    key = values.text("key")
    return Host(
        name=name,
        address=values.text("address") or name,
        user=values.text("user"),
        port=values.whole("port", 1, 65535),
        key=Path(key).expanduser() if key else None,
        jump=values.text("jump"),
        sudo=values.flag("sudo"),
        boot=_boot(path, name, table.get("boot", {})),
        power_cycle=values.text("power-cycle"),
        console=values.text("console"),
        has=frozenset(values.words("has")),
        boot_timeout=values.seconds("boot-timeout", BOOT_TIMEOUT, MAX_BOOT_TIMEOUT),
        silence=values.seconds("silence", SILENCE, 300.0),
        lock=values.text("lock") or LOCK,
        folder=values.text("folder") or FOLDER,
    )


def _boot(path: Path, name: str, table: Any) -> BootWay:
    values = Values(path, f"hosts.{name}.boot", table, _BOOT_KEYS, _HINT)
    how, command = values.choice("how", HOW, "none"), values.text("command") or ""
    if how == "one-shot" and not command:
        raise values.wrong("command", "what makes the next boot take the kernel (how = 'one-shot')")
    if how != "one-shot" and command:
        found = f"is given, and how is {how!r}"
        raise values.wrong("command", "it only with how = 'one-shot'", found)
    return BootWay(
        how,
        command,
        prepare=values.text("prepare") or "",
        parameters=values.text("parameters") or "",
        reboot=values.text("reboot") or REBOOT,
    )
