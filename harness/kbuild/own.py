# SPDX-License-Identifier: GPL-2.0-only
"""Modules of our own (kernels/modules), built beside a kernel for those tests that look inside.

They depend on the kernel's headers and configuration, not on its code: after an edit of C files
alone they are taken as they are, which saves seconds of every edit.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from harness.kbuild import cache
from harness.kbuild.compile import Compiler
from harness.kbuild.config import FRAGMENTS, read_config
from harness.kbuild.tree import KernelTree

SOURCES = FRAGMENTS / "modules"
NEEDS = "CONFIG_KVM_AMD_SEV"
"""Without it nothing is there to be looked at."""
_STATE = "state.json"


def sources_digest() -> str:
    """Hash the modules' sources, for the kernels' keys."""
    content = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        content.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()


def build_own(make: Compiler, tree: KernelTree, commit: str, config: str) -> list[Path]:
    """Build our modules for the kernel that was just built in `make`; return the files."""
    if read_config(config).get(NEEDS) != "y":
        return []
    folder = make.objects / "snptest-modules"
    modules = [folder / f"{path.stem}.ko" for path in sorted(SOURCES.glob("*.c"))]
    wanted = {"sources": sources_digest(), "config": hashlib.sha256(config.encode()).hexdigest()}
    state = cache.read_json(folder / _STATE) or {}
    changed = tree.changed_files(str(state.get("commit")), commit)
    fresh = changed is not None and all(path.endswith(".c") for path in changed)
    if not fresh or any(state.get(key) != value for key, value in wanted.items()):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(SOURCES, folder)
        make.build_modules(folder)
        cache.write_json(folder / _STATE, {**wanted, "commit": commit})
    return modules
