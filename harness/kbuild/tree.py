# SPDX-License-Identifier: GPL-2.0-only
"""The sources of kernels, kept in one git repository with a work tree a version; and QEMU's.

Base sources become commits by a fast import straight from the tarball, series become
commits on top of them, made in an index of their own.  The work tree only ever moves by
`git checkout`: a file that does not change keeps its time stamp, and make and ccache
rebuild what differs and nothing else.  (Unpacking a tarball over the tree would bring
back old time stamps and leave stale objects.)  All commits are reproducible: author and
dates are pinned.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import UsageError
from harness.kbuild.gitrun import GIT_TIMEOUT, IDENTITY, GitError, run_git
from harness.kbuild.importer import import_tarball

Merge = Callable[[str, bytes, Path], str | None]
"""Applies a patch, by name, to an index in another way; returns None, or why it did not go."""
_VERSION = re.compile(r"^(VERSION|PATCHLEVEL|SUBLEVEL) *= *([0-9]+)$", re.MULTILINE)


class SourceTree:
    """A git repository of one program's sources, with a work tree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / ".git").is_dir():
            path.mkdir(parents=True, exist_ok=True)
            # As said here, not as init.* or git's next default has it: SHA-256 could fetch nothing.
            fixed = ("--object-format=sha1", "--template=")
            self.git("init", "-q", "--initial-branch=snptest", *fixed)
            # Trees are big and short-lived here: time counts for more than disk.
            self.git("config", "core.compression", "1")
            self.git("config", "gc.auto", "0")
            self.git("config", "core.autocrlf", "false")

    def git(
        self,
        *arguments: str,
        stdin: bytes = b"",
        index: Path | None = None,
        files: Path | None = None,
        timeout: float = GIT_TIMEOUT,
    ) -> str:
        """Run git in the repository and return what it printed; GitError when it fails."""
        out = self.git_bytes(*arguments, stdin=stdin, index=index, files=files, timeout=timeout)
        return out.decode(errors="replace").strip()

    def git_bytes(
        self,
        *arguments: str,
        stdin: bytes = b"",
        index: Path | None = None,
        files: Path | None = None,
        timeout: float = GIT_TIMEOUT,
    ) -> bytes:
        """Do the same without decoding.  `files` is another directory to take as work tree."""
        environment = dict(IDENTITY)
        if index is not None:
            environment["GIT_INDEX_FILE"] = str(index)
        if files is not None:
            environment["GIT_DIR"] = str(self.path / ".git")
            environment["GIT_WORK_TREE"] = str(files)
        return run_git(arguments, files or self.path, environment, stdin, timeout)

    def commit_of(self, name: str) -> str | None:
        """Return the commit of a name, None where there is none."""
        try:
            return self.git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        except GitError:
            return None

    def tree_of(self, commit: str) -> str:
        """Return the hash of a commit's content."""
        return self.git("rev-parse", f"{commit}^{{tree}}")

    def checkout(self, commit: str, files: Path | None = None) -> None:
        """Move a work tree (its own, unless told) to a commit, touching only what differs."""
        files = files or self.path
        folder = Path(
            run_git(["rev-parse", "--absolute-git-dir"], files, IDENTITY).decode().strip()
        )
        # The caller holds the cache's lock: whoever left this one behind was killed.
        (folder / "index.lock").unlink(missing_ok=True)
        arguments = ["checkout", "--quiet", "--force", "--detach", commit]
        run_git(arguments, files, IDENTITY)

    def import_tarball(
        self, tarball: Path, ref: str, progress: Callable[[int], None] = lambda count: None
    ) -> str:
        """Make a commit of a tarball's content (its top directory stripped); return it."""
        import_tarball(self.path, tarball, ref, progress)
        return self.git("rev-parse", "--verify", ref)

    def apply(self, base: str, patches: list[tuple[str, bytes]]) -> str:
        """Apply diffs in order on top of a commit, one commit each; return the last.

        The work tree is not touched.  PatchError names the first that does not apply.
        """
        return ([base] + list(self.apply_each(base, patches)))[-1]

    def apply_each(
        self, base: str, patches: list[tuple[str, bytes]], merge: Merge | None = None
    ) -> Iterator[str]:
        """Do the same, and return the commit after each; `merge` tries what does not apply."""
        commit = base
        with tempfile.TemporaryDirectory(prefix="snptest-index-") as scratch:
            index = Path(scratch) / "index"
            self.git("read-tree", base, index=index)
            for name, diff in patches:
                try:
                    self.git(
                        "apply", "--cached", "--whitespace=nowarn", "-", stdin=diff, index=index
                    )
                except GitError as error:
                    reason = merge(name, diff, index) if merge is not None else ""
                    if reason is not None:
                        raise PatchError(name, diff, str(error), reason) from None
                commit = self.commit(self.git("write-tree", index=index), name, commit)
                yield commit

    def commit(self, tree: str, message: str, parent: str | None = None) -> str:
        """Make a commit of a tree object; the same again gives the same commit."""
        parents = () if parent is None else ("-p", parent)
        return self.git("commit-tree", tree, *parents, "-m", message)

    def changed_files(self, old: str, new: str) -> list[str] | None:
        """List the files that differ between two commits; None where one is not there."""
        try:
            listing = self.git_bytes("diff-tree", "-r", "-z", "--name-only", old, new)
        except GitError:
            return None
        return [os.fsdecode(path) for path in listing.split(b"\0") if path]

    def diff(self, old: str, new: str, paths: list[str]) -> bytes:
        """Return the diff of some paths between two commits."""
        arguments = ("diff", "--binary", "--full-index", "--no-renames", old, new, "--", *paths)
        return self.git_bytes(*arguments)


