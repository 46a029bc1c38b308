# SPDX-License-Identifier: GPL-2.0-only
"""The commands of plain SEV that the kernel's driver issues on an SNP host (SEV API 55766)."""

from __future__ import annotations

import struct

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.psp.guest_context import Guests
from harness.emulator.psp.pages import Pages
from harness.emulator.psp.platform import Platform
from harness.emulator.psp.status import Refused, require
from harness.uapi import sev
from harness.uapi.errors import SevFwError

TMR_SIZE = 1 << 20
SNP_TMR_SIZE = 2 << 20
NV_SIZE = 32 << 10
"""Sizes of drivers/crypto/ccp/sev-dev.c, Linux 6.12."""


class LegacyCommands:
    """INIT, INIT_EX, SHUTDOWN, PLATFORM_STATUS, FACTORY_RESET, GET_ID."""

    GET_ID = struct.Struct("<QI")
    """struct sev_data_get_id: address and length (include/linux/psp-sev.h, Linux 6.12)."""

    def __init__(self, platform: Platform, guests: Guests, pages: Pages) -> None:
        self._platform, self._guests, self._pages = platform, guests, pages

    def init(self, buffer: bytes) -> None:
        """INIT."""
        data = sev.sev_data_init.from_bytes(buffer)
        self._init(data.flags, data.tmr_address, data.tmr_len)

    def init_ex(self, buffer: bytes) -> None:
        """INIT_EX: non-volatile storage is a buffer of the host's."""
        data = sev.sev_data_init_ex.from_bytes(buffer)
        require(data.length >= len(buffer), SevFwError.INVALID_LEN, f"length {data.length}")
        require(data.nv_len >= NV_SIZE, SevFwError.INVALID_LEN, "length of the NV storage")
        storage = self._pages.output(data.nv_address, NV_SIZE)
        self._init(data.flags, data.tmr_address, data.tmr_len)
        self._pages.memory.write(storage, self._platform.secrets.derive("NV storage", PAGE_SIZE))

    def _init(self, flags: int, tmr: int, length: int) -> None:
        platform = self._platform
        require(
            platform.sev_state == sev.SEV_STATE_UNINIT,
            SevFwError.INVALID_PLATFORM_STATE,
            "already initialised",
        )
        require(not flags & ~sev.SEV_INIT_FLAGS_SEV_ES, SevFwError.INVALID_PARAM, "flags")
        sev_es = bool(flags & sev.SEV_INIT_FLAGS_SEV_ES)
        if sev_es:
            size = SNP_TMR_SIZE if platform.snp_initialized else TMR_SIZE
            require(length >= size, SevFwError.INVALID_LEN, "length of the TMR")
            self._pages.output(tmr, size, align=size)
        platform.sev_es, platform.sev_state = sev_es, sev.SEV_STATE_INIT

    def shutdown(self, _buffer: bytes) -> None:
        """SHUTDOWN, in any state."""
        self._platform.sev_state, self._platform.sev_es = sev.SEV_STATE_UNINIT, False

    def factory_reset(self, _buffer: bytes) -> None:
        """FACTORY_RESET: there are no persistent certificates to delete."""
        require(
            self._platform.sev_state == sev.SEV_STATE_UNINIT,
            SevFwError.INVALID_PLATFORM_STATE,
            "still initialised",
        )

    def df_flush(self, _buffer: bytes) -> None:
        """DF_FLUSH."""
        require(
            self._platform.sev_state != sev.SEV_STATE_UNINIT,
            SevFwError.INVALID_PLATFORM_STATE,
            "not initialised",
        )
        self._guests.unflushed.clear()

    def status(self, _buffer: bytes) -> bytes:
        """PLATFORM_STATUS: the answer replaces the command buffer."""
        platform = self._platform
        major, minor, build = platform.version
        answer = sev.sev_user_data_status(
            api_major=major,
            api_minor=minor,
            state=platform.sev_state,
            flags=sev.SEV_STATUS_FLAGS_CONFIG_ES if platform.sev_es else 0,
            build=build,
            guest_count=0,
        )
        return bytes(answer)

    def get_id(self, buffer: bytes) -> bytes:
        """GET_ID: a buffer too short gets nothing but the length it should have."""
        address, length = self.GET_ID.unpack(buffer)
        chip_id = self._platform.chip_id
        answer = self.GET_ID.pack(address, len(chip_id))
        if not address or length < len(chip_id):
            raise Refused(SevFwError.INVALID_LEN, f"length {length}", answer)
        target = self._pages.output(address, len(chip_id), align=1)
        self._pages.memory.write(target, chip_id)
        return answer
