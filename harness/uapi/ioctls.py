# SPDX-License-Identifier: GPL-2.0-only
"""Encoding of ioctl request numbers (include/uapi/asm-generic/ioctl.h, Linux 6.12)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

_IOC_NRBITS, _IOC_TYPEBITS, _IOC_SIZEBITS = 8, 8, 14
_IOC_TYPESHIFT = _IOC_NRBITS
_IOC_SIZESHIFT = _IOC_TYPESHIFT + _IOC_TYPEBITS
_IOC_DIRSHIFT = _IOC_SIZESHIFT + _IOC_SIZEBITS
_IOC_WRITE, _IOC_READ = 1, 2

if TYPE_CHECKING:
    Argument = type[ctypes.Structure] | type[ctypes.Union] | type[ctypes._SimpleCData[int]]


def _IOC(direction: int, kind: int | str, number: int, length: int) -> int:
    kind = ord(kind) if isinstance(kind, str) else kind
    return direction << _IOC_DIRSHIFT | length << _IOC_SIZESHIFT | kind << _IOC_TYPESHIFT | number


def _IO(kind: int | str, number: int) -> int:
    return _IOC(0, kind, number, 0)


def _IOR(kind: int | str, number: int, argument: Argument) -> int:
    return _IOC(_IOC_READ, kind, number, ctypes.sizeof(argument))


def _IOW(kind: int | str, number: int, argument: Argument) -> int:
    return _IOC(_IOC_WRITE, kind, number, ctypes.sizeof(argument))


def _IOWR(kind: int | str, number: int, argument: Argument) -> int:
    return _IOC(_IOC_READ | _IOC_WRITE, kind, number, ctypes.sizeof(argument))


def ioctl_size(request: int) -> int:
    """Size of the argument that a request number encodes, in bytes."""
    return request >> _IOC_SIZESHIFT & (1 << _IOC_SIZEBITS) - 1
