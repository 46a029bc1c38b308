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
FEW = 40
ALWAYS = 4
"""Steps that a make with nothing to do takes."""
MODULES = 1
MODULE = 2
"""MODPOST; and for each folder with a module two links, the object's and the module's."""
IMAGE = 35
"""From vmlinux.o to bzImage: symbols twice, sections sorted, compressed, setup code."""


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
    modules: set[str] = set()
    folders: set[str] = set()
    count = 0
    found = False
    for folder, _, files in os.walk(objects):
        for name in files:
            if not (name.startswith(".") and name.endswith(".o.cmd")):
                continue
            found = True
            with open(os.path.join(folder, name), "rb") as command:
                content = command.read()
            # 66 MB of names: taking all apart costs a second, looking for a few a tenth of it.
            if len(wanted) <= FEW and not any(each in content for each in wanted):
                continue
            if wanted.isdisjoint(_WORD.findall(content)):
                continue
            count += 1
            (modules if b" -DMODULE " in content else folders).add(folder)
    if not found:
        return None
    total = ALWAYS + count
    if modules:
        total += MODULES + MODULE * len(modules)
    if folders:
        # Above each object its folders' archives are made anew, and what they end in.
        total += IMAGE + len(
            {
                parent
                for folder in folders
                for parent in (Path(folder), *Path(folder).parents)
                if objects in (parent, *parent.parents)
            }
        )
    return total
