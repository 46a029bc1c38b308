# SPDX-License-Identifier: GPL-2.0-only
"""The firmware a PC boots a kernel with: SeaBIOS and QEMU's option ROMs.

QEMU's own tarball has them.  Debian's lacks them: they come from its packages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.errors import BuildError
from harness.host_packages import ensure_packages
from harness.kbuild.gitrun import GitError
from harness.kbuild.tree import SourceTree

ROMS = {
    "bios-256k.bin": "SeaBIOS",
    "linuxboot_dma.bin": "loads what -kernel names",
    "kvmvapic.bin": "the local APIC asks for it",
}
PACKAGES = ("seabios", "qemu-system-data")
FOLDERS = (Path("/usr/share/seabios"), Path("/usr/share/qemu"))


def find(tree: SourceTree, commit: str, say: Callable[[str], None]) -> dict[str, bytes]:
    """Return the content of each ROM, from the sources or from the distribution's packages."""
    found = {}
    for name in ROMS:
        try:
            found[name] = tree.git_bytes("show", f"{commit}:pc-bios/{name}")
        except GitError:
            break
    else:
        return found
    if not _all_installed():
        ensure_packages(PACKAGES, "for the SNP machine's firmware", say)
    return {name: _installed(name).read_bytes() for name in ROMS}


def _all_installed() -> bool:
    return all(any((folder / name).is_file() for folder in FOLDERS) for name in ROMS)


def _installed(name: str) -> Path:
    for folder in FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise BuildError(f"{name} is neither in QEMU's sources nor in {', '.join(map(str, FOLDERS))}")
