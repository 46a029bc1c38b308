# SPDX-License-Identifier: GPL-2.0-only
"""The keys of an SSH agent: listed, and signed with (draft-ietf-sshm-ssh-agent).

paramiko's own agent takes only the socket of SSH_AUTH_SOCK, and what it cannot use, or what the
agent refuses, ends its connection.
"""

from __future__ import annotations

import socket
import struct

import paramiko

from harness.report import sanitize

LIST_TIMEOUT = 10.0
SIGN_TIMEOUT = 20.0
"""Seconds that a signature may take: somebody may be asked to touch a key, or to confirm."""
_MOST = 1 << 20
"""Bytes of an answer."""
_LIST, _KEYS, _SIGN, _SIGNED = 11, 12, 13, 14
_FLAGS = {"rsa-sha2-256": 2, "rsa-sha2-512": 4}


class AgentError(Exception):
    """Why an agent cannot be used."""


class Agent:
    """One connection to an agent."""

    def __init__(self, path: str) -> None:
        """Connect and list the keys; AgentError where that is impossible."""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(LIST_TIMEOUT)
            self._socket.connect(path)
            kind, answer = self._ask(struct.pack(">B", _LIST))
            if kind != _KEYS:
                raise AgentError("it does not list its keys")
            self.keys = [
                AgentKey(self, answer.get_binary(), answer.get_binary())
                for _ in range(answer.get_int())
            ]
        except (OSError, struct.error) as error:
            self.close()
            raise AgentError(str(error.args[-1] if error.args else error)) from None
        except AgentError:
            self.close()
            raise

    def sign(self, blob: bytes, data: bytes, algorithm: str) -> bytes:
        """Return a signature in the form of RFC 4253; AgentError where the agent gives none."""
        flags = _FLAGS.get(algorithm.removesuffix("-cert-v01@openssh.com"), 0)
        message = paramiko.Message()
        message.add_byte(bytes([_SIGN]))
        message.add_string(blob)
        message.add_string(data)
        message.add_int(flags)
        try:
            self._socket.settimeout(SIGN_TIMEOUT)
            kind, answer = self._ask(message.asbytes())
        except (OSError, struct.error) as error:
            self.close()  # an answer that comes late would be taken for the next one
            raise AgentError(f"the agent did not sign: {error}") from None
        if kind != _SIGNED:
            raise AgentError("the agent refused to sign")
        return answer.get_binary()

    def close(self) -> None:
        """Let the agent go."""
        self._socket.close()

    def _ask(self, message: bytes) -> tuple[int, paramiko.Message]:
        self._socket.sendall(struct.pack(">I", len(message)) + message)
        (length,) = struct.unpack(">I", self._receive(4))
        if not 0 < length <= _MOST:
            raise AgentError("what answers is no SSH agent")
        answer = self._receive(length)
        return answer[0], paramiko.Message(answer[1:])

    def _receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self._socket.recv(length - len(data))
            if not part:
                raise AgentError("it hung up")
            data += part
        return data


class AgentKey(paramiko.PKey):
    """A key of an agent, of whatever type: only the agent needs to understand it."""

    def __init__(self, agent: Agent, blob: bytes, comment: bytes) -> None:
        self.blob = blob
        """What the agent knows it by: a public key, or a certificate."""
        self.comment = sanitize.line(comment, 60)
        self.refusal = ""
        """Why the agent did not sign with it."""
        self.public_blob = None
        self._agent = agent
        self._type = sanitize.line(paramiko.Message(blob).get_binary(), 60)

    def copy(self) -> AgentKey:
        """Return the same key, to be used with a certificate."""
        return AgentKey(self._agent, self.blob, self.comment.encode())

    @property
    def is_certificate(self) -> bool:
        """Whether it is offered with a certificate that the agent has."""
        return "-cert-v0" in self._type

    @property
    def needs_touch(self) -> bool:
        """Whether it is in a FIDO authenticator, which usually has to be touched."""
        return self._type.startswith("sk-")

    def get_name(self) -> str:
        """Return the type."""
        return self._type

    def asbytes(self) -> bytes:
        """Return what is offered to the host."""
        return self.blob

    @property
    def _fields(self) -> list[object]:
        """What paramiko compares keys by."""
        return [self._type, self.blob]

    def sign_ssh_data(self, data: bytes, algorithm: str | None = None) -> paramiko.Message:
        """Sign; a signature that the agent does not give is an empty one, which no host takes.

        An exception would end the connection, and with it the attempts with other keys.
        """
        kind = algorithm or self._type
        try:
            return paramiko.Message(self._agent.sign(self.blob, data, kind))
        except AgentError as error:
            self.refusal = str(error)
            message = paramiko.Message()
            message.add_string(kind)
            message.add_string(b"")
            return message
