# SPDX-License-Identifier: GPL-2.0-only
"""Mails out of whatever holds them: an mbox, joined .eml, a maildir, a folder; packed or not."""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import email
import email.errors
import email.header
import email.utils
import gzip
import itertools
import lzma
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from harness.errors import UsageError
from harness.kbuild import diffs
from harness.kbuild.subject import parse
from harness.report import sanitize

LIMIT = 256 << 20
"""Bytes that an input may have, unpacked; the biggest thread of the kernel's lists has a tenth."""

_FROM_LINE = re.compile(
    rb"^From \S.*\d:\d\d.*\d{4}[ \t]*\r?\n(?=[A-Za-z][A-Za-z0-9-]*:|>From )", re.MULTILINE
)
"""What begins a mail in an mbox; below a text's own "From now on at 10:00 in 2026" is no header."""
_ID_LINE = re.compile(rb"(?i)^message-id:[ \t]*(?:\r?\n[ \t]+)?<", re.MULTILINE)
_FIELD = re.compile(rb"[!-9;-~]+:|[ \t]+\S")
_MAIL = re.compile(
    rb"(?:From [0-9a-f]{40,64} |From |(?i:from|return-path|subject|received|delivered-to|date"
    rb"|message-id|x-[a-z0-9-]+|to|mime-version|content-type|authentication-results"
    rb"|arc-[a-z-]+|dkim-[a-z-]+): ?)"
)
_NEXT = re.compile(rb"^Subject: .*\[[^\]\n]*PATCH[^\]\n]*\]", re.MULTILINE)
_ESCAPED = re.compile(rb"^>(>*From )", re.MULTILINE)
_PACKED: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", gzip.decompress),
    (b"\xfd7zXZ\x00", lzma.decompress),
    (b"BZh", bz2.decompress),
)
_PARTS = ("application/octet-stream", "application/mbox", "application/x-patch")


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail, or a patch that is none: its name, headers and text with the transfer undone."""

    name: str
    """What to call it: its file, or which one it is of an mbox."""
    text: bytes
    subject: str = ""
    """On one line, its encoding undone."""
    author: str = ""
    """From whom the mail came."""
    identifier: str = ""
    """Its message id, without < and >."""
    ancestors: tuple[str, ...] = ()
    """The ids of what it answers, the nearest first."""
    date: float = 0.0
    """When it was sent, seconds of the epoch; 0 where it does not say."""
    is_mail: bool = True
    answer: bool = False
    """Whether it was attached to an answer, whatever its own subject says."""


def read(path: Path, content: bytes | None = None) -> list[Mail]:
    """Read what a file holds: several mails, one, or a bare patch; UsageError where it cannot be.

    A single mail or patch is called as the file is, others "FILE: mail 3: SUBJECT".
    """
    content = _unpacked(path, path.read_bytes() if content is None else content)
    start = content[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise UsageError(
            f"{path} is a web page", "save the thread's mbox (t.mbox.gz), or give the message id"
        )
    found = [mail for each in _split(content) for mail in _taken_apart(path.name, _undone(each))]
    return renumbered(path.name, found) if len(found) > 1 else found


def read_maildir(path: Path) -> list[Mail]:
    """Read a maildir: the mails of cur and new, in the order of their names."""
    files = sorted((*(path / "cur").iterdir(), *(path / "new").iterdir()), key=lambda f: f.name)
    found = [mail for file in files for mail in _taken_apart(path.name, file.read_bytes())]
    return renumbered(path.name, found)


def renumbered(where: str, found: list[Mail]) -> list[Mail]:
    """Call each mail by where it is from, which one it is there, and its subject."""
    return [
        dataclasses.replace(
            mail, name=sanitize.line(f"{where}: mail {number}: {mail.subject or 'no subject'}")
        )
        for number, mail in enumerate(found, 1)
    ]


def looks_like_mail(content: bytes) -> bool:
    """Whether a file begins as mails and mailboxes do."""
    return _MAIL.match(_stripped(content[:4096])) is not None


def _unpacked(path: Path, content: bytes) -> bytes:
    """Unpack by what the content is: a browser unpacks t.mbox.gz, and leaves the name."""
    for _ in range(2):
        for magic, unpack in _PACKED:
            if content.startswith(magic):
                try:
                    content = unpack(content)
                except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
                    raise UsageError(f"{path} is damaged: {error}", "download it again") from None
                break
    if content.startswith((b"\x28\xb5\x2f\xfd", b"PK\x03\x04")):
        raise UsageError(f"{path} is a packed file of another kind", "unpack it first")
    if len(content) > LIMIT:
        raise UsageError(f"{path} has {len(content) >> 20} MB: no series is as long")
    return content


def _stripped(content: bytes) -> bytes:
    """Leave out a byte order mark and empty lines at the beginning."""
    return content.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")


def _split(content: bytes) -> list[bytes]:
    """Take apart what holds several mails; a bare patch is one piece."""
    content = _stripped(content)
    starts = [match.start() for match in _FROM_LINE.finditer(content)]
    if starts and (starts[0] == 0 or looks_like_mail(content)):
        bounds = [0, *(start for start in starts if start), len(content)]
        pieces = [content[a:b] for a, b in itertools.pairwise(bounds)]
    else:
        pieces = [content]
    # Where "From " lines tell mails apart, headers within one are quoted by it.
    return [
        each
        for piece in pieces
        for each in ([piece] if _FROM_LINE.match(piece) else _joined(piece))
    ]


def _joined(content: bytes) -> list[bytes]:
    """Take joined .eml files apart, between which nothing stands but an empty line, or less."""
    pieces: list[bytes] = []
    for piece in _at_headers(content):
        if pieces and diffs.has_diff(piece) and _lacks_diff(pieces[-1]):
            # A patch's message quotes a mail: what follows is its own diff.
            pieces[-1] += b"\n" + piece
        else:
            pieces.append(piece)
    return pieces


def _lacks_diff(piece: bytes) -> bool:
    """Whether a mail calls itself a patch, and has no diff."""
    if diffs.has_diff(piece):
        return False
    subject = header(email.message_from_bytes(piece), "Subject")
    told = parse(subject)
    called = re.match(r"\s*\[[^]]*PATCH", subject) is not None
    return called and told.number != 0 and not told.reply


def _at_headers(content: bytes) -> list[bytes]:
    """Split where headers of a mail begin."""
    pieces = []
    while looks_like_mail(content):
        end = _end_of_mail(content)
        if end is None:
            break
        pieces.append(content[:end])
        content = _stripped(content[end:])
    return [*pieces, content]


def _end_of_mail(content: bytes) -> int | None:
    """Return where the next of joined mails begins: at headers with an id, sender and subject."""
    head, _, _ = content.replace(b"\r\n", b"\n").partition(b"\n\n")
    position = len(head)
    if boundary := re.search(rb'(?is)\bboundary="?([^"\s;]+)', head):
        position = content.find(b"\n--" + boundary[1] + b"--", position)
        if position < 0:
            return None
    seen = position
    for match in _ID_LINE.finditer(content, position):
        if match.start() < seen:
            continue
        start, seen, names = _headers_around(content, match.start(), seen)
        if start > position and {b"from", b"subject"} <= names:
            return start
    return None


def _headers_around(content: bytes, position: int, first: int) -> tuple[int, int, set[bytes]]:
    """Return begin and end of the headers around a line, not before `first`, and their names."""
    start = position
    while start > first:
        above = content.rfind(b"\n", 0, start - 1) + 1
        if not _FIELD.match(content, above, start):
            break
        start = above
    names = set()
    end = start
    while end < len(content) and _FIELD.match(content, end):
        after = content.find(b"\n", end) + 1 or len(content)
        names.add(content[end:after].partition(b":")[0].lower())
        end = after
    return start, end, names


def _undone(piece: bytes) -> bytes:
    """Undo the ">From " of an mbox, whose mails begin with a "From " line."""
    return _ESCAPED.sub(rb"\1", piece) if piece.startswith(b"From ") else piece


def _taken_apart(name: str, content: bytes) -> list[Mail]:
    """Return a mail; several where it has several mails or patches attached."""
    if not looks_like_mail(content):
        return [Mail(sanitize.line(name), content, is_mail=False)]
    message = email.message_from_bytes(_stripped(content))
    if message.is_multipart():
        return _of_parts(name, message)
    return [_mail(name, message, _joined_texts(message), message)]


def _of_parts(name: str, message: Message) -> list[Mail]:
    """Return the patches of a mail with attachments, or its text where there are none."""
    for part in message.walk():
        if part.get_content_type() == "message/rfc822" and part is not message:
            forwarded = [each for each in part.get_payload() if isinstance(each, Message)]
            if any(diffs.has_diff(_joined_texts(each)) for each in forwarded):
                return _forwarded(name, message)
    patches = {
        diffs.fingerprint(text): text for text in _texts(message) if diffs.has_diff(text)
    }  # a patch may be in the text and attached, too
    if not patches:
        return [_mail(name, message, _joined_texts(message), message)]
    found = []
    for text in patches.values():
        for piece in _split(text):
            attached = email.message_from_bytes(piece) if looks_like_mail(piece) else message
            body = piece if attached is message else _joined_texts(attached)
            named = attached if attached["Subject"] else message
            found.append(_mail(name, named, body, message))
    return found


def _forwarded(name: str, message: Message) -> list[Mail]:
    """Return the mails that a mail has attached."""
    found = []
    for part in message.walk():
        if part.get_content_type() == "message/rfc822":
            for each in part.get_payload():
                if isinstance(each, Message):
                    found.append(_mail(name, each, _joined_texts(each), each))
    return found


def _joined_texts(message: Message) -> bytes:
    return b"\n".join(_texts(message))


def _mail(name: str, message: Message, text: bytes, outer: Message) -> Mail:
    ancestors: list[str] = []
    for field in ("In-Reply-To", "References"):
        ancestors += [each for each in reversed(_ids(outer[field])) if each not in ancestors]
    own = _ids(outer["Message-ID"])
    date = 0.0
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        date = email.utils.parsedate_to_datetime(str(outer["Date"] or "")).timestamp()
    return Mail(
        sanitize.line(name),
        text,
        header(message, "Subject"),
        header(message, "From") or header(outer, "From"),
        own[0] if own else "",
        tuple(ancestors),
        date,
        answer=parse(header(outer, "Subject")).reply,
    )


def _ids(raw: object) -> list[str]:
    return re.findall(r"<([^<>\s]+)>", sanitize.text(str(raw or "")))


def _texts(message: Message) -> list[bytes]:
    """Return a mail's texts in their order: also those attached, not those for the eye."""
    found = []
    for part in message.walk():
        kind = part.get_content_type()
        name = (part.get_filename() or "").lower()
        if part.is_multipart() or kind == "text/html":
            continue
        if kind.startswith("text/") or kind in _PARTS or name.endswith((".patch", ".diff")):
            payload = part.get_payload(decode=True)
            if isinstance(payload, bytes):
                found.append(payload)
    return found


def header(message: Message, name: str) -> str:
    """Return a header on one line, its encoding undone; "" where there is none."""
    raw = str(message[name] or "")
    with contextlib.suppress(LookupError, UnicodeError, email.errors.HeaderParseError):
        raw = str(email.header.make_header(email.header.decode_header(raw)))
    return sanitize.line(raw)


def is_several(mail: Mail) -> bool:
    """Whether a mail's text holds other mails behind its patch, which nothing tells apart."""
    return _another_in(mail) is not None


def check_alone(mail: Mail) -> None:
    """Refuse several patches in one: whoever counts patches would count wrong."""
    another = _another_in(mail)
    if another is not None:
        raise UsageError(
            f"{mail.name} holds several mails that cannot be told apart: "
            f"another begins at {sanitize.line(another, 60)}",
            "save them as an mbox, or each in a file of its own",
        )


def _another_in(mail: Mail) -> bytes | None:
    first = diffs.START.search(mail.text)
    if first is None:
        return None
    rest = b"".join(
        raw for kind, raw in diffs.lines_of(mail.text[first.start() :]) if kind is diffs.Line.TEXT
    )
    another = _NEXT.search(rest)
    return another[0] if another else None
