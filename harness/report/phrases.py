# SPDX-License-Identifier: GPL-2.0-only
"""Values and comparisons in words: the parts of `OPERATION: what came, want what was wanted`."""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import errno as _errno
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from harness.report import sanitize
from harness.uapi.errors import errno_name

_WANTED = {
    "!=": "anything but {}",
    "<": "less than {}",
    "<=": "at most {}",
    ">": "more than {}",
    ">=": "at least {}",
    "is not": "anything but {}",
}
_PROPERTIES = {
    "ok": ("success", "an error"),
    "not_validated": ("#VC: page not validated", "no #VC"),
    "faulted": ("an exception", "no exception"),
    "private": ("private", "shared"),
    "errno": ("an error", "success"),
}
_ERRNOS = set(_errno.errorcode.values())
_COUNT = 100_000
"""From here on a number is taken for an address or a mask, not for a count."""
_PART = 4
"""Bytes that are shown where memory differs."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: its value, and the constant's name if the source has one."""

    value: Any
    constant: str = ""


def operation(value: object) -> str:
    """The operation that a value came from; "" where it does not know."""
    found = getattr(value, "operation", "")
    return found if isinstance(found, str) else ""


def line(subject: str, came: str, wanted: str) -> str:
    """Put the parts together: a semicolon stands where what came has commas of its own."""
    separator = ";" if "," in came or ";" in came else ","
    return f"{subject}: {came}{separator} want {wanted}"


def comparison(subject: str, op: str, left: Side, right: Side) -> str:
    """Return the line for `left op right`, which is false; the left side is what came."""
    if op in ("in", "not in"):
        return _membership(subject, op, left, right)
    if op == "is not" and right.value is None:
        return line(subject, "none", "one")
    if op in ("==", "is"):
        where, came, wanted = difference(left, right)
        return line(f"{subject}{where}", came, wanted)
    came, wanted = _pair(left, right)
    if op in ("<", "<=") and isinstance(left.value, Set):
        return line(subject, words(sorted(left.value - right.value, key=repr)), "no others")
    return line(subject, came, _WANTED[op].format(wanted))


def difference(left: Side, right: Side) -> tuple[str, str, str]:
    """Where two values differ, and what is there on both sides."""
    a, b = left.value, right.value
    if isinstance(a, bytes | bytearray) and isinstance(b, bytes | bytearray):
        return _bytes(bytes(a), bytes(b))
    if type(a) is type(b) and dataclasses.is_dataclass(a) and hasattr(a, "label"):
        differing = [f for f in dataclasses.fields(a) if getattr(a, f.name) != getattr(b, f.name)]
        if len(dataclasses.fields(a)) > 1 and differing:
            name = differing[0].name
            return _at(f" {a.label} {name}", getattr(a, name), getattr(b, name))
    if hasattr(b, "unlike") and type(a) is type(b):
        return "", a.beside(b), b.unlike(a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return _sequence(a, b)
    if operation(a) or operation(b) or isinstance(a, str):
        return ("", *_pair(left, right))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(key for key in b if key not in a)]:
            if a.get(key, "nothing") != b.get(key, "nothing"):
                return _at(f" {key}", a.get(key, "nothing"), b.get(key, "nothing"))
    if isinstance(a, Set) and isinstance(b, Set):
        return "", words(sorted(a - b, key=repr) or "too few"), words(sorted(b - a, key=repr) or b)
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        for field in dataclasses.fields(a):
            one, other = getattr(a, field.name), getattr(b, field.name)
            if field.compare and one != other:
                return _at(f" {field.name}", one, other)
    return ("", *_pair(left, right))


def _at(where: str, a: object, b: object) -> tuple[str, str, str]:
    deeper, came, wanted = difference(Side(a), Side(b))
    return where + deeper, came, wanted


def _sequence(a: Sequence[Any], b: Sequence[Any]) -> tuple[str, str, str]:
    for number, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other and len(a) == len(b):
            name = getattr(a, "_fields", None)
            place = f" {name[number]}" if name else f" [{number}]" if len(a) > 1 else ""
            return _at(place, one, other)
    if len(a) != len(b) and max(len(a), len(b)) > 3:
        return "", f"{len(a)} entries", f"{len(b)}"
    return "", words(a), words(b)


