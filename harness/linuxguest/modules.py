# SPDX-License-Identifier: GPL-2.0-only
"""Modules of a guest's kernel: which files a list of names means, and in what order they load.

A folder of modules is lib/modules/RELEASE as `make modules_install` and depmod leave it.
"""

from __future__ import annotations

import gzip
import lzma
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildError, UsageError
from harness.host_packages import ensure_packages
from harness.tables import close_to

DECOMPRESS_TIMEOUT = 60.0
_ENDS = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list of names comes to with a kernel."""

    files: tuple[str, ...] = ()
    """To be loaded in this order, relative to the folder: kernel/fs/configfs/configfs.ko.xz."""
    builtin: tuple[str, ...] = ()
    """Names of what the kernel has built in."""
    missing: tuple[str, ...] = ()
    """Optional names that the kernel does not have."""


def plain_name(path: str) -> str:
    """Return a module's name as the kernel has it: sev_guest of .../sev-guest.ko.xz."""
    name = path.rpartition("/")[2]
    for end in _ENDS:
        name = name.removesuffix(end)
    return name.replace("-", "_")


def select(folder: Path, names: Sequence[str]) -> Selection:
    """Find the modules that are named, and what they need; one whose name ends in '?' may lack.

    UsageError where the kernel has no such module.  BuildError: the folder has no modules.dep.
    """
    needs = _dependencies(folder)
    files = {plain_name(each): each for each in needs}
    inside = {plain_name(each) for each in _lines(folder / "modules.builtin")}
    wanted: dict[str, None] = {}
    builtin, missing = [], []
    for given in names:
        name = plain_name(given.removesuffix("?"))
        if name in files:
            # modprobe loads what stands last first.
            wanted.update(dict.fromkeys((*reversed(needs[files[name]]), files[name])))
        elif name in inside:
            builtin.append(name)
        elif given.endswith("?"):
            missing.append(name)
        else:
            raise UsageError(
                f"kernel {folder.name} has no module {name}, nor is it built in",
                close_to(name, [*files, *inside]) or f"'{name}?' takes it where there is one",
            )
    return Selection(tuple(wanted), tuple(builtin), tuple(missing))


def content(file: Path, data: bytes) -> bytes:
    """Return a module as insmod takes it, from its file's content; BuildError: it is damaged."""
    try:
        if file.suffix == ".xz":
            data = lzma.decompress(data)
        elif file.suffix == ".gz":
            data = gzip.decompress(data)
        elif file.suffix == ".zst":
            data = _without_zstd(data)
    except (lzma.LZMAError, OSError, EOFError, subprocess.SubprocessError) as error:
        raise BuildError(f"module {file} cannot be decompressed: {error}") from None
    if not data.startswith(b"\x7fELF"):
        raise BuildError(f"module {file} is no ELF file")
    return data


def _without_zstd(data: bytes) -> bytes:
    """Python has it as of 3.14 only."""
    ensure_packages(["zstd"], "for a guest's modules")
    done = subprocess.run(
        ["zstd", "-dc"], input=data, capture_output=True, timeout=DECOMPRESS_TIMEOUT, check=True
    )
    return done.stdout


def _dependencies(folder: Path) -> dict[str, list[str]]:
    """Return what modules.dep says: a file, and the files that it needs."""
    found = {}
    for line in _lines(folder / "modules.dep"):
        file, colon, needed = line.partition(":")
        if not colon:
            raise BuildError(f"{folder / 'modules.dep'} is damaged: {line[:80]!r}; want FILE: ...")
        found[file] = needed.split()
    return found


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(
            f"{path} cannot be read: {error}", "depmod and `make modules_install` write it"
        ) from None
