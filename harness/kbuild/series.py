# SPDX-License-Identifier: GPL-2.0-only
"""Patch series as people have them: a directory, a quilt series, an mbox, one patch."""

from __future__ import annotations

import email
import mailbox
import re
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from harness.errors import UsageError

_DIFF = re.compile(rb"^(?:diff --git |--- (?:a/|/dev/null)|Index: )", re.MULTILINE)
_MAIL = re.compile(rb"\A(?:From [0-9a-f]{40} |From |From: |Return-Path: |Subject: |Received: )")
_COVER = re.compile(r"\[[^]]*\b0+/\d+[^]]*\]")


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch: what to call it, and its diff with whatever text came with it."""

    name: str
    diff: bytes


def load_series(path: Path) -> list[Patch]:
    """Read a series in order; UsageError says what is wrong with it."""
    if not path.exists():
        raise UsageError(f"{path} does not exist", "--series names a directory, an mbox or a patch")
    if path.is_file():
        content = path.read_bytes()
        if content.startswith(b"From ") and content.count(b"\nFrom ") > 0:
            patches = _from_mbox(path)
        else:
            patches = [_from_file(path)]
    elif (quilt := _quilt_series(path)) is not None:
        patches = [_from_file(each) for each in quilt]
    else:
        files = sorted(path.glob("*.patch")) + sorted(path.glob("*.diff"))
        patches = [_from_file(each) for each in files]
    real = [patch for patch in patches if not _is_cover(patch)]
    if not real:
        raise UsageError(f"{path} holds no patch", "patches end in .patch or .diff")
    for patch in real:
        if not _DIFF.search(patch.diff):
            raise UsageError(f"{path}: {patch.name} holds no diff")
    return real


def _quilt_series(path: Path) -> list[Path] | None:
    """Return the files a quilt series lists, None where there is no series file."""
    for folder in (path, path / "patches", path / "debian/patches"):
        listing = folder / "series"
        if not listing.is_file():
            continue
        files = []
        for number, line in enumerate(listing.read_text().splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if words[1:] not in ([], ["-p1"]):
                raise UsageError(f"{listing}:{number}: only -p1 patches can be applied")
            file = folder / words[0]
            if not file.is_file():
                raise UsageError(f"{listing}:{number}: {words[0]} is not there")
            files.append(file)
        return files
    return None


def _from_file(path: Path) -> Patch:
    content = path.read_bytes()
    if _MAIL.match(content):
        content = _body(email.message_from_bytes(content))
    return Patch(path.name, content)


def _from_mbox(path: Path) -> list[Patch]:
    patches = []
    for number, message in enumerate(mailbox.mbox(path, create=False), 1):
        subject = re.sub(r"\s+", " ", str(message["Subject"] or "no subject"))
        patches.append(Patch(f"{path.name}: mail {number}: {subject}", _body(message)))
    return patches


def _body(message: Message) -> bytes:
    """Return a mail's text, transfer encoding undone."""
    part = message
    while part.is_multipart():
        part = part.get_payload(0)  # type: ignore[assignment]
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.replace(b"\r\n", b"\n")


def _is_cover(patch: Patch) -> bool:
    return not _DIFF.search(patch.diff) and (
        "cover-letter" in patch.name or _COVER.search(patch.name) is not None
    )
