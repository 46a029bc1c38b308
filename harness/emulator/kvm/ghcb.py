# SPDX-License-Identifier: GPL-2.0-only
"""A guest's GHCB page as KVM reads and writes it (arch/x86/kvm/svm/sev.c, Linux 6.12)."""

from __future__ import annotations

import struct

from harness.uapi import ghcb as abi

_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")

RAX, RCX, RDX, RBX, RSI = 0x1F8, 0x308, 0x310, 0x318, 0x328
CPL, XCR0 = 0x0CB, 0x3E8
EXIT_CODE, EXIT_INFO_1, EXIT_INFO_2, SCRATCH = 0x390, 0x398, 0x3A0, 0x3A8
VALID_BITMAP, BITMAP_SIZE = 0x3F0, 16
SHARED_BUFFER, SHARED_BUFFER_END = 0x800, 0xFF0
USAGE = 0xFFC
"""Offsets in the GHCB page (GHCB specification 56421, section 2.6)."""


_REQUEST = struct.Struct("<4Q")
_RCX_RDX_RBX = struct.Struct("<3Q")
_PAIR = struct.Struct("<2Q")


def _bit(offset: int) -> int:
    """Bit of the valid bitmap for the quadword at an offset of the save area."""
    return 1 << (offset >> 3)


_RAX_BIT, _RCX_BIT, _RDX_BIT, _RBX_BIT = _bit(RAX), _bit(RCX), _bit(RDX), _bit(RBX)
_REGISTER_BITS = _RAX_BIT | _RCX_BIT | _RDX_BIT | _RBX_BIT
_INFO_BITS = _bit(EXIT_INFO_1) | _bit(EXIT_INFO_2)
_CLEAR = bytes(BITMAP_SIZE)
_U64_MASK = 0xFFFFFFFFFFFFFFFF


class Ghcb:
    """One request: the fields the guest marked valid, and the page for the answer."""

    __slots__ = (
        "_answered",
        "_valid",
        "exit_code",
        "info_1",
        "info_2",
        "page",
        "rax",
        "rbx",
        "rcx",
        "rdx",
        "scratch",
        "usage",
    )

    def __init__(self, page: memoryview) -> None:
        """sev_es_sync_from_ghcb: take the fields over and clear the valid bitmap."""
        low, high = _PAIR.unpack_from(page, VALID_BITMAP)
        valid = self._valid = low | high << 64
        self.page = page
        self.rax: int = _U64.unpack_from(page, RAX)[0] if valid & _RAX_BIT else 0
        rcx, rdx, rbx = _RCX_RDX_RBX.unpack_from(page, RCX)
        self.rcx: int = rcx if valid & _RCX_BIT else 0
        self.rdx: int = rdx if valid & _RDX_BIT else 0
        self.rbx: int = rbx if valid & _RBX_BIT else 0
        self.exit_code: int
        self.info_1: int
        self.info_2: int
        self.scratch: int
        self.exit_code, self.info_1, self.info_2, scratch = _REQUEST.unpack_from(page, EXIT_CODE)
        self.scratch = scratch if valid >> (SCRATCH >> 3) & 1 else 0
        self.usage: int = _U32.unpack_from(page, USAGE)[0]
        self._answered = 0
        page[VALID_BITMAP : VALID_BITMAP + BITMAP_SIZE] = _CLEAR

    def valid(self, offset: int) -> bool:
        """Whether the guest marked the quadword at an offset of the save area valid."""
        return bool(self._valid >> (offset >> 3) & 1)

    @property
    def rsi(self) -> int:
        """RSI, 0 where the guest did not supply it."""
        return int(_U64.unpack_from(self.page, RSI)[0]) if self.valid(RSI) else 0

    @property
    def xcr0(self) -> int | None:
        """XCR0, None where the guest did not supply it."""
        return int(_U64.unpack_from(self.page, XCR0)[0]) if self.valid(XCR0) else None

    @property
    def cpl(self) -> int:
        """CPL, 0 where the guest did not supply it."""
        return self.page[CPL] if self.valid(CPL) else 0

    def _mark(self, bits: int) -> None:
        """Mark fields of the answer as valid, for the guest to see."""
        self._answered |= bits
        _PAIR.pack_into(self.page, VALID_BITMAP, self._answered & _U64_MASK, self._answered >> 64)

    def set_info(self, info_1: int, info_2: int) -> None:
        """Set both exit information fields of the answer."""
        _PAIR.pack_into(self.page, EXIT_INFO_1, info_1 & _U64_MASK, info_2 & _U64_MASK)
        self._mark(_INFO_BITS)

    def set_info_2(self, value: int) -> None:
        """Set SW_EXITINFO2 of the answer."""
        _U64.pack_into(self.page, EXIT_INFO_2, value & _U64_MASK)
        self._mark(_bit(EXIT_INFO_2))

    def malformed(self, reason: int) -> None:
        """Answer that the input was malformed (SW_EXITINFO1 = 2, the reason in SW_EXITINFO2)."""
        self.set_info(abi.GHCB_SW_EXITINFO1_MALFORMED_INPUT, reason)

    def exception(self, vector: int) -> None:
        """Answer with an exception that the guest is to raise (type 3, error code 0)."""
        has_error = vector in (8, 10, 11, 12, 13, 14, 17)
        event = 1 << 31 | (1 << 11 if has_error else 0) | 3 << 8 | vector
        self.set_info(abi.GHCB_SW_EXITINFO1_EXCEPTION, event)

    def sync(self) -> None:
        """sev_es_sync_to_ghcb: hand the four registers back."""
        _U64.pack_into(self.page, RAX, self.rax & _U64_MASK)
        _RCX_RDX_RBX.pack_into(
            self.page, RCX, self.rcx & _U64_MASK, self.rdx & _U64_MASK, self.rbx & _U64_MASK
        )
        self._mark(_REGISTER_BITS)
