# SPDX-License-Identifier: GPL-2.0-only
"""Kernels under test: a base, a series on top, a small configuration, built and kept.

A built kernel is found by content: the tree's hash, the configuration and the compiler.
The same series on the same base is built once, whatever it is called.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import BuildError, UsageError
from harness.host_packages import ensure_packages
from harness.kbuild import cache, debsource
from harness.kbuild.compile import Compiler, compiler_version
from harness.kbuild.config import FRAGMENTS, check_config, read_fragment
from harness.kbuild.progress import Progress
from harness.kbuild.series import Patch, load_series
from harness.kbuild.tree import KernelTree, PatchError

__all__ = ["KernelBuild", "Progress", "apply_series", "build", "get", "list_kernels"]

PACKAGES = (
    "git",
    "xz-utils",
    "make",
    "gcc",
    "libc6-dev",
    "flex",
    "bison",
    "bc",
    "libelf-dev",
    "libssl-dev",
    "ccache",
    "kmod",
)
RECIPE = 1
"""Part of every key: raise it when the way of building changes what comes out."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class KernelBuild:
    """A kernel that was built, and what from."""

    name: str
    key: str
    base: str
    series: tuple[str, ...]
    release: str
    tree: str
    compiler: str
    modules: tuple[str, ...]
    seconds: float
    created: str
    directory: Path

    @property
    def bzimage(self) -> Path:
        """The image to boot."""
        return self.directory / "bzImage"

    @property
    def vmlinux(self) -> Path:
        """The image with symbols."""
        return self.directory / "vmlinux"

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.directory / "config"

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(each.stat().st_size for each in self.directory.iterdir())


def build(
    name: str,
    base: str,
    series: Path | None = None,
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> KernelBuild:
    """Build base plus series, or find it in the cache, and call it `name`.

    UsageError: the name, base or series cannot be used.  BuildError: a patch does not apply,
    a symbol did not take, the compiler complained.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a kernel", "use letters, digits, '.', '_', '-'")
    patches = load_series(series) if series is not None else []
    progress = progress or Progress()
    ensure_packages(PACKAGES, "for building kernels", say)
    source = debsource.resolve(base)
    with cache.locked(say):
        tree = KernelTree(cache.root() / "linux")
        commit = debsource.commit_of(source, tree, progress)
        if patches:
            progress.stage(f"applying {len(patches)} patches")
            commit = apply_series(tree, commit, patches)
        fragments = [FRAGMENTS / "base.config"]
        key = _key(tree.tree_of(commit), fragments)
        directory = cache.root() / "kernels" / key
        if cache.read_json(directory / "kernel.json") is None:
            _build_into(directory, tree, commit, fragments, progress)
        record = {
            "key": key,
            "base": str(source),
            "series": [patch.name for patch in patches],
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        cache.write_json(_name_file(name), record)
    return get(name)


def apply_series(tree: KernelTree, commit: str, patches: list[Patch]) -> str:
    """Apply patches on top of a commit; BuildError names patch, file and hunk that fail."""
    try:
        return tree.apply(commit, [(patch.name, patch.diff) for patch in patches])
    except PatchError as error:
        raise BuildError(error.summary, "is the series made for this base?") from None


def get(name: str) -> KernelBuild:
    """Find a kernel by name; UsageError where nothing was built under it."""
    record = cache.read_json(_name_file(name)) if _NAME.fullmatch(name) else None
    if record is None:
        known = ", ".join(sorted(each.name for each in list_kernels())) or "none was built yet"
        raise UsageError(f"no kernel is called {name}", f"known: {known}; see `snptest build`")
    directory = cache.root() / "kernels" / str(record["key"])
    built = cache.read_json(directory / "kernel.json")
    if built is None:
        raise UsageError(f"the files of kernel {name} are gone", "build it again")
    return KernelBuild(
        name=name,
        key=str(record["key"]),
        base=str(record["base"]),
        series=tuple(record["series"]),
        release=str(built["release"]),
        tree=str(built["tree"]),
        compiler=str(built["compiler"]),
        modules=tuple(built["modules"]),
        seconds=float(built["seconds"]),
        created=str(record["created"]),
        directory=directory,
    )


def list_kernels() -> list[KernelBuild]:
    """List the kernels whose files are there, the newest first."""
    names = [each.stem for each in (cache.root() / "names").glob("*.json")]
    found = []
    for name in names:
        record = cache.read_json(_name_file(name)) or {}
        if cache.read_json(cache.root() / "kernels" / str(record.get("key")) / "kernel.json"):
            found.append(get(name))
    return sorted(found, key=lambda kernel: kernel.created, reverse=True)


@dataclass(frozen=True, slots=True)
class _Built:
    """What kernel.json holds: what follows from the content alone."""

    release: str
    tree: str
    compiler: str
    modules: list[str]
    seconds: float


def _build_into(
    directory: Path, tree: KernelTree, commit: str, fragments: list[Path], progress: Progress
) -> None:
    """Compile a commit and put the result where its key belongs, whole or not at all."""
    began = time.monotonic()
    progress.stage("checking out")
    tree.checkout(commit)
    make = Compiler(tree.path, cache.root() / "build" / "base")
    progress.stage("configuring")
    config = make.configure(fragments)
    wanted = [symbol for each in fragments for symbol in read_fragment(each.read_text())]
    check_config(wanted, config)
    progress.stage("compiling")
    log = cache.root() / "build.log"
    make.build(log, progress)
    modules = make.modules()
    files = [
        make.objects / "arch/x86/boot/bzImage",
        make.objects / "vmlinux",
        make.objects / "System.map",
        *modules,
    ]
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=directory.parent))
    try:
        for file in files:
            shutil.copy2(file, scratch / file.name)
        (scratch / "config").write_text(config)
        shutil.copy2(log, scratch / "build.log")
        built = _Built(
            release=make.release(),
            tree=tree.tree_of(commit),
            compiler=compiler_version(),
            modules=[module.name for module in modules],
            seconds=round(time.monotonic() - began, 1),
        )
        cache.write_json(scratch / "kernel.json", asdict(built))
        scratch.chmod(0o755)
        if directory.exists():  # left without its kernel.json
            shutil.rmtree(directory)
        os.rename(scratch, directory)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _key(tree: str, fragments: list[Path]) -> str:
    """Hash everything that decides what is built."""
    content = hashlib.sha256()
    for part in (str(RECIPE), tree, compiler_version(), *(each.read_text() for each in fragments)):
        content.update(part.encode() + b"\0")
    return content.hexdigest()[:20]


def _name_file(name: str) -> Path:
    return cache.root() / "names" / f"{name}.json"
