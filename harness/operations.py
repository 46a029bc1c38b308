# SPDX-License-Identifier: GPL-2.0-only
"""Operations on a kernel under test, as data; their results and failures: see harness/kernel.py."""

from __future__ import annotations

import errno as _errno
import os
from dataclasses import dataclass

DEFAULT_TIMEOUT = 30.0
"""Seconds that a synchronous operation may take before it counts as hung."""

DEFAULT_BACKLOG = 16 << 20
"""Bytes that a program's channel keeps for somebody to receive them."""

PROT_READ, PROT_WRITE = 1, 2
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE = 0x01, 0x02, 0x20, 0x4000
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2


@dataclass(frozen=True, slots=True)
class Open:
    """open(2); the value is the new file descriptor."""

    path: str
    flags: int = os.O_RDWR | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Close:
    """close(2)."""

    fd: int


@dataclass(frozen=True, slots=True)
class Ioctl:
    """ioctl(2): an int is passed as it is, bytes as a pointer to a buffer that holds them.

    The buffer's content after the call comes back as `Result.data`.
    """

    fd: int
    request: int
    arg: int | bytes = 0


@dataclass(frozen=True, slots=True)
class Mmap:
    """mmap(2); the value is the address on the target.  Without a file: anonymous memory."""

    length: int
    prot: int = PROT_READ | PROT_WRITE
    flags: int = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE
    fd: int = -1
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Munmap:
    """munmap(2)."""

    address: int
    length: int


@dataclass(frozen=True, slots=True)
class Read:
    """Copy `length` bytes out of the target process's memory into `Result.data`."""

    address: int
    length: int


@dataclass(frozen=True, slots=True)
class Write:
    """Copy `data` into the target process's memory."""

    address: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Fallocate:
    """fallocate(2)."""

    fd: int
    mode: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Ftruncate:
    """ftruncate(2)."""

    fd: int
    length: int


@dataclass(frozen=True, slots=True)
class ReadFile:
    """Read at most `limit` bytes of a (sysfs, proc) file into `Result.data`."""

    path: str
    limit: int = 1 << 16


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Write to a file that is there (sysfs, debugfs, /dev/kmsg); the value is the bytes taken."""

    path: str
    data: bytes


Op = (
    Open
    | Close
    | Ioctl
    | Mmap
    | Munmap
    | Read
    | Write
    | Fallocate
    | Ftruncate
    | ReadFile
    | WriteFile
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one operation gave: `value` of the call, `errno` (0 on success), bytes read back."""

    value: int
    errno: int = 0
    data: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether the operation succeeded."""
        return self.errno == 0


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ran on the target."""

    status: int | None
    """Exit status, negative for a signal; None where it was not started or did not end in time."""
    output: bytes
    """What it printed, stdout and stderr in one; untrusted."""
    dropped: int
    """Bytes of output beyond the limit."""
    failure: str = ""
    """Why there is no status."""


class TargetError(Exception):
    """The target failed as a whole: it died, hung or broke the protocol (not a test's failure)."""


class TargetTimeoutError(TargetError):
    """An operation missed its deadline; the message says which and what was seen last."""


class OperationError(OSError):
    """One operation failed on the target; carries the errno and names the operation."""

    def __init__(self, op: Op, result: Result) -> None:
        name = _errno.errorcode.get(result.errno, str(result.errno))
        super().__init__(result.errno, f"{describe(op)}: {name}")
        self.op = op
        self.result = result


def describe(op: Op) -> str:
    """One line that names an operation for messages, without its payload."""
    match op:
        case Open(path=path) | ReadFile(path=path) | WriteFile(path=path):
            return f"{type(op).__name__.lower()}({path})"
        case Ioctl(fd=fd, request=request):
            return f"ioctl(fd {fd}, {request:#x})"
        case Write(address=address, data=data):
            return f"write({address:#x}, {len(data)} bytes)"
        case _:
            return str(op)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A batch under way on one of the target's threads."""

    number: int
    thread: int
    what: str
