# SPDX-License-Identifier: GPL-2.0-only
"""The launch digest: SHA-384 chained over one PAGE_INFO per 4 KiB page."""

from __future__ import annotations

import struct
from hashlib import sha384

DIGEST_SIZE = 48
PAGE_INFO_SIZE = 0x70
ZERO_DIGEST = bytes(DIGEST_SIZE)

# Behind the digest so far and the page's own: length, type, IMI, permissions of VMPL3, 2 and 1,
# a reserved byte, GPA (firmware ABI 56860, SNP_LAUNCH_UPDATE, PAGE_INFO).
_TAIL = struct.Struct("<HBBBBBBQ")


class LaunchDigest:
    """A digest under construction."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = ZERO_DIGEST

    def extend(
        self,
        page_type: int,
        gpa: int,
        content: bytes | memoryview | None,
        perms: tuple[int, int, int] = (0, 0, 0),
        imi: bool = False,
    ) -> None:
        """Measure one page; content None stands for types whose content is not measured.

        perms: of VMPL1, 2 and 3.
        """
        own = ZERO_DIGEST if content is None else sha384(content).digest()
        vmpl1, vmpl2, vmpl3 = perms
        tail = _TAIL.pack(PAGE_INFO_SIZE, page_type, imi, vmpl3, vmpl2, vmpl1, 0, gpa)
        self.value = sha384(self.value + own + tail).digest()
