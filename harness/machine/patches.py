# SPDX-License-Identifier: GPL-2.0-only
"""The patches that make QEMU the SNP machine, and their way into its sources."""

from __future__ import annotations

import email
import email.policy
import hashlib
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildError
from harness.kbuild.gitrun import GitError
from harness.kbuild.series import load_files
from harness.kbuild.tree import PatchError, SourceTree
from harness.places import ROOT
from harness.report import sanitize

PATCHES = ROOT / "qemu/patches"
_TAG = re.compile(r"^\[[^]]*\] *")


@dataclass(frozen=True, slots=True)
class MachinePatch:
    """A patch of the series."""

    name: str
    """Of its file."""
    subject: str
    diff: bytes


def load(folder: Path = PATCHES) -> list[MachinePatch]:
    """Read the series in order; none is a series, too."""
    files = sorted(folder.glob("*.patch"))
    return [
        MachinePatch(each.name, _subject(file), each.diff)
        for file, each in zip(files, load_files(files), strict=True)
    ]


def digest(patches: Iterable[MachinePatch]) -> str:
    """Return a hash of what the patches change, in their order."""
    content = hashlib.sha256()
    for patch in patches:
        content.update(hashlib.sha256(patch.diff).digest())
    return content.hexdigest()


def apply(tree: SourceTree, commit: str, patches: Iterable[MachinePatch], version: str) -> str:
    """Apply patches on top of a commit; BuildError names patch, file and hunk that fail."""
    try:
        return tree.apply(commit, [(patch.name, patch.diff) for patch in patches])
    except PatchError as error:
        raise BuildError(
            f"{error.summary} (QEMU {version})",
            "qemu/README.md says which QEMU the patches are made for; --source names another",
        ) from None


def prepare(tree: SourceTree, commit: str) -> str:
    """Return a commit whose sources configure as they are.

    Debian's tarball lacks the firmware of pc-bios; meson.build would look for edk2's.
    """
    path = "meson.build"
    try:
        tree.git("cat-file", "-e", f"{commit}:pc-bios/edk2-x86_64-code.fd.bz2")
        return commit
    except GitError:
        text = tree.git_bytes("show", f"{commit}:{path}")
    changed = text.replace(b"unpack_edk2_blobs = bzip2.found()", b"unpack_edk2_blobs = false")
    if changed == text:
        return commit
    blob = tree.git("hash-object", "-w", "--stdin", stdin=changed)
    with tempfile.TemporaryDirectory(prefix="snptest-index-") as scratch:
        index = Path(scratch) / "index"
        tree.git("read-tree", commit, index=index)
        tree.git("update-index", "--cacheinfo", f"100644,{blob},{path}", index=index)
        written = tree.git("write-tree", index=index)
    return tree.commit(written, "no firmware is unpacked: there is none", commit)


def _subject(file: Path) -> str:
    message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
    return sanitize.line(_TAG.sub("", str(message["Subject"] or file.stem)))
