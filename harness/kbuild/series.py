# SPDX-License-Identifier: GPL-2.0-only
"""Patch series as people have them: directory, quilt, mbox, maildir, git range, mailing list."""

from __future__ import annotations

import contextlib
import email
import email.errors
import email.header
import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from harness.errors import UsageError
from harness.kbuild import gitbase, lore
from harness.report import sanitize

_DIFF = re.compile(rb"^(?:diff --git |--- (?:a/|/dev/null)|Index: )", re.MULTILINE)
_MAIL = re.compile(rb"\A(?:From [0-9a-f]{40} |From |From: |Return-Path: |Subject: |Received: )")
_FROM_LINE = re.compile(rb"^From \S+ .*\d:\d\d:\d\d .*\d{4}\r?$", re.MULTILINE)
_REPLY = re.compile(r"(?i)(?:re|aw|fwd?): ")
_NUMBER = re.compile(r"\[[^]]*\b(\d+)/(\d+)[^]]*\]")
_BRACKETS = re.compile(r"^(?:\[[^]]*\]\s*)+")
_AUTHOR = re.compile(rb"\s*From: ([^\n]+)\n")
_COVER = re.compile(r"\[[^]]*\b0+/\d+[^]]*\]")

HINT = (
    "a series is a folder of patches, a quilt series, an mbox, a maildir, a patch, "
    "REPOSITORY:A..B in git, or a message id of lore.kernel.org"
)


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch: what to call it, and its diff with whatever text came with it."""

    name: str
    diff: bytes
    subject: str = ""
    """Without "[PATCH n/m]"; "" where it is no mail."""
    author: str = ""

    @property
    def message(self) -> str:
        """What came before the diff: the log message, and what is below its "---"."""
        match = _DIFF.search(self.diff)
        text = self.diff[: match.start()] if match else self.diff
        return sanitize.text(text).strip()


def patchset_hash(patches: Sequence[Patch]) -> str:
    """Hash a series as KCIDB does: sha256sum *.patch | cut -c-64 | sha256sum; "" of none."""
    if not patches:
        return ""
    lines = [f"{hashlib.sha256(patch.diff).hexdigest()}\n" for patch in patches]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def load_all(specs: Sequence[str | Path], repository: Path | None = None) -> list[Patch]:
    """Read several series, one after the other.

    Each is a path (load_series), a message id or address of the list's archive, or a range of
    commits: REPOSITORY:A..B, or A..B of `repository`, the one that the base lies in.
    """
    patches: list[Patch] = []
    for spec in specs:
        patches += _load(spec, repository)
    return patches


def _load(spec: str | Path, repository: Path | None) -> list[Patch]:
    path = Path(spec).expanduser()
    if isinstance(spec, Path) or path.exists():
        return load_series(path)
    if (identifier := lore.message_id(spec)) is not None:
        with tempfile.TemporaryDirectory(prefix="snptest-series-") as folder:
            return load_series(lore.fetch(identifier, Path(folder)))
    if ".." in spec.rpartition("/")[2] and spec not in ("..", "../"):
        where, colon, commits = spec.rpartition(":")
        if colon:
            repository = Path(where).expanduser()
        if repository is None:
            raise UsageError(
                f"--series {spec}: a range of which repository?",
                "REPOSITORY:A..B, or a --base that lies in git",
            )
        found = gitbase.commits_between(repository, commits)
        return [Patch(sanitize.line(name), diff) for name, diff in found if diff]
    return load_series(path)


def load_series(path: Path) -> list[Patch]:
    """Read a series in order; UsageError says what is wrong with it."""
    if not path.exists():
        raise UsageError(f"{path} does not exist", HINT)
    if path.is_file():
        mails = _split_mbox(path.read_bytes())
        patches = _from_mails(path.name, mails) if len(mails) > 1 else [_from_file(path)]
    elif (quilt := _quilt_series(path)) is not None:
        patches = [_from_file(each) for each in quilt]
    elif all((path / each).is_dir() for each in ("cur", "new")):
        files = sorted((*(path / "cur").iterdir(), *(path / "new").iterdir()), key=_file_name)
        patches = _from_mails(
            path.name, [email.message_from_bytes(each.read_bytes()) for each in files]
        )
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
        return _from_mail(path.name, email.message_from_bytes(content))
    return Patch(sanitize.line(path.name), content)


def _from_mail(name: str, message: Message) -> Patch:
    subject = _BRACKETS.sub("", _subject(message))
    body = _body(message)
    # Who sends is not who wrote, where the text itself begins with that.
    other = _AUTHOR.match(body)
    author = sanitize.line(other[1]) if other else _header(message, "From")
    return Patch(sanitize.line(name), body, subject, author)


def _split_mbox(content: bytes) -> list[Message]:
    """Take an mbox apart.  A text's own "From now on" is no new mail (to mailbox.mbox it is)."""
    starts = [match.start() for match in _FROM_LINE.finditer(content)]
    if not starts or starts[0] != 0:
        return []
    ends = [*starts[1:], len(content)]
    return [
        email.message_from_bytes(content[start:end])
        for start, end in zip(starts, ends, strict=True)
    ]


def _file_name(path: Path) -> str:
    return path.name


def _from_mails(where: str, mails: list[Message]) -> list[Patch]:
    """Take the patches out of mails: of a thread, without cover letter and replies.

    They come in the order of their numbers, where these are of one series.
    """
    found: list[tuple[tuple[int, int], Patch]] = []
    for position, message in enumerate(mails, 1):
        subject = _subject(message)
        body = _body(message)
        if len(mails) > 1 and (not _DIFF.search(body) or _REPLY.match(subject)):
            continue
        number = _NUMBER.search(subject)
        order = (int(number[1]), int(number[2])) if number else (0, 0)
        found.append((order, _from_mail(f"{where}: mail {position}: {subject}", message)))
    if (
        len({order for order, _ in found}) == len(found)
        and len({each[1] for each, _ in found}) == 1
    ):
        found.sort(key=lambda each: each[0])
    return [patch for _, patch in found]


def _subject(message: Message) -> str:
    """Return a mail's subject on one line, its encoding undone."""
    return _header(message, "Subject") or "no subject"


def _header(message: Message, name: str) -> str:
    raw = str(message[name] or "")
    with contextlib.suppress(LookupError, UnicodeError, email.errors.HeaderParseError):
        raw = str(email.header.make_header(email.header.decode_header(raw)))
    return sanitize.line(raw)


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
