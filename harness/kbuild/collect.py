# SPDX-License-Identifier: GPL-2.0-only
"""Removing kernels that are no longer wanted, and what only they needed.

Names go first: the ones told, the ones too old, or all but the newest.  Then everything goes
that no name refers to: kernels, object directories and work trees of configurations and
versions that no kernel has, bases in git.  What is in use stays (KernelBuild.in_use).
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.kbuild import cache
from harness.kbuild.kernel import (
    KernelBuild,
    is_in_use,
    list_kernels,
    name_file,
    stale_names,
)
from harness.kbuild.make import objects_name
from harness.kbuild.snapshot import Directory
from harness.kbuild.tree import KernelTree

BASES = "refs/snptest/base/"
REPACK_TIMEOUT = 1800.0


@dataclass(frozen=True, slots=True)
class Freed:
    """Something that was removed, or would be."""

    what: str
    size: int


def collect(
    names: Sequence[str] = (),
    *,
    keep: int | None = None,
    older: float | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> list[Freed]:
    """Remove kernels, and what nothing refers to; return what that freed.

    `names` are removed, or those built more than `older` days ago, or all but the newest
    `keep`; without any of these only what no name refers to.  UsageError: no such name.
    """
    with cache.locked(say), cache.locked(say, cache.SOURCES):
        known = list_kernels()
        gone = {kernel.name for kernel in _chosen(known, names, keep, older)} | set(stale_names())
        busy = sorted(each.name for each in known if each.name in gone and is_in_use(each.key))
        for name in busy:
            say(f"{name} is in use and stays")
        gone -= set(busy)
        stay = [kernel for kernel in known if kernel.name not in gone]
        freed = []
        for name in sorted(gone):
            freed.append(Freed(f"name {name}", 0))
            if not dry_run:
                name_file(name).unlink(missing_ok=True)
        for what, path in _unreferenced(stay):
            freed.append(Freed(what, cache.size(path)))
            if not dry_run:
                _remove(path)
        freed += _bases(stay, dry_run)
        return freed


def holds() -> str:
    """Say in one line what the cache holds."""
    parts = []
    for title, pattern in (
        ("kernels", "kernels"),
        ("objects", "build"),
        ("sources", "linux*"),
        ("ccache", "ccache"),
    ):
        size = sum(cache.size(path) for path in cache.root().glob(pattern))
        parts.append(f"{title} {size / 1e6:.0f} MB")
    return f"the cache holds: {', '.join(parts)}"


def _chosen(
    known: list[KernelBuild], names: Sequence[str], keep: int | None, older: float | None
) -> Iterator[KernelBuild]:
    by_name = {kernel.name: kernel for kernel in known}
    for name in names:
        if name not in by_name and name not in stale_names():
            raise UsageError(f"no kernel is called {name}", f"known: {', '.join(by_name) or '-'}")
        if name in by_name:
            yield by_name[name]
    if keep is not None:
        yield from known[keep:]  # the newest are first
    if older is not None:
        limit = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=older)
        yield from (
            kernel for kernel in known if datetime.datetime.fromisoformat(kernel.created) < limit
        )


def _unreferenced(stay: list[KernelBuild]) -> Iterator[tuple[str, Path]]:
    """Find what no kernel that stays refers to."""
    root = cache.root()
    versions = {f"{kernel.version[0]}.{kernel.version[1]}" for kernel in stay}
    needed = {
        "kernels": {kernel.key for kernel in stay},
        "build": {each.objects or objects_name(each.fragments, each.version) for each in stay},
        "indexes": {Directory(Path(kernel.source)).index.name for kernel in stay if kernel.source},
        "downloads": set(),
    }
    for folder, names in needed.items():
        for path in _entries(root / folder):
            if path.name not in names and not (folder == "kernels" and is_in_use(path.name)):
                yield f"{folder}/{path.name}", path
    for path in _entries(root):
        if path.name.startswith("linux-") and path.name.removeprefix("linux-") not in versions:
            yield f"work tree {path.name}", path


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _bases(stay: list[KernelBuild], dry_run: bool) -> Iterator[Freed]:
    """Drop the sources that no kernel was built from out of git."""
    path = cache.root() / "linux"
    if not (path / ".git").is_dir():
        return
    tree = KernelTree(path)
    commits = [kernel.commit for kernel in stay if tree.commit_of(kernel.commit or "-")]
    needed = set(tree.git("rev-list", *commits).split()) if commits else set()
    refs = tree.git("for-each-ref", "--format=%(objectname) %(refname)", "refs/snptest/")
    stale = [line.split(" ")[1] for line in refs.splitlines() if line.split(" ")[0] not in needed]
    for ref in stale:
        if ref.startswith(BASES):
            yield Freed(f"sources {ref.removeprefix(BASES)}", 0)
    if dry_run or not stale:
        return
    before = cache.size(path / ".git")
    for ref in stale:
        tree.git("update-ref", "-d", ref)
    tree.git("worktree", "prune")
    # Without a search for new deltas: that would take minutes, and save little.
    options = ("-a", "-d", "-l", "-q", "--window=0")
    tree.git("repack", *options, timeout=REPACK_TIMEOUT)
    tree.git("prune", "--expire=now", timeout=REPACK_TIMEOUT)
    yield Freed("unneeded git objects", max(before - cache.size(path / ".git"), 0))
