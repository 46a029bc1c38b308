# SPDX-License-Identifier: GPL-2.0-only
"""Built kernels as the cache knows them: a directory by content, and names for it.

kernels/KEY/ holds what follows from the content alone:

    bzImage, config, build.log
    vmlinux             with DWARF
    *.ko                as they are sent to the target, without debug information
    debug/*.ko          the same with it
    scripts/            decode_stacktrace.sh and faddr2line of the kernel's own tree
    kernel.json         the rest of what KernelBuild says

names/NAME.json holds what the name stands for: the key, the base, the series, the fragments.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.kbuild import buildid, cache

FORMAT = 2
"""Of kernel.json.  What an older snptest wrote is ignored, and built again when asked for."""

_NEEDED = {"release", "version", "tree", "compiler", "modules", "extra_modules", "seconds"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class KernelBuild:
    """A kernel that was built, and what from."""

    name: str
    key: str
    base: str
    series: tuple[str, ...]
    fragments: tuple[str, ...]
    """Names of the configuration's fragments; the first is base."""
    release: str
    version: tuple[int, int, int]
    """As the Makefile has it: (6, 12, 107)."""
    tree: str
    """The git hash of the sources' content."""
    commit: str
    """The commit that was built, in the cache's repository; "" where that is not known."""
    compiler: str
    modules: tuple[str, ...]
    """What a boot loads, in this order: kvm, kvm-amd and what they need."""
    extra_modules: tuple[str, ...]
    """Other modules, which only a test loads."""
    source: str | None
    """The directory that it was built from, where --base named one."""
    seconds: float
    created: str
    directory: Path
    base_commit: str = ""
    """The commit that --base named in a git repository; "" of other bases."""
    base_url: str = ""
    """Where anybody can fetch that; "" where it is not known."""
    patchset: str = ""
    """KCIDB's hash of the patches; "" of none."""
    objects: str = ""
    """The folder of its objects in build/ of the cache; "" where an older snptest built it."""

    @property
    def bzimage(self) -> Path:
        """The image to boot."""
        return self.directory / "bzImage"

    @property
    def vmlinux(self) -> Path:
        """The image with symbols and DWARF."""
        return self.directory / "vmlinux"

    @property
    def build_id(self) -> str:
        """What the running kernel shows in /sys/kernel/notes, too; "" where vmlinux has none."""
        return buildid.of_elf(self.vmlinux)

    def module_ids(self) -> dict[str, str]:
        """Return the build ids of `modules` by the names that they have in /sys/module.

        What is a module may be all that differs: two series that change KVM have one vmlinux.
        """
        paths = [self.directory / name for name in self.modules]
        return {path.stem.replace("-", "_"): buildid.of_elf(path) for path in paths}

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.directory / "config"

    @property
    def debug_modules(self) -> Path:
        """The directory of the modules with DWARF."""
        return self.directory / "debug"

    @property
    def decoder(self) -> Path:
        """The tree's decode_stacktrace.sh; a path to nothing where the tree has none.

        Run it as: decoder VMLINUX auto DEBUG_MODULES < trace.
        """
        return self.directory / "scripts" / "decode_stacktrace.sh"

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return cache.size(self.directory)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the kernel's files from being collected as long as the block runs."""
        try:
            file = (self.directory / "kernel.json").open()
        except FileNotFoundError:
            raise UsageError(
                f"the files of kernel {self.name} are gone", "build it again"
            ) from None
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield


def check_name(name: str) -> str:
    """Return a name that can be given to a kernel; UsageError for others."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a kernel", "use letters, digits, '.', '_', '-'")
    return name


def name_file(name: str) -> Path:
    """Return the file that says what a name stands for."""
    return cache.root() / "names" / f"{name}.json"


def directory_of(key: str) -> Path:
    """Return where a kernel belongs."""
    return cache.root() / "kernels" / key


def read_built(key: str) -> dict[str, Any] | None:
    """Return a kernel's kernel.json; None where it is not there, or of another format."""
    built = cache.read_json(directory_of(key) / "kernel.json")
    if built is None or built.get("format") != FORMAT or not built.keys() >= _NEEDED:
        return None
    return built


def is_in_use(key: str) -> bool:
    """Whether somebody is in a kernel's in_use()."""
    try:
        with (directory_of(key) / "kernel.json").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def get(name: str) -> KernelBuild:
    """Find a kernel by name; UsageError where nothing was built under it."""
    record = cache.read_json(name_file(name)) if _NAME.fullmatch(name) else None
    if record is None:
        known = ", ".join(sorted(each.name for each in list_kernels())) or "none was built yet"
        raise UsageError(f"no kernel is called {name}", f"known: {known}; see `snptest build`")
    kernel = _kernel(name, record)
    if kernel is None:
        raise UsageError(
            f"the files of kernel {name} are gone, or of an older snptest", "build it again"
        )
    return kernel


def list_kernels() -> list[KernelBuild]:
    """List the kernels whose files are there, the newest first."""
    found = [kernel for _, kernel in _names() if kernel is not None]
    return sorted(found, key=lambda kernel: kernel.created, reverse=True)


def stale_names() -> list[str]:
    """List the names whose kernels are gone or were left by an older snptest."""
    return sorted(name for name, kernel in _names() if kernel is None)


def _names() -> Iterator[tuple[str, KernelBuild | None]]:
    for file in (cache.root() / "names").glob("*.json"):
        yield file.stem, _kernel(file.stem, cache.read_json(file) or {})


def _kernel(name: str, record: dict[str, Any]) -> KernelBuild | None:
    """Put a kernel together; None where something of it is not there."""
    key = str(record.get("key", ""))
    built = read_built(key) if re.fullmatch(r"[0-9a-f]{8,64}", key) else None
    if built is None:
        return None
    try:
        major, minor, patch = built["version"]
        source = record.get("source")
        return KernelBuild(
            name=name,
            key=key,
            base=str(record["base"]),
            series=tuple(map(str, record["series"])),
            fragments=tuple(map(str, record["fragments"])),
            release=str(built["release"]),
            version=(int(major), int(minor), int(patch)),
            tree=str(built["tree"]),
            commit=str(record.get("commit", "")),
            base_commit=str(record.get("base_commit", "")),
            base_url=str(record.get("base_url", "")),
            patchset=str(record.get("patchset", "")),
            objects=str(record.get("objects", "")),
            compiler=str(built["compiler"]),
            modules=tuple(map(str, built["modules"])),
            extra_modules=tuple(map(str, built["extra_modules"])),
            source=None if source is None else str(source),
            seconds=float(built["seconds"]),
            created=str(record["created"]),
            directory=directory_of(key),
        )
    except (KeyError, TypeError, ValueError):
        return None
