# SPDX-License-Identifier: GPL-2.0-only
"""Results that know their operation: numbers, memory, and the outcome of a call.

`operation` is what a failed assert of a suite begins with, `str` what came of it in words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Self

from harness.uapi.errors import errno_name, status_name
from harness.vm.errors import KvmIoctlError, SevError

_P = ParamSpec("_P")


class Number(int):
    """A number that an operation gave; it compares and counts as any other."""

    operation: str
    names: Callable[[int], str] | None
    """Names such numbers, as errno_name does."""

    def __new__(cls, value: int, operation: str, names: Callable[[int], str] | None = None) -> Self:
        """A number as it is."""
        made = super().__new__(cls, value)
        made.operation = operation
        made.names = names
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Number, (int(self), self.operation, self.names)


class Memory(bytes):
    """Bytes that were read; `operation` says where."""

    operation: str

    def __new__(cls, data: bytes, operation: str) -> Self:
        """Bytes as they are."""
        made = super().__new__(cls, data)
        made.operation = operation
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, (bytes(self), self.operation)


@dataclass(frozen=True, slots=True)
class CallResult:
    """What came of an ioctl or a SEV command: errno and the firmware's error, 0 on success."""

    errno: int = 0
    fw_error: int = 0
    operation: str = field(default="", compare=False)

    @classmethod
    def of(cls, operation: str, errno: int, fw_error: int = 0) -> Self:
        """Make both errors know their operation."""
        status = Number(fw_error, f"{operation} firmware status", status_name)
        return cls(Number(errno, operation, errno_name), status, operation)

    def __str__(self) -> str:
        """Name the errors: `EIO, firmware INVALID_PARAM`."""
        firmware = f", firmware {status_name(self.fw_error)}" if self.fw_error else ""
        return errno_name(self.errno) + firmware


@dataclass(frozen=True, slots=True)
class SevResult:
    """What a SEV command gave: errno, firmware error, and the structure as the kernel left it."""

    errno: int
    fw_error: int
    data: bytes
    operation: str = field(default="SEV command", compare=False)

    @classmethod
    def of(cls, operation: str, errno: int, fw_error: int, data: bytes) -> SevResult:
        """Make both errors know their command."""
        outcome = CallResult.of(operation, errno, fw_error)
        return cls(outcome.errno, outcome.fw_error, data, operation)

    @property
    def outcome(self) -> CallResult:
        """Both errors, without the structure."""
        return CallResult(self.errno, self.fw_error, self.operation)

    def __str__(self) -> str:
        """Name the errors."""
        return str(self.outcome)


OK = CallResult()
"""Success, to compare with."""


def failed(errno: int, fw_error: int = 0) -> CallResult:
    """Return an error to compare with."""
    return CallResult(errno, fw_error)


def attempt(
    operation: str, step: Callable[_P, object], *args: _P.args, **more: _P.kwargs
) -> CallResult:
    """Take a step that may raise KvmIoctlError or SevError, and return what came of it."""
    try:
        step(*args, **more)
    except SevError as error:
        return CallResult.of(error.what, error.errno or 0, error.fw_error)
    except KvmIoctlError as error:
        return CallResult.of(error.what, error.errno or 0)
    return CallResult.of(operation, 0)
