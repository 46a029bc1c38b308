# SPDX-License-Identifier: GPL-2.0-only
"""What --base can name: a source package, a directory, a tarball, a revision in git."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import BuildError, UsageError
from harness.host_packages import ensure_packages
from harness.kbuild import debsource
from harness.kbuild.gitbase import GitRevision, is_repository, is_url
from harness.kbuild.gitrun import GitError
from harness.kbuild.progress import Progress
from harness.kbuild.snapshot import Directory
from harness.kbuild.tree import KernelTree
from harness.report import sanitize

TARBALLS = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".tar.zst")
HINT = (
    "a base is linux-source-6.12[=6.12.107], linux-source-7.x, a source directory, a tarball, "
    "PATH@REVISION or URL@REVISION in git, or PATH@auto: the base that the series names"
)


class Base(Protocol):
    """Sources that can become a commit in our tree."""

    @property
    def source(self) -> str | None:
        """The directory they are in, where they are taken as they are."""

    def commit_of(self, tree: KernelTree, progress: Progress) -> str:
        """Return their commit, made first where that has to be."""


@dataclass(frozen=True, slots=True)
class Tarball:
    """A tarball with the sources in one directory, as kernel.org has them."""

    path: Path

    @property
    def source(self) -> str | None:
        """No directory."""
        return None

    def __str__(self) -> str:
        return str(self.path)

    def commit_of(self, tree: KernelTree, progress: Progress) -> str:
        """Return its commit; a tarball of the same content is imported once."""
        with self.path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()[:16]
        ref = f"refs/snptest/base/tarball-{digest}"
        known = tree.commit_of(ref)
        if known:
            return known
        if self.path.suffix == ".zst" and shutil.which("zstd") is None:
            ensure_packages(["zstd"], "for unpacking kernel sources")
        progress.stage(f"importing {self.path.name} into git")
        try:
            commit = tree.import_tarball(self.path, ref, progress.count)
        except GitError as error:
            raise BuildError(f"{self.path} could not be imported: {error}") from None
        try:
            tree.version_of(commit)
        except GitError:
            tree.git("update-ref", "-d", ref)
            raise UsageError(f"--base {self.path} holds no kernel sources", HINT) from None
        return commit


def resolve(base: str, revision: str | None = None) -> Base:
    """Find out what a --base means, with --rev where that was given; UsageError if nothing."""
    if debsource.PATTERN.fullmatch(base) and not Path(base).exists():
        _no_revision(base, revision)
        return debsource.resolve(base)
    path = Path(base).expanduser()
    if is_url(base) and not path.exists():
        return _remote(base, revision)
    if not path.exists() and revision is None:
        path, revision = _split(base)
    if not path.exists():
        raise UsageError(f"--base {base}: no such file or directory", HINT)
    path = path.resolve()
    if path.is_file():
        _no_revision(base, revision)
        if not path.name.endswith(TARBALLS):
            raise UsageError(f"--base {base}: not a tarball ({', '.join(TARBALLS)})", HINT)
        return Tarball(path)
    if revision is not None:
        return GitRevision(str(path), revision)
    if is_repository(path) and not (path / ".git").exists():
        return GitRevision(str(path), "HEAD")  # bare: there are no files to take
    return Directory(path)


def repository_of(base: Base) -> Path | None:
    """Return the git repository on this machine that a base lies in; None where there is none."""
    where = base.where if isinstance(base, GitRevision) else base.source
    if where is None or is_url(where) or not is_repository(Path(where)):
        return None
    return Path(where)


def _remote(base: str, revision: str | None) -> GitRevision:
    """Take a URL apart: an '@' behind its last slash begins the revision."""
    if revision is None:
        folder, slash, last = base.rpartition("/")
        name, mark, found = last.partition("@")
        if slash and mark and name and found:
            return GitRevision(folder + slash + name, found)
        shown = sanitize.address(base)
        raise UsageError(f"--base {shown} needs a revision", "URL@TAG, or --rev BRANCH")
    return GitRevision(base, revision)


def _split(base: str) -> tuple[Path, str | None]:
    """Take PATH@REVISION apart, where PATH is there: the longest, for both may have an '@'.

    Jenkins has a folder job@2 beside job, where two builds run at once.
    """
    position = base.rfind("@")
    while position > 0:
        path = Path(base[:position]).expanduser()
        if path.is_dir() and base[position + 1 :]:
            return path, base[position + 1 :]
        position = base.rfind("@", 0, position)
    return Path(base).expanduser(), None


def _no_revision(base: str, revision: str | None) -> None:
    if revision is not None:
        raise UsageError(f"--base {base} has no revisions", "--rev is for git repositories")
