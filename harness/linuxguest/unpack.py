# SPDX-License-Identifier: GPL-2.0-only
"""What is taken out of unpacked packages, and where it lies afterwards.

Firmware and busybox are one file, under its own name.  A kernel is vmlinuz, config and
lib/modules/RELEASE, for which depmod writes what a package leaves to its installation.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.command import captured
from harness.errors import BuildError
from harness.host_packages import ensure_packages
from harness.linuxguest.catalogue import RELEASE, Wanted

IMAGE = "vmlinuz"
CONFIG = "config"
MODULES = "lib/modules"
DEPMOD_TIMEOUT = 300.0
_SBIN = "/usr/sbin:/sbin"
"""Where depmod is; no part of an ordinary user's PATH in Debian."""


def arrange(wanted: Wanted, release: str, root: Path, target: Path) -> None:
    """Move what a part consists of from unpacked packages to a folder; BuildError: it lacks."""
    image = _taken(wanted, root, wanted.file.replace(RELEASE, release))
    if wanted.kind != "kernel":
        shutil.move(image, target / image.name)
        return
    shutil.move(image, target / IMAGE)
    config = _taken(wanted, root, wanted.config.replace(RELEASE, release))
    shutil.move(config, target / CONFIG)
    modules = target / MODULES / release
    modules.parent.mkdir(parents=True)
    for folder in (root / "usr" / MODULES / release, root / MODULES / release):
        if folder.is_dir():
            shutil.move(folder, modules)
            break
    else:
        raise BuildError(f"{wanted.title}: its packages hold no modules of {release}")
    write_dependencies(target, release)


def write_dependencies(root: Path, release: str) -> None:
    """Let depmod write modules.dep and its kin below a root; BuildError where it fails."""
    ensure_packages(["kmod"], "for a guest's modules")
    program = shutil.which("depmod", path=f"{os.environ.get('PATH', '')}:{_SBIN}") or "depmod"
    command: list[str | Path] = [program, "-b", root, release]
    done = captured(command, DEPMOD_TIMEOUT, f"depmod for {release} did not end")
    if done.returncode:
        raise BuildError(f"depmod failed for {release}: {done.stderr.strip()[-500:]}")


def _taken(wanted: Wanted, root: Path, name: str) -> Path:
    """Return a file of the packages, which has to be there, and be no link out of them."""
    file = root / name
    if not file.is_file() or not file.resolve().is_relative_to(root.resolve()):
        raise BuildError(
            f"{wanted.title}: its packages hold no file {name}",
            "guests/linux/parts.toml says where it is expected",
        )
    return file
