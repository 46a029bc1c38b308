# SPDX-License-Identifier: GPL-2.0-only
"""Host keys against known_hosts, in the form and by the rules of sshd(8).

paramiko's own reader knows neither patterns nor markers: it would pass over `@revoked`.
Nothing is ever accepted that a file does not name, and nothing is written.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from harness.command import captured
from harness.errors import HostError
from harness.report import sanitize

KEYGEN_TIMEOUT = 30.0
_KRL = b"SSHKRL\n\0"
"""How a binary list of revoked keys begins (PROTOCOL.krl of OpenSSH)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line that concerns the host in question."""

    marker: str
    """"", @revoked or @cert-authority."""
    type: str
    key: bytes
    where: str
    """File and line."""


def fingerprint(key: bytes) -> str:
    """Return what ssh-keygen -l prints: the key's SHA-256 in base64."""
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def name_of(address: str, port: int) -> str:
    """Return what a host is called in known_hosts."""
    return address if port == 22 else f"[{address}]:{port}"


class KnownHosts:
    """The known_hosts files that hold for one host."""

    def __init__(
        self,
        name: str,
        files: Iterable[Path],
        revoked: Iterable[Path] = (),
        plain: str | None = None,
        unused: Iterable[str] = (),
    ) -> None:
        """Read the files.

        plain: the name without its port, which is looked up where the other is in no file.
        unused: sources of keys that ssh has, and that are not used here.
        """
        self.name = name
        self._files = [path for path in files if path.is_file()]
        self._revoked = tuple(revoked)
        self._unused = tuple(unused)
        self._entries = self._read(name)
        self._plain = self._read(plain) if plain not in (None, name) else []

    def _read(self, name: str | None) -> list[Entry]:
        return [entry for path in self._files for entry in _entries(path, name or "")]

    def types(self) -> list[str]:
        """Return the types of the keys that are known: those to ask the host for."""
        entries = self._entries or self._plain
        return [entry.type for entry in entries if not entry.marker]

    def check(self, key: paramiko.PKey) -> None:
        """Raise HostError unless the key is the host's by a file, and not revoked by any."""
        offered = key.asbytes()
        shown = f"{key.get_name()} {fingerprint(offered)}"
        for entry in (*self._entries, *self._plain):
            if entry.marker == "@revoked" and entry.key == offered:
                raise HostError(
                    f"{self.name}: its host key {shown} is revoked",
                    f"by {entry.where}; whoever answers there is not to be trusted",
                )
        for path in self._revoked:
            if _revokes(path, key):
                raise HostError(f"{self.name}: its host key {shown} is revoked", f"by {path}")
        known = [entry for entry in self._entries if not entry.marker]
        if any(entry.key == offered for entry in known):
            return
        if not known and any(e.key == offered and not e.marker for e in self._plain):
            return
        same = [entry for entry in known if entry.type == key.get_name()]
        if same or known:
            entry = (same or known)[0]
            raise HostError(
                f"{self.name}: its host key has changed: it shows {shown}, known is "
                f"{entry.type} {fingerprint(entry.key)} ({entry.where})",
                "reinstalled? make sure, then ssh-keygen -R, and log in by ssh once; "
                "else somebody listens in",
            )
        if any(entry.marker == "@cert-authority" for entry in self._entries):
            raise HostError(
                f"{self.name}: known_hosts knows it by a certificate authority only",
                "host certificates are not understood here: add the key itself to known_hosts "
                "(ssh-keyscan shows it; compare its fingerprint)",
            )
        if "KnownHostsCommand" in self._unused:
            raise HostError(
                f"{self.name}: its host key {shown} is in no known_hosts file",
                "KnownHostsCommand is not used here: add the key itself to known_hosts",
            )
        looked = ", ".join(str(path) for path in self._files) or "no known_hosts file is there"
        raise HostError(
            f"{self.name}: its host key {shown} is not known ({looked})",
            "log in by ssh once and compare the fingerprint; keys are never accepted unseen",
        )


def _entries(path: Path, name: str) -> Iterator[Entry]:
    """Read the lines of a file that concern a host; lines that are none are passed over."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#") or not _matches(words[0], name):
            continue
        try:
            key = base64.b64decode(words[2], validate=True)
        except (binascii.Error, ValueError):
            continue
        yield Entry(marker, words[1], key, f"{path}:{number}")


def _matches(patterns: str, name: str) -> bool:
    """Whether a line's first field names the host: hashed, or patterns of which none denies it."""
    if patterns.startswith("|1|"):
        try:
            return paramiko.HostKeys.hash_host(name, patterns) == patterns
        except (AssertionError, ValueError, IndexError):
            return False
    found = False
    for pattern in patterns.lower().split(","):
        denied = pattern.startswith("!")
        # Brackets are part of a name with a port, not a set of characters.
        literal = pattern.removeprefix("!").replace("[", "[[]")
        if fnmatch.fnmatchcase(name.lower(), literal):
            if denied:
                return False
            found = True
    return found


def _revokes(path: Path, key: paramiko.PKey) -> bool:
    """Whether ssh_config's RevokedHostKeys has a key: without the list no host is trusted."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HostError(f"RevokedHostKeys {path} cannot be read: {error.strerror}") from None
    if data.startswith(_KRL):
        return _listed(path, key)
    words = (line.split() for line in data.decode(errors="replace").splitlines())
    return any(key.get_base64() in each[1:2] for each in words)


def _listed(path: Path, key: paramiko.PKey) -> bool:
    """Have ssh-keygen look a key up in a binary list, which holds serial numbers and hashes."""
    with tempfile.NamedTemporaryFile("w", suffix=".pub") as file:
        print(key.get_name(), key.get_base64(), file=file, flush=True)
        words = ["ssh-keygen", "-Q", "-f", str(path), file.name]
        done = captured(words, KEYGEN_TIMEOUT, f"ssh-keygen did not read {path}")
    if done.stdout.rstrip().endswith(("ok", "REVOKED")):
        return done.returncode != 0
    raise HostError(
        f"RevokedHostKeys {path} is not understood: {sanitize.line(done.stderr, 200)}",
        "made by ssh-keygen -k?",
    )
