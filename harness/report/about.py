# SPDX-License-Identifier: GPL-2.0-only
"""What a running kernel says about itself: release, build id, firmware."""

from __future__ import annotations

import struct

from harness.kernel import Kernel, ReadFile, TargetError
from harness.splats.watch import LogWatch

NOTES = "/sys/kernel/notes"
_BUILD_ID = 3
"""NT_GNU_BUILD_ID (elf.h)."""


def about(kernel: Kernel, watch: LogWatch) -> dict[str, str]:
    """Return release, build_id and firmware (API version and build of the PSP's SEV-SNP).

    "" where the kernel does not say.
    """
    try:
        notes = kernel.call(ReadFile(NOTES))
    except TargetError:
        return {}  # the test that opened it tells
    return {
        "release": kernel.release or watch.release,
        "build_id": build_id(notes.data) if notes.ok else "",
        "firmware": watch.firmware,
    }


def build_id(notes: bytes) -> str:
    """Find the GNU build id among ELF notes (elf(5), Elf64_Nhdr); "" where there is none."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name = at + 12
        content = name + (name_size + 3 & ~3)
        if kind == _BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            return notes[content : content + size].hex()
        at = content + (size + 3 & ~3)
    return ""
