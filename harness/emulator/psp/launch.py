# SPDX-License-Identifier: GPL-2.0-only
"""SNP_LAUNCH_START, SNP_LAUNCH_UPDATE and SNP_LAUNCH_FINISH."""

from __future__ import annotations

import struct
from typing import Final

from harness.emulator.memory import PAGE_SIZE, PAGE_SIZE_2M
from harness.emulator.psp import cpuid_page
from harness.emulator.psp.guest_context import GuestContext, Guests, GuestState
from harness.emulator.psp.id_block import check_id_block
from harness.emulator.psp.pages import Pages
from harness.emulator.psp.platform import Platform
from harness.emulator.psp.policy import check_policy
from harness.emulator.psp.secrets_page import secrets_page
from harness.emulator.psp.status import Refused, require
from harness.emulator.rmp import PageSize, PageState, RmpEntry
from harness.uapi import sev
from harness.uapi.errors import SevFwError

# sev_data_snp_launch_update with its bit fields still in their words: one command a page makes
# this the hottest of all, and ctypes would take longer than the rest of it.
UPDATE: Final = struct.Struct("<QIIQII")

_PERMISSIONS = 0x0F0F0F
"""R, W, UX and SX of three VMPLs; the other bits are reserved."""

_MEASURED = frozenset({sev.SNP_PAGE_TYPE_NORMAL, sev.SNP_PAGE_TYPE_VMSA})
_SINGLE = frozenset({sev.SNP_PAGE_TYPE_VMSA, sev.SNP_PAGE_TYPE_SECRET, sev.SNP_PAGE_TYPE_CPUID})
"""Types that exist in 4 KiB only."""


