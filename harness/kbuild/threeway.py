# SPDX-License-Identifier: GPL-2.0-only
"""Patches whose context has changed: a three-way merge, as `git am -3` does it.

A git patch names the blobs that it was made on.  Where such a blob is in our tree, or in the
user's repository, git can merge what the patch changes with what the base has.  Everything
happens in an index: a conflict leaves no markers anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.kbuild import diffs
from harness.kbuild.gitrun import OFFLINE, GitError, run_git
from harness.kbuild.tree import SourceTree

_INDEX = re.compile(rb"index ([0-9a-f]{7,64})\.\.[0-9a-f]{7,64}")
_CONFLICT = re.compile(r"^U (.+)$", re.MULTILINE)


class ThreeWay:
    """Merges patches that do not apply as they are, and says so."""

    def __init__(
        self, tree: SourceTree, repositories: Sequence[Path], say: Callable[[str], None]
    ) -> None:
        self._tree = tree
        self._repositories = repositories
        self._say = say

    def __call__(self, name: str, diff: bytes, index: Path) -> str | None:
        """Apply a patch to an index; None where it went well, else what conflicts ("": nothing).

        After a failure the index is of no use any more.
        """
        found = self._with_blobs(diff)
        if found is None:
            return ""
        before = self._tree.git("write-tree", index=index)
        arguments = ("apply", "--cached", "--3way", "--whitespace=nowarn", "-")
        try:
            self._tree.git(*arguments, stdin=found, index=index)
            after = self._tree.git("write-tree", index=index)
        except GitError as error:
            files = ", ".join(dict.fromkeys(_CONFLICT.findall(str(error))))
            return f"conflict in {files}" if files else ""
        if after == before:
            self._say(f"{name} changes nothing: the base has all of it already")
        else:
            self._say(f"{name} is applied by a three-way merge: its context differs in the base")
        return None

    def _with_blobs(self, diff: bytes) -> bytes | None:
        """Return a patch that names its blobs in full, once they are in our tree.

        None where one of them cannot be had.
        """
        lines = []
        for kind, raw in diffs.lines_of(diff):
            match = _INDEX.match(raw) if kind is diffs.Line.HEADER else None
            if match is None or not int(match[1], 16):
                lines.append(raw)
                continue
            blob = self._blob(match[1].decode())
            if blob is None:
                return None
            lines.append(b"index " + blob.encode() + raw[match.end(1) :])
        return b"".join(lines)

    def _blob(self, name: str) -> str | None:
        """Return the whole name of a blob in our tree, copied from the user's repository if new."""
        revision = f"{name}^{{blob}}"
        look = ("rev-parse", "--verify", "--quiet", revision)
        try:
            return self._tree.git(*look)
        except GitError:
            pass  # not there, or the name is not clear
        for repository in self._repositories:
            try:
                # What a partial clone lacks is not fetched.
                content = run_git(["cat-file", "blob", revision], repository, OFFLINE)
            except GitError:
                continue
            return self._tree.git("hash-object", "-w", "--stdin", stdin=content)
        return None
