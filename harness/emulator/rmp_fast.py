# SPDX-License-Identifier: GPL-2.0-only
"""Bulk work on the RMP in C: compiles `rmp_fast.c` once a machine and loads it with ctypes.

SNPTEST_RMP=numpy or c forces a path.  Without it C is used where a compiler is found; the
library is kept in the user's cache under a name made of the source, the compiler and its flags.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from harness import places
from harness.emulator.rmp_bulk import Bulk, NumpyBulk, Words

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ["-O3", "-std=gnu11", "-Wall", "-Werror", "-shared", "-fPIC"]
COMPILE_SECONDS = 60.0

_SIZE, _U64, _TABLE = ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p
_COUNTER = ctypes.POINTER(_SIZE)


class BuildError(Exception):
    """The C path cannot be had, and why."""


class CBulk:
    """The operations of `NumpyBulk`, by the library."""

    name = "c"

    def __init__(self, table: Words) -> None:
        self._library = load()
        self._keep = table
        self._table = table.ctypes.data

    def update(self, first: int, count: int, lo: int, step: int, hi: int) -> int:
        """RMPUPDATE of 4 KiB pages."""
        return int(self._library.rmp_update(self._table, first, count, lo, step, hi))

    def fill(self, first: int, count: int, lo: int, step: int, hi: int) -> None:
        """Write entries."""
        self._library.rmp_fill(self._table, first, count, lo, step, hi)

    def validate(self, first: int, count: int, lo: int, validate: bool) -> tuple[int, int]:
        """PVALIDATE of 4 KiB pages."""
        changed = _SIZE()
        done = self._library.rmp_validate(
            self._table, first, count, lo, validate, ctypes.byref(changed)
        )
        return int(done), changed.value

    def count(self, first: int, count: int, asid: int) -> tuple[int, int]:
        """Count assigned entries and covered pages."""
        pages = _SIZE()
        found = self._library.rmp_count(self._table, first, count, asid, ctypes.byref(pages))
        return int(found), pages.value


def bulk(table: Words) -> Bulk:
    """The path that SNPTEST_RMP names, or the fastest there is."""
    wanted = os.environ.get("SNPTEST_RMP", "")
    if wanted not in ("", "c", "numpy"):
        raise ValueError(f"SNPTEST_RMP={wanted}: must be c or numpy")
    if wanted == "numpy":
        return NumpyBulk(table)
    try:
        return CBulk(table)
    except BuildError:
        if wanted == "c":
            raise
        return NumpyBulk(table)


@cache
def load() -> ctypes.CDLL:
    """Compile the library unless the cache has it, and load it; BuildError when it cannot."""
    path = _build()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:  # a cache on a file system without exec
        raise BuildError(f"cannot load {path}: {error}") from error
    words = [_U64, _U64, _U64]
    for name, result, arguments in (
        ("rmp_update", _SIZE, words),
        ("rmp_fill", None, words),
        ("rmp_validate", _SIZE, [_U64, ctypes.c_int, _COUNTER]),
        ("rmp_count", _SIZE, [_U64, _COUNTER]),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = [_TABLE, _SIZE, _SIZE, *arguments]
    return library


def cache_directory() -> Path:
    """Where compiled libraries are kept."""
    return places.cache()


def _build() -> Path:
    compiler = shutil.which(os.environ.get("CC") or "gcc") or shutil.which("cc")
    if compiler is None:
        raise BuildError("no C compiler (gcc) found")
    source = SOURCE.read_bytes()
    # The resolved path stands for the compiler's version: asking it would cost more than loading.
    identity = [os.path.realpath(compiler), platform.machine(), *FLAGS]
    key = hashlib.sha256("\0".join(identity).encode() + source).hexdigest()[:16]
    target = cache_directory() / f"rmp_fast-{key}.so"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            output = Path(scratch) / target.name
            command = [compiler, *FLAGS, "-o", str(output), str(SOURCE)]
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
            )
            if result.returncode:
                raise BuildError(f"{compiler} failed:\n{result.stderr}")
            output.replace(target)  # atomic: two processes may build at once
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"cannot build {SOURCE.name}: {error}") from error
    return target
