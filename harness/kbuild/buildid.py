# SPDX-License-Identifier: GPL-2.0-only
"""The build id of a kernel: the linker's digest of all that went into it.

It is a note (ELF gABI, chapter 5, "Note Section"): in vmlinux, and as a running kernel shows
its own in /sys/kernel/notes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

NT_GNU_BUILD_ID = 3
_PT_NOTE, _SHT_NOTE = 4, 7
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
"""Elf64_Ehdr behind e_ident's place: e_type, e_machine, e_version, e_entry, e_phoff, ..."""
_SEGMENT = struct.Struct("<IIQQQQQQ")
"""Elf64_Phdr: p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align."""
_SECTION = struct.Struct("<IIQQQQIIQQ")
"""Elf64_Shdr: sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, ..."""
_NOTE = struct.Struct("<III")
"""Elf64_Nhdr: n_namesz, n_descsz, n_type; name and descriptor follow, padded to 4 bytes."""


def of_notes(notes: bytes) -> str:
    """Return the build id in hexadecimal digits; "" where the notes have none, or are damaged."""
    offset = 0
    while offset + _NOTE.size <= len(notes):
        name_size, size, kind = _NOTE.unpack_from(notes, offset)
        name_at = offset + _NOTE.size
        at = name_at + _padded(name_size)
        offset = at + _padded(size)
        name = notes[name_at : name_at + name_size]
        if kind == NT_GNU_BUILD_ID and name == b"GNU\0" and at + size <= len(notes):
            return notes[at : at + size].hex()
    return ""


def of_elf(path: Path) -> str:
    """Return the build id of a 64-bit little-endian ELF file; "" where it has none, or is none.

    A program's notes are in its segments, a module's, which has none, in its sections.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size or head[:6] != b"\x7fELF\2\1":
                return ""
            fields = _HEADER.unpack(head)
            segments, sections, each, count, other, others = (
                fields[i] for i in (4, 5, 8, 9, 10, 11)
            )
            for number in range(count):
                file.seek(segments + number * each)
                kind, _, offset, _, _, size, _, _ = _SEGMENT.unpack(file.read(_SEGMENT.size))
                if kind == _PT_NOTE and (found := _at(file, offset, size)):
                    return found
            for number in range(others):
                file.seek(sections + number * other)
                _, kind, _, _, offset, size, _, _, _, _ = _SECTION.unpack(file.read(_SECTION.size))
                if kind == _SHT_NOTE and (found := _at(file, offset, size)):
                    return found
    except (OSError, struct.error):
        return ""
    return ""


def _at(file: BinaryIO, offset: int, size: int) -> str:
    file.seek(offset)
    return of_notes(file.read(min(size, 1 << 20)))


def _padded(size: int) -> int:
    return (size + 3) & ~3
