# SPDX-License-Identifier: GPL-2.0-only
"""Archives as the kernel unpacks them for an initramfs: cpio, format newc, always the same bytes.

Documentation/driver-api/early-userspace/buffer-format.rst has the format.  Everything belongs to
root, dates from 1970 and stands sorted, so that equal content has an equal hash.
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterable
from dataclasses import dataclass

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
_FIELDS = 13
_HEADER = len(MAGIC) + 8 * _FIELDS
_LIMIT = (1 << 32) - 1
"""Bytes of a member: its size is a field of 32 bits."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file, directory, symbolic link or device in an archive."""

    path: str
    """Relative, without '.' or '..': bin/busybox."""
    mode: int
    """Type and permissions, as stat(2) has them."""
    data: bytes = b""
    """The content of a file, the target of a link."""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device."""


def file(path: str, data: bytes, permissions: int = 0o644) -> Member:
    """Make a regular file."""
    return Member(path, stat.S_IFREG | permissions, data)


def directory(path: str, permissions: int = 0o755) -> Member:
    """Make a directory."""
    return Member(path, stat.S_IFDIR | permissions)


def link(path: str, target: str) -> Member:
    """Make a symbolic link."""
    return Member(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int, permissions: int = 0o600) -> Member:
    """Make a character device."""
    return Member(path, stat.S_IFCHR | permissions, device=(major, minor))


def write(members: Iterable[Member]) -> bytes:
    """Return an archive, with the directories that are needed; ValueError for impossible members.

    A directory stands before what is in it, for the kernel makes no parents.
    """
    found = {each.path: each for each in _with_parents(members)}
    parts = []
    # '/' sorts before all that a name may go on with: a directory precedes what is in it.
    for number, path in enumerate(sorted(found, key=lambda each: each.split("/")), 1):
        parts.append(_record(found[path], number))
    parts.append(_record(Member(TRAILER, 0), 0))
    content = b"".join(parts)
    return content + bytes(-len(content) % 512)


def compress(archive: bytes) -> bytes:
    """Return an archive as gzip, without a date or name in it."""
    return gzip.compress(archive, 6, mtime=0)


def read(archive: bytes) -> list[Member]:
    """Take an archive apart; ValueError where it is damaged."""
    members: list[Member] = []
    place = 0
    while True:
        head = archive[place : place + _HEADER]
        if len(head) < _HEADER or not head.startswith(MAGIC):
            raise ValueError(f"no header of a member at byte {place}")
        fields = [int(head[at : at + 8], 16) for at in range(len(MAGIC), _HEADER, 8)]
        mode, size, major, minor, length = fields[1], fields[6], fields[9], fields[10], fields[11]
        start = _aligned(place + _HEADER + length)
        name = archive[place + _HEADER : place + _HEADER + length]
        if len(archive) < start + size or not name.endswith(b"\0"):
            raise ValueError(f"the member at byte {place} is cut off")
        path = name[:-1].decode()
        if path == TRAILER:
            return members
        members.append(Member(path, mode, archive[start : start + size], (major, minor)))
        place = _aligned(start + size)


def _with_parents(members: Iterable[Member]) -> list[Member]:
    """Add the directories that nobody named."""
    given: dict[str, Member] = {}
    for member in members:
        words = member.path.split("/")
        if any(word in ("", ".", "..") for word in words) or "\0" in member.path:
            raise ValueError(f"{member.path!r} is no path in an archive")
        if member.path == TRAILER or len(member.data) > _LIMIT:
            raise ValueError(f"{member.path} cannot be in an archive of this format")
        if member.path in given and given[member.path] != member:
            raise ValueError(f"{member.path} is twice in the archive, and differs")
        given[member.path] = member
    for path in list(given):
        words = path.split("/")
        for end in range(1, len(words)):
            parent = given.setdefault("/".join(words[:end]), directory("/".join(words[:end])))
            if not stat.S_ISDIR(parent.mode):
                raise ValueError(f"{path} is below {parent.path}, which is no directory")
    return list(given.values())


def _record(member: Member, number: int) -> bytes:
    name = member.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(member.mode) else 1
    fields = (
        *(number, member.mode, 0, 0, links, 0, len(member.data), 0, 0),
        *(*member.device, len(name), 0),
    )
    head = MAGIC + b"".join(b"%08x" % each for each in fields) + name
    return _padded(head) + _padded(member.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _aligned(place: int) -> int:
    return place + -place % 4
