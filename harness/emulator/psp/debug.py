# SPDX-License-Identifier: GPL-2.0-only
"""SNP_DBG_DECRYPT and SNP_DBG_ENCRYPT: pages of guests whose policy allows it.

Memory is not encrypted in this model: what the commands do is copy and check.
"""

from __future__ import annotations

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.psp.guest_context import GuestContext, Guests, GuestState
from harness.emulator.psp.pages import Pages
from harness.emulator.psp.status import require
from harness.emulator.rmp import PageState
from harness.uapi import sev
from harness.uapi.errors import SevFwError

_IMMUTABLE = PageState.PRE_GUEST, PageState.PRE_SWAP
_READABLE = *_IMMUTABLE, PageState.GUEST_INVALID, PageState.GUEST_VALID


class Debug:
    """The debugging commands."""

    def __init__(self, guests: Guests, pages: Pages) -> None:
        self._guests, self._pages = guests, pages

    def _guest(self, gctx: int) -> GuestContext:
        guest = self._guests.find(gctx)
        guest.require_state(GuestState.LAUNCH, GuestState.RUNNING)
        require(guest.asid != 0, SevFwError.INACTIVE, "the guest has no ASID")
        allowed = bool(guest.policy & sev.SNP_POLICY_MASK_DEBUG)
        require(allowed, SevFwError.POLICY_FAILURE, "no debugging allowed")
        return guest

    def decrypt(self, buffer: bytes) -> None:
        """SNP_DBG_DECRYPT: a page of the guest into a Firmware page."""
        data = sev.sev_data_snp_dbg.from_bytes(buffer)
        guest = self._guest(data.gctx_paddr)
        source = self._pages.address(data.src_addr)
        self._pages.owned(source, guest.asid, *_READABLE)
        target = self._pages.output(data.dst_addr, PAGE_SIZE)
        self._pages.memory.write(target, self._pages.memory.read(source, PAGE_SIZE))

    def encrypt(self, buffer: bytes) -> None:
        """SNP_DBG_ENCRYPT: a page of the host into one that the guest cannot use just now."""
        data = sev.sev_data_snp_dbg.from_bytes(buffer)
        guest = self._guest(data.gctx_paddr)
        source = self._pages.address(data.src_addr)
        self._pages.expect(source, PageState.HYPERVISOR, PageState.HV_FIXED, PageState.FIRMWARE)
        target = self._pages.address(data.dst_addr)
        self._pages.owned(target, guest.asid, *_IMMUTABLE)
        self._pages.memory.write(target, self._pages.memory.read(source, PAGE_SIZE))