class Launch:
    """The launch commands."""

    def __init__(self, platform: Platform, guests: Guests, pages: Pages) -> None:
        self._platform, self._guests, self._pages = platform, guests, pages

    def start(self, buffer: bytes) -> None:
        """SNP_LAUNCH_START: GSTATE_INIT to GSTATE_LAUNCH."""
        data = sev.sev_data_snp_launch_start.from_bytes(buffer)
        guest = self._guests.find(data.gctx_paddr)
        guest.require_state(GuestState.INIT)
        require(data.rsvd == 0, SevFwError.INVALID_PARAM, "reserved bits")
        platform = self._platform
        check_policy(data.policy, platform.version[:2], platform.features)
        agent = self._migration_agent(guest, data.ma_gctx_paddr) if data.ma_en else None
        if agent is not None:
            wanted = data.policy & sev.SNP_POLICY_MASK_MIGRATE_MA
            require(bool(wanted), SevFwError.POLICY_FAILURE, "no migration agent allowed")
        guest.policy, guest.imi, guest.migration_agent = data.policy, bool(data.imi_en), agent
        guest.gosvw, guest.desired_tsc_khz = bytes(data.gosvw), data.desired_tsc_khz
        guest.launch_tcb = platform.tcb
        guest.state = GuestState.LAUNCH

    def _migration_agent(self, guest: GuestContext, pa: int) -> GuestContext:
        """The agent has to run already, and may not be migrated itself."""
        agent = self._guests.find(pa)
        require(
            agent is not guest and agent.state == GuestState.RUNNING,
            SevFwError.INVALID_GUEST,
            "the migration agent does not run",
        )
        require(agent.migration_agent is None, SevFwError.INVALID_GUEST, "agent has an agent")
        return agent

    def update(self, buffer: bytes) -> None:
        """SNP_LAUNCH_UPDATE: measure a page, encrypt it and give it to the guest, validated."""
        gctx, flags, rsvd2, address, perms, rsvd4 = UPDATE.unpack(buffer)
        guest = self._guests.find(gctx)
        if guest.state != GuestState.LAUNCH:
            raise Refused(SevFwError.INVALID_GUEST_STATE, guest.state.name)
        if not guest.asid:
            raise Refused(SevFwError.INACTIVE, "the guest has no ASID")
        size = PageSize(flags & 1)
        page_type, imi = flags >> 1 & 7, bool(flags & 16)
        if flags >> 5 or rsvd2 or rsvd4 or perms & 0xFF or perms >> 8 & ~_PERMISSIONS:
            raise Refused(SevFwError.INVALID_PARAM, "reserved bits")
        if not sev.SNP_PAGE_TYPE_NORMAL <= page_type <= sev.SNP_PAGE_TYPE_CPUID:
            raise Refused(SevFwError.INVALID_PARAM, f"page type {page_type}")
        if imi and not guest.imi:
            raise Refused(SevFwError.INVALID_PARAM, "the guest has no migration image")
        if size and page_type in _SINGLE:
            raise Refused(SevFwError.INVALID_PAGE_SIZE, f"2 MiB page of type {page_type}")
        length = PAGE_SIZE_2M if size else PAGE_SIZE
        pa = self._pages.address(address, length, length)
        entry = self._pages.expect(pa, PageState.PRE_GUEST, size=size)
        if entry.asid != guest.asid:
            raise Refused(SevFwError.INVALID_PAGE_OWNER, f"page of ASID {entry.asid}")
        masks = perms >> 8 & 0xFF, perms >> 16 & 0xFF, perms >> 24
        self._fill(guest, page_type, pa, length)
        self._measure(guest, page_type, pa, length, entry.gpa, masks, imi)
        self._pages.rmp.write_entry(
            pa,
            RmpEntry(
                True,
                size,
                False,
                entry.gpa,
                entry.asid,
                page_type == sev.SNP_PAGE_TYPE_VMSA,
                True,
                (0xF, *masks),
            ),
        )

    def _fill(self, guest: GuestContext, page_type: int, pa: int, length: int) -> None:
        """Content that the firmware itself provides, or insists on."""
        memory = self._pages.memory
        if page_type == sev.SNP_PAGE_TYPE_ZERO:
            memory.zero(pa, length)
        elif page_type == sev.SNP_PAGE_TYPE_SECRET:
            memory.write(pa, secrets_page(guest))
        elif page_type == sev.SNP_PAGE_TYPE_CPUID:
            # The corrected page stays readable, for the host to try again with it.
            page = bytearray(memory.read(pa, PAGE_SIZE))
            if not cpuid_page.correct(page):
                memory.write(pa, page)
                raise Refused(SevFwError.INVALID_PARAM, "CPUID page corrected")

    def _measure(
        self,
        guest: GuestContext,
        page_type: int,
        pa: int,
        length: int,
        gpa: int,
        masks: tuple[int, int, int],
        imi: bool,
    ) -> None:
        """A 2 MiB page counts as 512 pages of 4 KiB."""
        measured = page_type in _MEASURED
        read = self._pages.memory.read
        for offset in range(0, length, PAGE_SIZE):
            content = read(pa + offset, PAGE_SIZE) if measured else None
            guest.digest.extend(page_type, gpa + offset, content, masks, imi)

    def finish(self, buffer: bytes) -> None:
        """SNP_LAUNCH_FINISH: GSTATE_LAUNCH to GSTATE_RUNNING."""
        data = sev.sev_data_snp_launch_finish.from_bytes(buffer)
        guest = self._guests.find(data.gctx_paddr)
        guest.require_state(GuestState.LAUNCH)
        require(guest.asid != 0, SevFwError.INACTIVE, "the guest has no ASID")
        require(data.rsvd == 0, SevFwError.INVALID_PARAM, "reserved bits")
        require(
            bool(data.id_block_en) or not data.auth_key_en,
            SevFwError.INVALID_PARAM,
            "author key without ID block",
        )
        if data.id_block_en:
            block = self._pages.read(data.id_block_paddr, sev.KVM_SEV_SNP_ID_BLOCK_SIZE)
            auth = self._pages.read(data.id_auth_paddr, sev.KVM_SEV_SNP_ID_AUTH_SIZE)
            check_id_block(
                guest,
                sev.sev_id_block.from_bytes(block),
                sev.sev_id_auth.from_bytes(auth),
                author=bool(data.auth_key_en),
            )
        guest.host_data = bytes(data.host_data)
        guest.vcek_disabled = bool(data.vcek_disabled)
        guest.state = GuestState.RUNNING
