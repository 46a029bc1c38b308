# SPDX-License-Identifier: GPL-2.0-only
"""How many steps make has left, before it is asked: from what changed since it last ran.

kbuild keeps, beside each object, a .cmd file with all that the object depends on: sources,
headers, and the configuration's symbols as include/config/NAME.  Asking `make -n` would take
as long as a build that has nothing to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_WORD = re.compile(rb"[^\s\\()$]+")
LINKS = 6
"""Steps that every build with a new object takes besides: MODPOST, LD [M], vmlinux, bzImage..."""


def steps_left(
    objects: Path, source: Path, changed: Iterable[str], symbols: Iterable[str]
) -> int | None:
    """Count the objects that depend on files of the tree or on symbols, and what links them.

    None where nothing was built yet.
    """
    wanted = {b"include/config/" + name.removeprefix("CONFIG_").encode() for name in symbols}
    absolute = os.fsencode(source) + b"/"
    relative = os.fsencode(os.path.relpath(source, objects)) + b"/"
    for path in changed:
        wanted |= {absolute + path.encode(), relative + path.encode()}
    folders: set[str] = set()
    count = 0
    found = False
    for folder, _, files in os.walk(objects):
        for name in files:
            if not (name.startswith(".") and name.endswith(".o.cmd")):
                continue
            found = True
            with open(os.path.join(folder, name), "rb") as command:
                if wanted.isdisjoint(_WORD.findall(command.read())):
                    continue
            count += 1
            folders.add(folder)
    if not found:
        return None
    if not count:
        return 0
    # Above each object its folders' archives are made anew.
    parents = {
        str(parent)
        for folder in folders
        for parent in (Path(folder), *Path(folder).parents)
        if objects in (parent, *parent.parents)
    }
    return count + len(parents) + LINKS
