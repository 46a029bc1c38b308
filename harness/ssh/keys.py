# SPDX-License-Identifier: GPL-2.0-only
"""The keys to log in with, in the order in which ssh offers them.

As in ssh: certificates that are named, keys of the agent that are named, its other keys (unless
IdentitiesOnly), key files.  Keys of FIDO authenticators come last: they may have to be touched.
What cannot be used is passed over, and said if nothing else lets the user in.
"""

from __future__ import annotations

import binascii
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from paramiko.pkey import PublicBlob

from harness.command import captured
from harness.report import sanitize
from harness.ssh.agent import Agent, AgentError, AgentKey
from harness.ssh.config import Way
from harness.ssh.knownhosts import KEYGEN_TIMEOUT, fingerprint

_PUBLIC_ONLY = "there is only its public part, and no agent has the other"
_CLASSES: tuple[tuple[type, type[paramiko.PKey]], ...] = (
    (rsa.RSAPrivateKey, paramiko.RSAKey),
    (ed25519.Ed25519PrivateKey, paramiko.Ed25519Key),
    (ec.EllipticCurvePrivateKey, paramiko.ECDSAKey),
)


class NotUsable(Exception):
    """Why a key cannot be used."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key that can be offered."""

    shown: str
    key: paramiko.PKey


@dataclass(frozen=True, slots=True)
class _File:
    """A key file that exists, the private part or only the public one."""

    path: Path
    fingerprint: str
    """Of the public key; "" where that is not known without a passphrase."""
    certificates: tuple[Path, ...]


@dataclass(slots=True)
class Keys:
    """What there is to log in with on one hop."""

    way: Way
    skipped: list[str] = field(default_factory=list)
    """What cannot be used, and why."""
    _agent: Agent | None = None

    def close(self) -> None:
        """Let the agent go."""
        if self._agent is not None:
            self._agent.close()

    def candidates(self) -> Iterator[Candidate]:
        """Yield the keys in order; those of files are read when their turn comes."""
        held = self._held()
        files = [file for path in dict.fromkeys(self.way.keys) if (file := _file(path))]
        for path in self.way.certificates:
            yield from self._certified(path, files, held)
        named = {file.fingerprint for file in files if file.fingerprint}
        certified = {blob for file in files for path in file.certificates for blob in _blobs(path)}
        first = [key for key in held if _print(key) in named or key.blob in certified]
        others = [] if self.way.only_keys else [key for key in held if key not in first]
        in_agent = {_print(key) for key in first} | {key.blob for key in first}
        offered = [*first, *others]
        yield from (_of_agent(key) for key in offered if not key.needs_touch)
        for file in files:
            if file.fingerprint not in in_agent:
                yield from self._of_file(file)
            if not self.way.certificates:
                for path in file.certificates:
                    if not in_agent.intersection(_blobs(path)):
                        yield from self._certified(path, files, held)
        yield from (_of_agent(key) for key in offered if key.needs_touch)
        self.skipped += [f"{_shown(key)}: {key.refusal}" for key in offered if key.refusal]

    def _held(self) -> list[AgentKey]:
        if not self.way.agent:
            return []
        try:
            self._agent = Agent(self.way.agent)
        except AgentError as error:
            self.skipped.append(f"the agent at {self.way.agent}: {sanitize.line(str(error), 100)}")
            return []
        return self._agent.keys

    def _of_file(self, file: _File) -> Iterator[Candidate]:
        try:
            yield Candidate(str(file.path), _private(file.path))
        except NotUsable as error:
            self.skipped.append(f"{file.path}: {error}")

    def _certified(
        self, path: Path, files: list[_File], held: list[AgentKey]
    ) -> Iterator[Candidate]:
        """Yield the key that a certificate is for, with the certificate."""
        wanted = _keygen(path)
        shown = f"certificate {path}"
        if not wanted or not _blobs(path):
            self.skipped.append(f"{shown}: {'is none' if path.exists() else 'does not exist'}")
            return
        for key in held:
            if _print(key) == wanted:
                copy = key.copy()
                copy.public_blob = PublicBlob.from_file(str(path))
                yield Candidate(f"{shown} with {_shown(key)}", copy)
                if copy.refusal:
                    self.skipped.append(f"{shown}: {copy.refusal}")
                return
        for file in files:
            if file.fingerprint == wanted:
                try:
                    private = _private(file.path)
                except NotUsable as error:
                    self.skipped.append(f"{shown}: {file.path} {error}")
                    return
                private.public_blob = PublicBlob.from_file(str(path))
                yield Candidate(f"{shown} with {file.path}", private)
                return
        self.skipped.append(f"{shown}: its private key is neither in the agent nor in a file")


