# SPDX-License-Identifier: GPL-2.0-only
"""Machines that were built, as the cache knows them: a directory by content, and names for it.

machine/KEY/ holds qemu-system-x86_64, firmware/ (for QEMU's -L), build.log and machine.json;
machine/NAME.json says which KEY a name means: `snp` is the machine, `plain` the same QEMU
without the patches.  machine/source/ is the git repository of QEMU's sources, machine/objects/
where they are compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.kbuild import cache
from harness.machine import patches

FORMAT = 1
"""Of machine.json.  What an older snptest wrote is ignored, and built again when asked for."""

SNP = "snp"
PLAIN = "plain"
PROGRAM = "qemu-system-x86_64"
_NEEDED = {
    "snp",
    "version",
    "source",
    "checked",
    "patches",
    "digest",
    "compiler",
    "seconds",
    "created",
}


@dataclass(frozen=True, slots=True)
class MachineBuild:
    """A QEMU that was built, and what from."""

    key: str
    directory: Path
    version: str
    """QEMU's: 10.0.13."""
    source: str
    checked: str
    """What the source was checked by."""
    patches: tuple[tuple[str, str], ...]
    """File and subject of each."""
    digest: str
    """Of the patches' content, as patches.digest has it."""
    snp: bool
    """Whether it has SNP: by patches, or because its sources had it."""
    compiler: str
    seconds: float
    created: str

    @property
    def qemu(self) -> Path:
        """The program."""
        return self.directory / PROGRAM

    @property
    def firmware(self) -> Path:
        """The folder for QEMU's -L."""
        return self.directory / "firmware"

    @property
    def stale(self) -> bool:
        """Whether the patches of this tree are other ones by now."""
        own = self.snp and not self.patches  # the sources have them
        return not own and patches.digest(patches.load()) != self.digest


def home() -> Path:
    """Return the machines' directory (not made yet, maybe)."""
    return cache.root() / "machine"


def read(key: str) -> MachineBuild | None:
    """Return the machine of a key; None where it is not there, or not whole."""
    directory = home() / key
    content = cache.read_json(directory / "machine.json")
    if content is None or content.get("format") != FORMAT or not content.keys() >= _NEEDED:
        return None
    if not (directory / PROGRAM).is_file():
        return None
    fields = {name: content[name] for name in _NEEDED - {"patches"}}
    listed = tuple((str(file), str(subject)) for file, subject in content["patches"])
    return MachineBuild(key=key, directory=directory, patches=listed, **fields)


def find(name: str = SNP) -> MachineBuild | None:
    """Return the machine of a name; None where none was built."""
    record = cache.read_json(home() / f"{name}.json")
    return read(str(record["key"])) if record and "key" in record else None