class KernelTree(SourceTree):
    """One of kernel sources, whose commits have versions: a work tree for each."""

    def check_out_version(self, commit: str) -> Path:
        """Check a commit out in the work tree for its version; return that.

        Each major.minor version has a work tree of its own, so that going from one to another
        and back gives no file a new time stamp.  The first version has the repository's.
        """
        with contextlib.suppress(GitError):  # not set, as it should be
            self.git("config", "--get", "core.ignorecase", "true")
            raise UsageError(
                f"{self.path} lies where x.h and X.H are one file, and Linux has such names",
                "let XDG_CACHE_HOME name a folder on another file system",
            )
        version = self.version_of(commit)[:2]
        files = self.path
        try:
            if self.version_of("HEAD")[:2] != version:
                files = self.path.with_name(f"{self.path.name}-{version[0]}.{version[1]}")
        except GitError:
            pass  # nothing is checked out yet
        if not (files / ".git").exists():
            self.git("worktree", "prune")
            self.git("worktree", "add", "--quiet", "--no-checkout", "--detach", str(files), commit)
        self.checkout(commit, files)
        return files

    def version_of(self, commit: str) -> tuple[int, int, int]:
        """Return a commit's version, as its Makefile has it; GitError where that has none."""
        found = dict(_VERSION.findall(self.git("show", f"{commit}:Makefile")))
        try:
            return int(found["VERSION"]), int(found["PATCHLEVEL"]), int(found["SUBLEVEL"])
        except KeyError:
            raise GitError("its Makefile has no version") from None


class PatchError(Exception):
    """A patch does not apply; `summary` names patch, file and hunk."""

    def __init__(self, name: str, diff: bytes, output: str, merge: str = "") -> None:
        self.name = name
        self.output = output
        self.summary = _first_complaint(name, diff, output)
        if merge:
            self.summary += f"; by a three-way merge: {merge}"
        super().__init__(self.summary)


def _first_complaint(name: str, diff: bytes, output: str) -> str:
    """Say which file and hunk of a patch git complained of."""
    for line in output.splitlines():
        text = line.removeprefix("error: ")
        if text.startswith("patch failed: "):
            file, _, number = text.removeprefix("patch failed: ").rpartition(":")
            return f"{name} does not apply: {file}, hunk {_hunk(diff, file, number)}"
        if text.startswith("corrupt patch"):
            return f"{name} is damaged: {text}"
        if ": " in text and not text.endswith("patch does not apply"):
            return f"{name} does not apply: {text}"
    return f"{name} does not apply: {output or 'git gave no reason'}"


def _hunk(diff: bytes, file: str, number: str) -> str:
    """Find the hunk header for a file's old line number: '2 of 5 (@@ -10,7 +10,8 @@ f)'."""
    hunks: list[str] = []
    inside = False
    for raw in diff.decode(errors="replace").splitlines():
        if raw.startswith(("--- a/", "+++ b/")):
            inside = raw[6:].split("\t")[0] == file or (inside and raw.startswith("+++"))
        elif inside and raw.startswith("@@ -"):
            hunks.append(raw)
    for position, header in enumerate(hunks, 1):
        if header[4:].split(" ")[0].split(",")[0] == number:
            return f"{position} of {len(hunks)} ({header})"
    return f"at line {number}"
