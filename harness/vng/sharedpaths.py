# SPDX-License-Identifier: GPL-2.0-only
"""What a command needs of the folders that a booted kernel has of its own.

The root file system is this machine's, but /tmp, /var/tmp and /run are the guest's own
(harness/vng/init.py): a program, a working directory or a file there would not be found.  Those
that the command names are put back, read-only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import UsageError

OWN = ("/tmp", "/var/tmp", "/run")
"""Folders in which something can be put back."""
NEVER = ("/dev", "/proc", "/sys")
"""Folders that are the guest's alone."""


def shared(command: Sequence[str], folder: Path) -> list[str]:
    """Return the paths to put back for a command that starts in a folder; none in another.

    Of the program, its folder; of what its arguments name, only that.  UsageError where the
    program or the folder is in a place that the guest cannot see.
    """
    program = _program(command, folder)
    for path in filter(None, (str(folder), program)):
        if (place := _place(path, NEVER)) and place != path:
            raise UsageError(
                f"{path} cannot be seen by the kernel: it has a {place} of its own",
                "start from another folder, or copy the program",
            )
    wanted = [str(folder)]
    if program and os.path.exists(program):
        wanted += [_with_siblings(each) for each in (program, os.path.realpath(program))]
    wanted += _named(command[1:], folder)
    found = [path for path in dict.fromkeys(wanted) if _place(path, OWN) not in ("", path)]
    return [path for path in found if not any(_below(path, each) for each in found)]


def unseen(command: Sequence[str], folder: Path) -> str:
    """Say what is left out of a folder in which only single files can be put back; else ""."""
    place = str(folder)
    if place not in OWN:
        return ""
    names = ", ".join(os.path.relpath(each, place) for each in shared(command, folder))
    seen = f"of this machine's it sees {names}" if names else "it is empty"
    return f"the kernel has a {place} of its own: {seen}"


def _program(command: Sequence[str], folder: Path) -> str:
    """Return the path of the program; "" where it is looked for in PATH."""
    return os.path.normpath(folder / command[0]) if "/" in command[0] else ""


def _with_siblings(program: str) -> str:
    """Return the folder of a program, for it may need what lies beside it."""
    parent = os.path.dirname(program)
    return program if parent in OWN else parent


def _named(words: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield the paths that exist and that words name, whole or behind a '='."""
    for word in words:
        for text in (word, word.partition("=")[2]):
            path = os.path.normpath(folder / text) if text and "\0" not in text else ""
            if path and len(text) < 4096 and os.path.exists(path):
                yield path


def _place(path: str, places: Sequence[str]) -> str:
    """Return the place that a path is, or lies below; "" where in none."""
    return next((each for each in places if path == each or _below(path, each)), "")


def _below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")
