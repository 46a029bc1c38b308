# SPDX-License-Identifier: GPL-2.0-only
"""Kernels under test: a base, a series on top, a small configuration, built and kept.

A built kernel is found by content: the tree's hash, the configuration and the compiler.
The same series on the same base is built once, whatever it is called.  The compiler is gcc, or
what the environment names as for kbuild (harness/kbuild/toolchain.py).
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildError, ResourceError, UsageError
from harness.host_packages import ensure_packages
from harness.hostcpu import need_x86_64
from harness.kbuild import base as bases
from harness.kbuild import cache, origin
from harness.kbuild.config import (
    Fragment,
    allconfig,
    find_fragments,
    read_config,
    wanted_symbols,
)
from harness.kbuild.distribution import complete, differences
from harness.kbuild.gitbase import GitRevision
from harness.kbuild.gitrun import GitError
from harness.kbuild.kernel import (
    KernelBuild,
    check_name,
    directory_of,
    get,
    list_kernels,
    name_file,
    read_built,
)
from harness.kbuild.make import make_kernel, objects_name
from harness.kbuild.own import sources_digest
from harness.kbuild.progress import Progress
from harness.kbuild.series import Patch, patchset_hash
from harness.kbuild.threeway import ThreeWay
from harness.kbuild.toolchain import Toolchain
from harness.kbuild.tree import KernelTree, Merge, PatchError
from harness.report.words import counted

__all__ = [
    "KernelBuild",
    "Patch",
    "PatchResult",
    "Plan",
    "Progress",
    "applied",
    "apply_series",
    "build",
    "build_every",
    "get",
    "list_kernels",
    "plan",
]

PACKAGES = (
    "git",
    # Sources come as .tar.xz; bases in git need neither.
    "tar",
    "xz-utils",
    "make",
    "gcc",
    "binutils",
    "libc6-dev",
    "flex",
    "bison",
    "bc",
    # objtool, for the ORC unwinder.
    "libelf-dev",
    "libssl-dev",
    "ccache",
    # kbuild's own scripts.
    "bash",
    "mawk",
    "diffutils",
    "findutils",
    "gzip",
)
"""What a build runs and includes, with base.config (all that 6.12's was seen to); Debian's names.
`snptest doctor` looks for these."""
RECIPE = 2
"""Part of every key: raise it when the way of building changes what comes out."""

Series = Path | str | Sequence[str | Path] | None


@dataclass(frozen=True, slots=True)
class PatchResult:
    """What became of the tree after one patch of a series."""

    number: int
    """Counted from 1; 0 is the base."""
    patch: str
    error: str | None
    """The first error, and where the log is; None where it built."""
    seconds: float
    judged: bool = True
    """False where this computer is to blame: memory, disk, a tool."""


def build(
    name: str,
    base: str,
    series: Series = None,
    *,
    revision: str | None = None,
    until: int | None = None,
    fragments: Sequence[str] = (),
    commits: Sequence[str] = (),
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> KernelBuild:
    """Build base plus series, or find it in the cache, and call it `name`.

    `base` and `revision` are as harness.kbuild.base has them, `series` as series.load_all;
    only the first `until` patches are applied.  `commits` are those that applied() returned for
    the same base and series: nothing is applied again then.  `fragments` go on top of
    kernels/base.config: names of others there ("debug"), or paths.  UsageError: the name, base,
    series or fragment cannot be used.  BuildError: a patch does not apply, a symbol did not
    take, the compiler complained.
    """
    job = _Job(name, base, series, revision, until, fragments, progress or Progress(), say)
    job.begin(quiet=bool(commits))
    with cache.locked(say):
        with cache.locked(say, cache.SOURCES):
            commit = job.known(commits) or [job.base_commit(), *job.patch_commits()][-1]
        job.make(commit)
        job.record(commit, job.patches)
    return get(name)


def applied(
    base: str,
    series: Series = None,
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> list[tuple[str, Patch | None]]:
    """Return the commit of the base, with None, and that after each patch, with the patch.

    Errors as of build().
    """
    job = _Job("applied", base, series, None, None, (), progress or Progress(), say)
    job.begin()
    with cache.locked(say, cache.SOURCES):
        commits = [job.base_commit(), *job.patch_commits()]
    return list(zip(commits, [None, *job.patches], strict=True))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build would be made of."""

    base: str
    commit: str
    """The base's commit in our tree."""
    patches: tuple[Patch, ...]
    label: str
    """The version of the series that was taken, "" where it has none."""
    named: str
    """The base that the series names, a commit; "" where it names none."""


def plan(
    name: str,
    base: str,
    series: Series = None,
    *,
    revision: str | None = None,
    until: int | None = None,
    fragments: Sequence[str] = (),
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> Plan:
    """Resolve, check and apply what build() would build, and stop: no compiler is needed.

    UsageError also where a patch does not apply.
    """
    job = _Job(name, base, series, revision, until, fragments, progress or Progress(), say)
    job.say_notes()
    with cache.locked(say, cache.SOURCES):
        commit = job.base_commit()
        job.complete(commit)
        try:
            for _ in job.patch_commits():
                pass
        except DoesNotApply as error:
            raise UsageError(error.message, error.hint) from None
    whole = job.series
    return Plan(str(job.base), commit, tuple(job.patches), whole.label, whole.base_commit)


def build_every(
    name: str,
    base: str,
    series: Series,
    *,
    revision: str | None = None,
    until: int | None = None,
    fragments: Sequence[str] = (),
    keep_going: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[PatchResult]:
    """Build after each patch in turn, as maintainers ask of a series; yield what became of it.

    Ends behind the first that does not build, unless told to keep going; one that does not
    apply, or a computer without memory or disk, always ends it.  The last one that built is
    called `name`.
    """
    job = _Job(name, base, series, revision, until, fragments, progress or Progress(), say)
    if not job.patches:
        raise UsageError("--every needs a series", "--series says which")
    job.begin()
    with cache.locked(say):
        with cache.locked(say, cache.SOURCES):
            job.base_commit()
        commits = job.patch_commits()
        for number, patch in enumerate(job.patches, 1):
            job.label = f"patch {number} of {len(job.patches)}: "
            began = datetime.datetime.now(datetime.UTC)
            error: str | None = None
            applies = judged = True
            try:
                try:
                    with cache.locked(say, cache.SOURCES):
                        commit = next(commits)
                except BuildError:
                    applies = False
                    raise
                job.make(commit)
                job.record(commit, job.patches[:number])
            except BuildError as caught:
                error = f"{caught.message}\n  {caught.hint}" if caught.hint else caught.message
                judged = not isinstance(caught, ResourceError)
            seconds = (datetime.datetime.now(datetime.UTC) - began).total_seconds()
            yield PatchResult(number, patch.name, error, round(seconds, 1), judged)
            if error is not None and (not keep_going or not applies or not judged):
                return


class DoesNotApply(BuildError):
    """A patch does not apply to the base."""


def apply_series(tree: KernelTree, commit: str, patches: list[Patch]) -> str:
    """Apply patches on top of a commit; BuildError names patch, file and hunk that fail."""
    return [commit, *_apply(tree, commit, patches)][-1]


def _apply(
    tree: KernelTree,
    commit: str,
    patches: Sequence[Patch],
    merge: Merge | None = None,
    hint: Callable[[], str] = lambda: "is the series made for this base?",
) -> Iterator[str]:
    try:
        yield from tree.apply_each(commit, [(patch.name, patch.diff) for patch in patches], merge)
    except PatchError as error:
        raise DoesNotApply(error.summary, hint()) from None


class _Job:
    """What one call of build() is to make.  Everything but its making needs no lock."""

    def __init__(
        self,
        name: str,
        base: str,
        series: Series,
        revision: str | None,
        until: int | None,
        fragments: Sequence[str],
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        self.name = check_name(name)
        self.configuration = find_fragments(fragments)
        self.progress = progress
        self.label = ""
        specs: Sequence[str | Path]
        specs = [] if series is None else [series] if isinstance(series, str | Path) else series
        self._say = say
        self.toolchain = Toolchain.of_environment()
        self.base, self.series = origin.resolve(base, revision, specs)
        self.patches: Sequence[Patch] = self.series.patches
        if until is not None:
            if not 0 <= until <= len(self.patches):
                whole = counted(len(self.patches), "patch", "patches")
                raise UsageError(f"--until {until}: the series has {whole}")
            self.patches = self.patches[:until]

    def begin(self, *, quiet: bool = False) -> None:
        """Get what building needs; say what was decided about the series, unless told before."""
        need_x86_64("building kernels")
        cache.check_buildable("kernels")
        ensure_packages(PACKAGES, "for building kernels", self._say)
        self.toolchain.check()
        if not quiet:
            self.say_notes()

    def say_notes(self) -> None:
        """Say what was decided about the series."""
        for note in self.series.notes:
            self._say(note)

    def known(self, commits: Sequence[str]) -> str | None:
        """Return the commit after the last patch, where it is among these and still there."""
        self.tree = KernelTree(cache.root() / "linux")
        number = len(self.patches)
        if commits:
            self._commit = commits[0]
        return self.tree.commit_of(commits[number]) if number < len(commits) else None

    def base_commit(self) -> str:
        """Return the base's commit in the cache's tree."""
        self.tree = KernelTree(cache.root() / "linux")
        self._commit = self.base.commit_of(self.tree, self.progress)
        return self._commit

    def patch_commits(self) -> Iterator[str]:
        """Return the commit after each patch."""
        if self.patches:
            self.progress.stage(f"applying {counted(len(self.patches), 'patch', 'patches')}")
        places = (bases.repository_of(self.base), self.series.repository)
        repositories = list(dict.fromkeys(each for each in places if each is not None))
        merge = ThreeWay(self.tree, repositories, self._say)

        def hint() -> str:
            return origin.hint(self.base, self._commit, self.series)

        return _apply(self.tree, self._commit, self.patches, merge, hint)

    def make(self, commit: str) -> None:
        """Compile a commit, unless that was done."""
        self.complete(commit)
        key = _key(self.tree, commit, self.configuration, self.toolchain)
        if read_built(key) is None:
            make_kernel(
                directory_of(key),
                self.tree,
                commit,
                self.configuration,
                self.progress,
                self.label,
                self.toolchain,
            )
        wanted = wanted_symbols(self.configuration, self.tree.version_of(commit))
        built = read_config((directory_of(key) / "config").read_text())
        if lost := differences(wanted, built):
            self._say(lost)

    def complete(self, commit: str) -> None:
        """Get what the configuration lies on, now that the version of Linux is known."""
        try:
            version = self.tree.version_of(commit)
        except GitError as error:
            raise BuildError(f"the base is no kernel tree: {error}") from None
        self.configuration = complete(self.configuration, version, self.progress)

    def record(self, commit: str, patches: Sequence[Patch]) -> None:
        """Give a commit's kernel the name."""
        key = _key(self.tree, commit, self.configuration, self.toolchain)
        fragments = [each.name for each in self.configuration]
        version = self.tree.version_of(commit)
        where = {}
        if isinstance(self.base, GitRevision):
            where = {"base_commit": self._commit, "base_url": self.base.public_url(self._commit)}
        record = {
            "key": key,
            "commit": commit,
            **where,
            "patchset": patchset_hash(patches),
            "base": str(self.base),
            "source": self.base.source,
            "series": [patch.name for patch in patches],
            "fragments": fragments,
            "objects": objects_name(fragments, version, self.toolchain.tag),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        cache.write_json(name_file(self.name), record)
        # What it was built from stays in git as long as it.
        self.tree.git("update-ref", f"refs/snptest/kernel/{key}", commit)


def _key(tree: KernelTree, commit: str, configuration: list[Fragment], toolchain: Toolchain) -> str:
    """Hash everything that decides what is built."""
    try:
        version = tree.version_of(commit)
    except GitError as error:
        raise BuildError(f"the base is no kernel tree: {error}") from None
    symbols = allconfig(wanted_symbols(configuration, version))
    content = hashlib.sha256()
    recipe = f"{RECIPE} {sources_digest()}"
    for part in (recipe, tree.tree_of(commit), toolchain.version(), symbols):
        content.update(part.encode() + b"\0")
    return content.hexdigest()[:20]
