# SPDX-License-Identifier: GPL-2.0-only
"""SSH agents for tests: the real one, and one that has a FIDO key without an authenticator."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

FIDO = b"sk-ssh-ed25519@openssh.com"
_APPLICATION = b"ssh:"


@contextlib.contextmanager
def real_agent(folder: Path, *keys: Path) -> Iterator[Path]:
    """Run ssh-agent with these keys, and their certificates; yield its socket.

    A key with a passphrase gives `geheim`.
    """
    where = folder / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(where)], stdout=subprocess.DEVNULL)
    asked = folder / "askpass"
    asked.write_text("#!/bin/sh\necho geheim\n")
    asked.chmod(0o755)
    try:
        until = time.monotonic() + 30
        while not _listens(where) and time.monotonic() < until:
            time.sleep(0.02)
        environment = {
            **os.environ,
            "SSH_AUTH_SOCK": str(where),
            "SSH_ASKPASS": str(asked),
            "SSH_ASKPASS_REQUIRE": "force",
        }
        for key in keys:
            command = ["ssh-add", "-q", str(key)]
            subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, check=True, timeout=60
            )
        yield where
    finally:
        agent.kill()
        agent.wait(10)
        where.unlink(missing_ok=True)


def _listens(path: Path) -> bool:
    """Whether somebody takes connections: a socket is there before that."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def pack(*parts: bytes) -> bytes:
    """Return strings as the protocol has them."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


class FidoAgent:
    """An agent that signs with one FIDO key of its own, or refuses to."""

    def __init__(self, folder: Path, *, touched: bool = True) -> None:
        self.path = folder / "fido"
        self.touched = touched
        """Whether somebody touches the key."""
        self.asked = 0
        """How often it was to sign."""
        self._key = ed25519.Ed25519PrivateKey.generate()
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        self.blob = pack(FIDO, self._key.public_key().public_bytes(*raw), _APPLICATION)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.path.unlink()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._server.accept()
                threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer, peer.makefile("rwb") as stream:
            while head := stream.read(4):
                answer = self._answer(stream.read(struct.unpack(">I", head)[0]))
                stream.write(pack(answer))
                stream.flush()

    def _answer(self, message: bytes) -> bytes:
        if message[0] == 11:
            return b"\x0c" + struct.pack(">I", 1) + pack(self.blob, b"yubi")
        if message[0] != 13:
            return b"\x05"
        self.asked += 1
        if not self.touched:
            return b"\x05"
        at = 5 + len(self.blob)
        (length,) = struct.unpack(">I", message[at : at + 4])
        data = message[at + 4 : at + 4 + length]
        # PROTOCOL.u2f of OpenSSH: flags (present) and counter are signed, too, and follow.
        state = b"\x01" + struct.pack(">I", 1)
        digests = hashlib.sha256(_APPLICATION).digest(), hashlib.sha256(data).digest()
        signature = self._key.sign(digests[0] + state + digests[1])
        return b"\x0e" + pack(pack(FIDO, signature) + state)
