# SPDX-License-Identifier: GPL-2.0-only
"""A source directory as it is, edits and all, as a commit: the developer's own tree.

git looks at it through an index of ours, kept from one time to the next, so that only files
whose time stamp or size has changed are read.  Nothing is written into the directory, and
what its own git has as index, branches or stashes does not matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildError, UsageError
from harness.kbuild import cache
from harness.kbuild.gitrun import GitError, run_git
from harness.kbuild.progress import Progress
from harness.kbuild.tree import SourceTree
from harness.report import sanitize
from harness.report.words import counted

# On top of a tree's own .gitignore, and stronger.  The last that matches counts.
_RULES = (
    # Debian's ends in '/*', made for its packaging, and lacks what upstream takes back of '.*'.
    *("!/*", "!.*", "!tags/"),
    # What kbuild leaves, also where no .gitignore says so.
    *("*.o", "*.a", "*.ko", "*.mod", "*.mod.c", ".*.cmd", ".*.d", "*.order", ".tmp_*", "*~"),
    *("/.config*", "/.version", "/vmlinux*", "/System.map", "/Module.symvers", "/modules.*"),
    ".git",
)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of kernel sources, taken as it is at the time."""

    path: Path

    @property
    def ref(self) -> str:
        """The name of its newest commit in the tree."""
        return f"refs/snptest/base/directory-{self._digest}"

    @property
    def index(self) -> Path:
        """The index of its files."""
        return cache.root() / "indexes" / self._digest

    @property
    def source(self) -> str | None:
        """The directory."""
        return str(self.path)

    @property
    def _digest(self) -> str:
        return hashlib.sha256(str(self.path).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return str(self.path)

    def commit_of(self, tree: SourceTree, progress: Progress) -> str:
        """Make a commit of what is in the directory now; the same content gives the same one."""
        check_sources(self.path)
        if cache.root().resolve() in self.path.parents:
            raise UsageError(f"--base {self.path} is snptest's own", "copy it somewhere else")
        first = not self.index.exists()
        progress.stage(f"{'reading' if first else 'looking for changes in'} {self.path}")
        self.index.parent.mkdir(parents=True, exist_ok=True)
        # Left by one who was killed: the caller holds the cache's lock.
        self.index.with_name(f"{self.index.name}.lock").unlink(missing_ok=True)
        try:
            known = _paths(tree.git_bytes("ls-files", "-z", index=self.index, files=self.path))
            present = self._present(tree)
            self._update(tree, known - present, "--force-remove")
            self._update(tree, present, "--add", "--remove")
            written = tree.git("write-tree", index=self.index)
        except GitError as error:
            self.index.unlink(missing_ok=True)  # the next time from the start
            raise BuildError(f"{self.path} could not be read: {error.reason}") from None
        commit = tree.commit(written, f"source directory {self.path}")
        tree.git("update-ref", self.ref, commit)
        return commit

    def _present(self, tree: SourceTree) -> set[bytes]:
        """List the files that are sources: not what a build in the directory has made."""
        listing = ["ls-files", "-z", "--cached", "--others"]
        rules = ["--exclude-per-directory=.gitignore"] + [f"--exclude={rule}" for rule in _RULES]
        top = self.path / ".gitignore"
        debian = top.is_file() and "/*" in top.read_text(errors="replace").splitlines()
        if (self.path / ".git").exists():
            listing += rules if debian else ["--exclude-standard"]
            found = run_git(listing, self.path, {"LC_ALL": "C"})
            self._check_whole()
        else:
            listing += rules
            found = tree.git_bytes(*listing, index=self.index, files=self.path)
        # A path with a slash at its end is a repository inside this one.
        return {path for path in _paths(found) if not path.endswith(b"/")}

    def _check_whole(self) -> None:
        """Raise UsageError for a sparse checkout: what is left out was not removed."""
        with contextlib.suppress(GitError):  # not set
            run_git(["config", "--get", "core.sparseCheckout", "true"], self.path, {"LC_ALL": "C"})
            listed = run_git(["ls-files", "-t", "-z"], self.path, {"LC_ALL": "C"})
            skipped = [each[2:] for each in _paths(listed) if each.startswith(b"S ")]
            absent = [each for each in skipped if not (self.path / os.fsdecode(each)).exists()]
            if absent:
                raise UsageError(
                    f"{self.path} is a sparse checkout: {counted(len(absent), 'file')} of it, "
                    f"such as {sanitize.line(min(absent))}, are not there",
                    f"git -C {shlex.quote(str(self.path))} sparse-checkout disable; or name a "
                    "revision: --base PATH@HEAD",
                )

    def _update(self, tree: SourceTree, paths: set[bytes], *options: str) -> None:
        if paths:
            stdin = b"\0".join(sorted(paths))
            arguments = ("update-index", *options, "-z", "--stdin")
            tree.git_bytes(*arguments, stdin=stdin, index=self.index, files=self.path)


def check_sources(path: Path) -> None:
    """Raise UsageError for a directory that holds no kernel's sources."""
    if not (path / "Makefile").is_file() or not (path / "Kconfig").is_file():
        raise UsageError(
            f"--base {path}: no kernel sources are there (no Makefile and Kconfig)",
            "name the top of the source tree; of a bare git repository name a revision too",
        )


def _paths(listing: bytes) -> set[bytes]:
    return set(listing.split(b"\0")) - {b""}
