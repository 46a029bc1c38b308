# SPDX-License-Identifier: GPL-2.0-only
"""Building blocks of byte-exact structures: integer types and base classes over ctypes.

Everything here is little-endian.  A structure converts to bytes with `bytes(s)` and from
bytes with `S.from_buffer_copy(data)`; `from_bytes` also takes short data, as a kernel that
copies less than we know of would leave the rest zero.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any, Self, TypeVar

u8 = ctypes.c_uint8
u16 = ctypes.c_uint16
u32 = ctypes.c_uint32
u64 = ctypes.c_uint64
s32 = ctypes.c_int32
s64 = ctypes.c_int64

PAGE_SIZE = 4096

_S = TypeVar("_S", bound=ctypes.Structure)


def _assign(struct: Any, name: str, value: object) -> object | None:
    """Check that `name` is a field; copy bytes into an array field and return None then."""
    if not hasattr(type(struct), name):
        raise AttributeError(f"{type(struct).__name__} has no field {name!r}")
    if isinstance(value, bytes | bytearray | memoryview):
        array = getattr(struct, name)
        if len(value) != ctypes.sizeof(array):
            raise ValueError(
                f"{type(struct).__name__}.{name} holds {ctypes.sizeof(array)} bytes, "
                f"not {len(value)}"
            )
        ctypes.memmove(array, bytes(value), len(value))
        return None
    return value


class Struct(ctypes.LittleEndianStructure):
    """A structure with natural alignment that refuses unknown fields and takes bytes for arrays."""

    # ctypes would let a misspelt field become an ordinary attribute that never reaches the kernel.
    def __setattr__(self, name: str, value: object) -> None:
        if (value := _assign(self, name, value)) is not None:
            super().__setattr__(name, value)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Make one from bytes; what is missing at the end is zero, what is left over is ignored."""
        return cls.from_buffer_copy(bytes(data).ljust(ctypes.sizeof(cls), b"\0"))

    def __repr__(self) -> str:
        fields = (f"{field[0]}={_show(getattr(self, field[0]))}" for field in self._fields_)
        return f"{type(self).__name__}({', '.join(fields)})"


class PackedStruct(Struct):
    """A structure without padding, as the kernel's `__packed`."""

    _pack_ = 1
    _layout_ = "ms"  # Python 3.14 wants it said; for bit fields of one type it equals gcc's layout


class Union(ctypes.LittleEndianUnion):
    """A union that refuses unknown fields and takes bytes for arrays."""

    def __setattr__(self, name: str, value: object) -> None:
        if (value := _assign(self, name, value)) is not None:
            super().__setattr__(name, value)


def _show(value: object) -> str:
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, ctypes.Array):
        raw = bytes(value)
        return raw.hex() if any(raw) else "0"
    return repr(value)


def size(struct: type[ctypes.Structure] | type[ctypes.Union]) -> int:
    """Size of a structure in bytes."""
    return ctypes.sizeof(struct)


def offset(struct: type[ctypes.Structure] | type[ctypes.Union], field: str) -> int:
    """Offset of a field, which may be a dotted path (`save.rax`), in bytes."""
    head, _, rest = field.partition(".")
    start: int = getattr(struct, head).offset
    if not rest:
        return start
    inner = next(entry[1] for entry in struct._fields_ if entry[0] == head)
    assert issubclass(inner, ctypes.Structure | ctypes.Union)
    return start + offset(inner, rest)


def with_entries(header: ctypes.Structure, entries: Iterable[ctypes.Structure]) -> bytes:
    """Bytes of a header followed by its flexible array."""
    return bytes(header) + b"".join(bytes(entry) for entry in entries)


def entries(data: bytes, header: type[ctypes.Structure], entry: type[_S], count: int) -> list[_S]:
    """Decode the flexible array of `count` entries that follows a header."""
    start, step = ctypes.sizeof(header), ctypes.sizeof(entry)
    return [entry.from_buffer_copy(data, start + i * step) for i in range(count)]
