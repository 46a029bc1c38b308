# SPDX-License-Identifier: GPL-2.0-only
"""Operations, results and statuses in the form that the agent speaks (harness/agent.py)."""

from __future__ import annotations

import json
import os
import struct

from harness import agent as protocol
from harness.operations import (
    Close,
    Completed,
    Fallocate,
    Ftruncate,
    Ioctl,
    Mmap,
    Munmap,
    Op,
    Open,
    Read,
    ReadFile,
    Result,
    Write,
    WriteFile,
    describe,
)

OVERDUE = "it did not end in time"
"""What is said of a program that was ended at its deadline."""

_U64 = (1 << 64) - 1
_GREETING = b"H" + json.dumps({"magic": protocol.MAGIC})[:-1].encode()


def encode(op: Op) -> bytes:
    """Put one operation into the form the agent reads; ValueError where it does not fit."""
    try:
        return _encode(op)
    except struct.error as error:
        raise ValueError(f"{describe(op)}: {error}") from None


def _encode(op: Op) -> bytes:
    match op:
        case Open(path, flags):
            return _pack(protocol.OPEN, (flags,), os.fsencode(path))
        case Close(fd):
            return _pack(protocol.CLOSE, (fd,))
        case Ioctl(fd, request, bytes(buffer)):
            return _pack(protocol.IOCTL_BUFFER, (fd, request), buffer)
        case Ioctl(fd, request, int(arg)):
            return _pack(protocol.IOCTL_INT, (fd, request, arg & _U64))
        case Mmap(length, prot, flags, fd, offset):
            return _pack(protocol.MMAP, (length, prot, flags, fd, offset))
        case Munmap(address, length):
            return _pack(protocol.MUNMAP, (address, length))
        case Read(address, length):
            return _pack(protocol.READ, (address, length))
        case Write(address, data):
            return _pack(protocol.WRITE, (address,), data)
        case Fallocate(fd, mode, offset, length):
            return _pack(protocol.FALLOCATE, (fd, mode, offset, length))
        case Ftruncate(fd, length):
            return _pack(protocol.FTRUNCATE, (fd, length))
        case ReadFile(path, limit):
            return _pack(protocol.READ_FILE, (limit,), os.fsencode(path))
        case WriteFile(path, data):
            name = os.fsencode(path)
            return _pack(protocol.WRITE_FILE, (len(name),), name + data)
        case _:
            raise ValueError(f"not an operation: {op!r}")


def _pack(code: int, fields: tuple[int, ...], payload: bytes | None = None) -> bytes:
    head = bytes((code,)) + protocol.FIELDS[code].pack(*fields)
    if payload is None:
        return head
    if len(payload) > protocol.MAX_DATA:
        raise ValueError(f"{len(payload)} bytes in one operation, {protocol.MAX_DATA} is the most")
    return head + protocol.LENGTH.pack(len(payload)) + payload


def decode_results(body: bytes) -> tuple[int, list[Result]]:
    """Take an R frame apart: ticket and results; ValueError when it is damaged."""
    try:
        ticket, count = protocol.RESULTS.unpack_from(body)
        offset = protocol.RESULTS.size
        results = []
        for _ in range(count):
            value, code, length = protocol.RESULT.unpack_from(body, offset)
            offset += protocol.RESULT.size
            data = body[offset : offset + length]
            if len(data) != length:
                raise ValueError("a result's data is cut short")
            offset += length
            results.append(Result(value, code, data))
    except struct.error as error:
        raise ValueError(f"damaged results: {error}") from None
    if offset != len(body):
        raise ValueError(f"{len(body) - offset} bytes after the last result")
    return ticket, results


def drop_until_greeting(buffer: bytearray) -> None:
    """Drop what comes before an agent's first frame, if that is there.

    It is what the agent before had half said when its kernel ended.
    """
    at = buffer.find(_GREETING)
    if at >= protocol.LENGTH.size:
        del buffer[: at - protocol.LENGTH.size]


def failure_of(status: int, text: bytes) -> str:
    """Say why a program has no status of its own, "" where it has."""
    if status == protocol.NOT_STARTED:
        return text.decode(errors="replace") or "it was not started"
    return OVERDUE if status == protocol.TIMED_OUT else ""


def completed(status: int, output: bytes, dropped: int) -> Completed:
    """Make of an X frame what became of the program."""
    failure = failure_of(status, output)
    if not failure:
        return Completed(status, output, dropped)
    kept = b"" if status == protocol.NOT_STARTED else output
    return Completed(None, kept, dropped, failure)
