# SPDX-License-Identifier: GPL-2.0-only
"""A guest's GHCB page as KVM reads and writes it (arch/x86/kvm/svm/sev.c, Linux 6.12)."""

from __future__ import annotations

import struct

from harness.uapi import ghcb as abi

_U64 = struct.Struct("<Q")

RAX, RCX, RDX, RBX, RSI = 0x1F8, 0x308, 0x310, 0x318, 0x328
CPL, XCR0 = 0x0CB, 0x3E8
EXIT_CODE, EXIT_INFO_1, EXIT_INFO_2, SCRATCH = 0x390, 0x398, 0x3A0, 0x3A8
VALID_BITMAP, BITMAP_SIZE = 0x3F0, 16
SHARED_BUFFER, SHARED_BUFFER_END = 0x800, 0xFF0
USAGE = 0xFFC
"""Offsets in the GHCB page (GHCB specification 56421, section 2.6)."""

VALUES = {"rax": RAX, "rbx": RBX, "rcx": RCX, "rdx": RDX, "rsi": RSI, "xcr0": XCR0}


class Ghcb:
    """One request: the fields the guest marked valid, and the page for the answer."""

    __slots__ = (
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
        get = _U64.unpack_from
        self.page = page
        self._valid = int.from_bytes(page[VALID_BITMAP : VALID_BITMAP + BITMAP_SIZE], "little")
        self.rax = get(page, RAX)[0] if self.valid(RAX) else 0
        self.rbx = get(page, RBX)[0] if self.valid(RBX) else 0
        self.rcx = get(page, RCX)[0] if self.valid(RCX) else 0
        self.rdx = get(page, RDX)[0] if self.valid(RDX) else 0
        self.exit_code: int = get(page, EXIT_CODE)[0]
        self.info_1: int = get(page, EXIT_INFO_1)[0]
        self.info_2: int = get(page, EXIT_INFO_2)[0]
        self.scratch = get(page, SCRATCH)[0] if self.valid(SCRATCH) else 0
        self.usage = int.from_bytes(page[USAGE : USAGE + 4], "little")
        page[VALID_BITMAP : VALID_BITMAP + BITMAP_SIZE] = bytes(BITMAP_SIZE)

    def valid(self, offset: int) -> bool:
        """Whether the guest marked the quadword at an offset of the save area valid."""
        return bool(self._valid >> (offset >> 3) & 1)

    @property
    def rsi(self) -> int:
        """RSI, 0 where the guest did not supply it."""
        return int(_U64.unpack_from(self.page, RSI)[0]) if self.valid(RSI) else 0

    @property
    def cpl(self) -> int:
        """CPL, 0 where the guest did not supply it."""
        return self.page[CPL] if self.valid(CPL) else 0

    def _set(self, offset: int, value: int) -> None:
        _U64.pack_into(self.page, offset, value & 0xFFFFFFFFFFFFFFFF)
        bit = offset >> 3
        self.page[VALID_BITMAP + (bit >> 3)] |= 1 << (bit & 7)

    def set_info(self, info_1: int, info_2: int) -> None:
        """Set both exit information fields of the answer."""
        self._set(EXIT_INFO_1, info_1)
        self._set(EXIT_INFO_2, info_2)

    def set_info_2(self, value: int) -> None:
        """Set SW_EXITINFO2 of the answer."""
        self._set(EXIT_INFO_2, value)

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
        self._set(RAX, self.rax)
        self._set(RBX, self.rbx)
        self._set(RCX, self.rcx)
        self._set(RDX, self.rdx)