def _bytes(a: bytes, b: bytes) -> tuple[str, str, str]:
    if len(a) != len(b):
        return "", f"{len(a)} bytes", f"{len(b)}"
    at = next((n for n, (one, other) in enumerate(zip(a, b, strict=True)) if one != other), 0)
    if len(a) <= _PART:
        return "", a.hex(" "), b.hex(" ")
    came = "zeros" if not any(a) else a[at : at + _PART].hex(" ")
    wanted = "zeros" if not any(b) else b[at : at + _PART].hex(" ")
    return f" at offset {at:#x}", came, wanted


def _membership(subject: str, op: str, left: Side, right: Side) -> str:
    if op == "in" and isinstance(right.value, list | tuple | set | frozenset | range):
        named = [_pair(left, Side(each))[1] for each in right.value]
        came = _pair(left, Side(next(iter(right.value), None)))[0]
        return line(subject, came, "one of " + ", ".join(named))
    part = left.constant or words(left.value)
    if op == "in":
        return line(subject, f"no {part}", "it there")
    return line(subject, f"{part} is there", "it absent")


def _pair(left: Side, right: Side) -> tuple[str, str]:
    """Two values in words that fit each other: both as errnos, as members of one enum, in hex."""
    a, b = left.value, right.value
    for one in (a, b):
        names = getattr(one, "names", None)
        if names is not None and isinstance(a, int) and isinstance(b, int):
            return names(a), names(b)
    if right.constant in _ERRNOS and isinstance(a, int):
        return errno_name(a), right.constant
    if left.constant in _ERRNOS and isinstance(b, int):
        return left.constant, errno_name(b)
    for one, other in ((a, b), (b, a)):
        if isinstance(one, enum.IntEnum) and type(other) is int:
            kind = type(one)
            if other in set(kind):
                a, b = (a, kind(other)) if one is a else (kind(other), b)
    large = any(isinstance(each, int) and abs(each) >= _COUNT for each in (a, b))
    return _named(left, a, large), _named(right, b, large)


def _named(side: Side, value: object, large: bool) -> str:
    text = number(value, large) if _plain_int(value) else words(value)  # type: ignore[arg-type]
    if side.constant and _plain_int(value):
        return f"{side.constant} ({text})"
    return text


def _plain_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool | enum.Enum)


def number(value: int, large: bool = False) -> str:
    """A number as people read it: counts decimal, sizes, addresses and masks in hex."""
    return f"{value:#x}" if (large and abs(value) > 9) or abs(value) >= 1000 else str(value)


def words(value: object) -> str:
    """Any value in words of one line."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case enum.Enum() if value.name == "NONE":
            return "none"
        case enum.IntEnum():
            return f"{value.name} ({value.value})"
        case enum.Enum():
            return value.name.lower().replace("_", " ")
        case int():
            names = getattr(value, "names", None)
            return names(value) if names else number(int(value))
        case _ if operation(value) and not isinstance(value, bytes):
            return str(value)
        case bytes() | bytearray():
            part = bytes(value)
            return part.hex(" ") if len(part) <= 2 * _PART else f"{part[:_PART].hex(' ')} ..."
        case list() | tuple():
            return f"({', '.join(words(each) for each in value)})" if value else "nothing"
        case ctypes.Structure():
            return f"{type(value).__name__} {words(bytes(value))}"
        case str():
            return shortened(sanitize.line(value), 40) or "nothing"
        case _:
            return shortened(sanitize.line(str(value)), 60)


def property(name: str, wanted: bool) -> str:
    """What is wanted where a property of an answer should be true, or false."""
    yes, no = _PROPERTIES.get(name, (name.replace("_", " "), f"not {name.replace('_', ' ')}"))
    return yes if wanted else no


def kind(name: str, label: object = None) -> str:
    """What a type is called: its label, the kernel's name, where it has one."""
    return label if isinstance(label, str) and label else _KINDS.get(name, name)


_KINDS = {
    "KvmIoctlError": "an error",
    "SevError": "an error",
    "OperationError": "an error",
    "VerificationError": "a signature that does not verify",
    "MessageError": "a refused message",
    "VmgExitResult": "an answer of the hypervisor",
}


def empty(text: str) -> str:
    """An empty value that pytest shows, in words."""
    return {"None": "none", "[]": "nothing", "''": "nothing", "b''": "nothing"}.get(text, text)


def shortened(text: str, width: int) -> str:
    """Text of at most `width` columns, with its end kept: what was left out is in the middle."""
    if len(text) <= width:
        return text
    tail = width // 3
    return f"{text[: width - tail - 3]}...{text[-tail:]}"
