# SPDX-License-Identifier: GPL-2.0-only
"""Host keys against known_hosts, in the form and by the rules of sshd(8).

paramiko's own reader knows neither patterns nor markers: it would pass over `@revoked`.
Nothing is ever accepted that a file does not name, and nothing is written.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from harness.errors import HostError

USER_FILES = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
GLOBAL_FILES = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
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
    import hashlib

    digest = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def name_of(address: str, port: int) -> str:
    """Return what a host is called in known_hosts."""
    return address if port == 22 else f"[{address}]:{port}"


class KnownHosts:
    """The known_hosts files that hold for one host."""

    def __init__(self, name: str, files: Iterable[Path], revoked: Path | None = None) -> None:
        self.name = name
        self._files = [path for path in files if path.is_file()]
        self._revoked = revoked
        self._entries = [entry for path in self._files for entry in _entries(path, name)]

    def types(self) -> list[str]:
        """Return the types of the keys that are known: those to ask the host for."""
        return [entry.type for entry in self._entries if not entry.marker]

    def check(self, key: paramiko.PKey) -> None:
        """Raise HostError unless the key is the host's by a file, and not revoked by any."""
        offered = key.asbytes()
        shown = f"{key.get_name()} {fingerprint(offered)}"
        for entry in self._entries:
            if entry.marker == "@revoked" and entry.key == offered:
                raise HostError(
                    f"{self.name}: its host key {shown} is revoked",
                    f"by {entry.where}; whoever answers there is not to be trusted",
                )
        if self._revoked is not None and offered in _revoked_keys(self._revoked):
            raise HostError(f"{self.name}: its host key {shown} is revoked", f"by {self._revoked}")
        known = [entry for entry in self._entries if not entry.marker]
        if any(entry.key == offered for entry in known):
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
                "host certificates are not understood here: add the key itself (ssh-keyscan)",
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


def _revoked_keys(path: Path) -> set[bytes]:
    """Read ssh_config's RevokedHostKeys: without the list no host is trusted, as in ssh."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HostError(f"RevokedHostKeys {path} cannot be read: {error.strerror}") from None
    if data.startswith(_KRL):
        raise HostError(
            f"RevokedHostKeys {path} is a binary list, which is not understood here",
            "a text file with one public key a line is",
        )
    keys = set()
    for line in data.decode(errors="replace").splitlines():
        for word in line.split()[1:2]:
            try:
                keys.add(base64.b64decode(word, validate=True))
            except (binascii.Error, ValueError):
                continue
    return keys
