# SPDX-License-Identifier: GPL-2.0-only
"""Kernels under test: a base, a series on top, a small configuration, built and kept.

A built kernel is found by content: the tree's hash, the configuration and the compiler.
The same series on the same base is built once, whatever it is called.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import BuildError
from harness.host_packages import ensure_packages
from harness.kbuild import cache, debsource
from harness.kbuild.compile import compiler_version
from harness.kbuild.config import Fragment, allconfig, find_fragments, wanted_symbols
from harness.kbuild.kernel import (
    KernelBuild,
    check_name,
    directory_of,
    get,
    list_kernels,
    name_file,
    read_built,
)
from harness.kbuild.make import make_kernel
from harness.kbuild.progress import Progress
from harness.kbuild.series import Patch, load_series
from harness.kbuild.tree import KernelTree, PatchError

__all__ = ["KernelBuild", "Progress", "apply_series", "build", "get", "list_kernels"]

PACKAGES = (
    "git",
    "xz-utils",
    "make",
    "gcc",
    "binutils",
    "libc6-dev",
    "flex",
    "bison",
    "bc",
    "libelf-dev",
    "libssl-dev",
    "ccache",
    "kmod",
)
RECIPE = 2
"""Part of every key: raise it when the way of building changes what comes out."""


def build(
    name: str,
    base: str,
    series: Path | None = None,
    *,
    fragments: Sequence[str] = (),
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> KernelBuild:
    """Build base plus series, or find it in the cache, and call it `name`.

    `fragments` go on top of kernels/base.config: names of others there ("debug"), or paths.
    UsageError: the name, base, series or fragment cannot be used.  BuildError: a patch does
    not apply, a symbol did not take, the compiler complained.
    """
    check_name(name)
    configuration = find_fragments(fragments)
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
        key = _key(tree, commit, configuration)
        if read_built(key) is None:
            make_kernel(directory_of(key), tree, commit, configuration, progress)
        record = {
            "key": key,
            "base": str(source),
            "series": [patch.name for patch in patches],
            "fragments": [each.name for each in configuration],
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        cache.write_json(name_file(name), record)
    return get(name)


def apply_series(tree: KernelTree, commit: str, patches: list[Patch]) -> str:
    """Apply patches on top of a commit; BuildError names patch, file and hunk that fail."""
    try:
        return tree.apply(commit, [(patch.name, patch.diff) for patch in patches])
    except PatchError as error:
        raise BuildError(error.summary, "is the series made for this base?") from None


def _key(tree: KernelTree, commit: str, configuration: list[Fragment]) -> str:
    """Hash everything that decides what is built."""
    symbols = allconfig(wanted_symbols(configuration, tree.version_of(commit)))
    content = hashlib.sha256()
    for part in (str(RECIPE), tree.tree_of(commit), compiler_version(), symbols):
        content.update(part.encode() + b"\0")
    return content.hexdigest()[:20]
