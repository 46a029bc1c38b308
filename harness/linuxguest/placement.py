# SPDX-License-Identifier: GPL-2.0-only
"""Files that a guest is made of, on the host that runs it: seen there already, or sent."""

from __future__ import annotations

import hashlib
import weakref
from pathlib import Path

from harness.agent import MAX_DATA
from harness.errors import UserError
from harness.kernel import Kernel
from harness.operations import WriteFile

FOLDER = "/run/snptest"
"""Where files that were sent lie; in memory, gone with the next boot."""
TIMEOUT = 120.0

_placed: weakref.WeakKeyDictionary[Kernel, dict[tuple[int, Path], str]] = (
    weakref.WeakKeyDictionary()
)
"""Of each kernel: where a file was put, by its boot (Kernel.boots) and the file."""


def place(kernel: Kernel, path: Path) -> str:
    """Return where the host has a file: at the same path if it is the same, else sent there.

    A machine that was booted here shows this file system: size and time of change, to the
    nanosecond, tell.  UserError where the file cannot be read here, or had there.
    """
    known = _placed.setdefault(kernel, {})
    key = kernel.boots, path
    if key not in known:
        known[key] = _place(kernel, path.absolute())
    return known[key]


def _place(kernel: Kernel, path: Path) -> str:
    try:
        status = path.stat()
        mark = f"{status.st_size} {status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09}"
        if _mark(kernel, path) == mark:
            return str(path)
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return _send(kernel, path, data)


def _mark(kernel: Kernel, path: Path) -> str:
    """Return size and time of change of a host's file; "" where it has none."""
    done = kernel.run_program(["stat", "-L", "-c", "%s %.9Y", "--", str(path)], TIMEOUT)
    if done.status is None:
        raise UserError(f"{kernel.name} has no stat: {done.failure}")
    return done.output.decode(errors="replace").strip() if done.status == 0 else ""


def _send(kernel: Kernel, path: Path, data: bytes) -> str:
    """Send a file, unless it is there since the last time."""
    wanted = hashlib.sha256(data).hexdigest()
    sent = f"{FOLDER}/{wanted[:16]}-{path.name}"
    if _hash(kernel, sent) == wanted:
        return sent
    if len(data) + len(sent) > MAX_DATA:
        raise UserError(
            f"{path} has {len(data)} bytes, and {kernel.name} does not see it; "
            f"{MAX_DATA - len(sent)} is the most that can be sent",
            "a host that shares the file system needs nothing sent",
        )
    made = kernel.run_program(
        ["sh", "-c", 'umask 077 && mkdir -p "$1" && : > "$2"', "sh", FOLDER, sent], TIMEOUT
    )
    if made.status != 0:
        said = made.failure or made.output.decode(errors="replace")
        raise UserError(f"{sent} cannot be made on {kernel.name}: {said.strip()}")
    kernel.check(WriteFile(sent, data), timeout=TIMEOUT)
    if _hash(kernel, sent) != wanted:
        raise UserError(
            f"{path} did not arrive whole on {kernel.name}", f"is there room in {FOLDER}?"
        )
    return sent


def _hash(kernel: Kernel, path: str) -> str | None:
    """Return the SHA-256 of a host's file; None where it has none."""
    done = kernel.run_program(["sha256sum", "--", path], TIMEOUT)
    if done.status is None:
        raise UserError(f"{kernel.name} has no sha256sum: {done.failure}")
    return done.output.split()[0].decode(errors="replace").lstrip("\\") if not done.status else None
