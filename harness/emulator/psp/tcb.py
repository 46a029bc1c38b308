# SPDX-License-Identifier: GPL-2.0-only
"""TCB_VERSION: the security version numbers that reports and keys are bound to."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

_LAYOUT = struct.Struct("<BB4xBB")


@dataclass(frozen=True, slots=True)
class Tcb:
    """Security version numbers of Milan and Genoa (firmware ABI 56860, TCB_VERSION)."""

    boot_loader: int = 0
    tee: int = 0
    snp: int = 0
    microcode: int = 0

    @classmethod
    def decode(cls, value: int) -> Self:
        """Fields of the 64-bit number; its reserved bytes are ignored."""
        return cls(*_LAYOUT.unpack(value.to_bytes(8, "little")))

    @property
    def value(self) -> int:
        """The 64-bit number."""
        raw = _LAYOUT.pack(self.boot_loader, self.tee, self.snp, self.microcode)
        return int.from_bytes(raw, "little")

    def within(self, other: Tcb) -> bool:
        """Whether no component is newer than that of `other`."""
        return (
            self.boot_loader <= other.boot_loader
            and self.tee <= other.tee
            and self.snp <= other.snp
            and self.microcode <= other.microcode
        )


RESERVED = 0x0000_FFFF_FFFF_0000
"""Bits of a TCB_VERSION that must be zero."""
