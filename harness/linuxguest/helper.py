# SPDX-License-Identifier: GPL-2.0-only
"""Programs of guests/linux that run in the guest: compiled here, linked statically, kept."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from harness.command import captured
from harness.errors import BuildError
from harness.host_packages import ensure_packages
from harness.linuxguest.catalogue import FILE
from harness.linuxguest.store import home

SOURCES = FILE.parent
GUESTREQ = SOURCES / "guestreq.c"
FLAGS = ("-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-Wl,--build-id=none")
COMPILE_TIMEOUT = 120.0
_KEPT = ("PATH", "HOME", "TMPDIR")
"""Of the caller's environment: C_INCLUDE_PATH and the like would be in what is kept for others."""


def program(source: Path = GUESTREQ) -> Path:
    """Return a program of one C file, compiled where it is not kept; BuildError: it does not."""
    ensure_packages(["gcc", "binutils", "libc6-dev"], "for a guest's programs")
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | {"LC_ALL": "C"}
    version = captured(["gcc", "--version"], COMPILE_TIMEOUT, "gcc --version did not end").stdout
    content = source.read_bytes() + repr((FLAGS, version)).encode()
    folder = home() / "programs"
    target = folder / f"{source.stem}-{hashlib.sha256(content).hexdigest()[:20]}"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as scratch:
        made = Path(scratch) / source.stem
        command: list[str | Path] = ["gcc", *FLAGS, "-o", made, source]
        late = f"gcc has not compiled {source.name}"
        done = captured(command, COMPILE_TIMEOUT, late, environment=environment)
        if done.returncode:
            said = done.stderr.strip()[-2000:]
            raise BuildError(f"gcc cannot build {source.name} for guests\n{said}")
        made.replace(target)
    return target