def _of_agent(key: AgentKey) -> Candidate:
    return Candidate(_shown(key), key)


def _shown(key: AgentKey) -> str:
    return f"{key.get_name()} {key.comment or _print(key)} of the agent"


def _print(key: AgentKey) -> str:
    return fingerprint(key.blob)


def _file(path: Path) -> _File | None:
    """Look at a key file; None where there is nothing: ssh passes over that, too."""
    public = Path(f"{path}.pub")
    if not path.is_file() and not public.is_file():
        return None
    certificates = tuple(
        named for end in ("-cert", "-cert.pub") if (named := Path(f"{path}{end}")).is_file()
    )
    return _File(path, _keygen(path) or _keygen(public), certificates[:1])


def _keygen(path: Path) -> str:
    """Return a key's fingerprint, a certificate's key's; "" where the file shows none.

    ssh-keygen knows every format, and finds the public part of encrypted files.
    """
    if not path.is_file():
        return ""
    words = ["ssh-keygen", "-l", "-E", "sha256", "-f", str(path)]
    done = captured(words, KEYGEN_TIMEOUT, f"ssh-keygen did not read {path}")
    return next((word for word in done.stdout.split() if word.startswith("SHA256:")), "")


def _blobs(path: Path) -> list[bytes]:
    """Return a certificate as the agent would have it; nothing where the file has none."""
    try:
        blob = PublicBlob.from_file(str(path))
    except (OSError, ValueError, paramiko.SSHException):
        return []
    return [blob.key_blob] if "-cert-v0" in blob.key_type else []


def _private(path: Path) -> paramiko.PKey:
    """Read a private key of any format that ssh takes; NotUsable says why not."""
    try:
        status, data = path.stat(), path.read_bytes()
    except FileNotFoundError:
        raise NotUsable(_PUBLIC_ONLY) from None
    except OSError as error:
        raise NotUsable(f"it cannot be read: {error.strerror}") from None
    if b"PRIVATE KEY" not in data:
        what = "it is no private key in a format of OpenSSH"
        raise NotUsable(_PUBLIC_ONLY if _keygen(path) else what)
    if status.st_uid == os.getuid() and status.st_mode & 0o077:
        raise NotUsable("others may read it, which ssh does not accept: chmod 600")
    openssh = b"BEGIN OPENSSH PRIVATE KEY" in data
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        loaded = load(data, None)
    except TypeError:
        raise NotUsable("it needs its passphrase: ssh-add it to an agent") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        what = "it is of a FIDO authenticator: ssh-add it to an agent"
        if b"sk-" not in _decoded(data):
            what = f"it is not understood: {sanitize.line(str(error), 80)}"
        raise NotUsable(what) from None
    kind = next((ours for theirs, ours in _CLASSES if isinstance(loaded, theirs)), None)
    if kind is None:
        raise NotUsable("keys of its type are not supported here")
    text = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    return kind.from_private_key(io.StringIO(text.decode()))


def _decoded(data: bytes) -> bytes:
    """Return what is inside of an OpenSSH key file."""
    try:
        return binascii.a2b_base64(b"".join(data.splitlines()[1:-1]))
    except (binascii.Error, ValueError):
        return b""
