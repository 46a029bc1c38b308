# SPDX-License-Identifier: GPL-2.0-only
"""Where sources, objects and built kernels are kept: $XDG_CACHE_HOME/snptest.

linux/           the work tree, a git repository
build/CONFIG-VERSION/  objects (O=); ccache/ the compiler's cache
downloads/       source packages while they are imported
kernels/KEY/     a built kernel (harness/kbuild/kernel.py says what is in it)
names/NAME.json  what `--kernel NAME` means
machine/        the SNP machine: its sources, objects and builds (harness/machine)
linuxguest/     firmware, kernels and initrds of Linux guests (harness/linuxguest)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import places
from harness.errors import BuildError, UsageError

LOCK_TIMEOUT = 3600.0
SOURCES = "sources.lock"
"""Lock of the git repository, held for seconds while a base and a series become commits."""
_NOT_FOR_MAKE = re.compile(r"[^\w./,@=+~-]")


def root() -> Path:
    """Return the cache's directory (not made yet, maybe)."""
    return places.cache()


def check_buildable(what: str) -> None:
    """Raise UsageError where the cache's path is none that make and configure can build in.

    Linux's Makefile and QEMU's configure refuse spaces and colons; the other letters mean
    something to make or to the shell that it starts.
    """
    if odd := _NOT_FOR_MAKE.findall(os.path.realpath(root())):
        letters = " ".join(dict.fromkeys("space" if each == " " else each for each in odd))
        raise UsageError(
            f"{what} cannot be built in {root()}: make takes no such letters in a path: {letters}",
            "let XDG_CACHE_HOME name another folder: XDG_CACHE_HOME=/var/tmp/cache snptest ...",
        )


@contextlib.contextmanager
def locked(say: Callable[[str], None], name: str = "lock") -> Iterator[None]:
    """Hold the cache: one build at a time.  A lock of a process that died is free.

    `name` is that of the lock: building kernels has one, their git repository (SOURCES) and QEMU
    have others.
    """
    root().mkdir(parents=True, exist_ok=True)
    with (root() / name).open("w") as file:
        deadline = time.monotonic() + LOCK_TIMEOUT
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    say("another build is under way: waiting for it")
                    waiting = True
                if time.monotonic() > deadline:
                    raise BuildError(
                        f"another build has held {root()} for {LOCK_TIMEOUT:g} s"
                    ) from None
                time.sleep(0.5)  # flock(2) offers no wait with a deadline
        yield


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.new")
    scratch.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    scratch.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Read such a file; None where it is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def downloads() -> Path:
    """Return the folder that downloads are unpacked from, emptied."""
    folder = root() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    return folder


def size(path: Path) -> int:
    """Return the bytes that a file or a directory with all in it takes on disk.

    Of a file that has several names each has its share.
    """
    found = _blocks(path)
    if path.is_dir() and not path.is_symlink():
        for folder, folders, files in os.walk(path):
            found += sum(_blocks(os.path.join(folder, each)) for each in folders)
            found += sum(_blocks(os.path.join(folder, each)) for each in files)
    return found


def _blocks(path: str | Path) -> int:
    status = os.lstat(path)
    shared = status.st_nlink if stat.S_ISREG(status.st_mode) else 1
    return status.st_blocks * 512 // shared


def keep(file: Path, folder: Path, like: Path | None) -> None:
    """Copy a file into a folder, as another name of its twin in `like` where that is the same.

    Of two kernels that differ in kvm.ko, vmlinux is most of the size, and the same.
    """
    twin = like / file.name if like is not None else None
    if twin is not None and twin.is_file() and filecmp.cmp(file, twin, shallow=False):
        try:
            os.link(twin, folder / file.name)
            return
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EXDEV):
                raise
    shutil.copy2(file, folder)
