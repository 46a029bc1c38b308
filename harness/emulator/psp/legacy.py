# SPDX-License-Identifier: GPL-2.0-only
"""The platform commands of plain SEV (SEV API 55766)."""

from __future__ import annotations

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.psp.asids import Asids
from harness.emulator.psp.pages import Pages
from harness.emulator.psp.platform import Platform
from harness.emulator.psp.sev_channel import CERT_SIZE
from harness.emulator.psp.sev_guest import SevGuests
from harness.emulator.psp.sev_migration import CHAIN_SIZE
from harness.emulator.psp.status import Refused, require
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from harness.uapi.sev_channel import sev_cert

TMR_SIZE = 1 << 20
SNP_TMR_SIZE = 2 << 20
NV_SIZE = 32 << 10
"""Sizes of drivers/crypto/ccp/sev-dev.c, Linux 6.12."""

OWNED = 1
"""Flag of PLATFORM_STATUS: an owner has imported certificates (55766, PLATFORM_STATUS)."""


class LegacyCommands:
    """INIT, INIT_EX, SHUTDOWN, PLATFORM_STATUS, FACTORY_RESET, GET_ID, PEK_* and PDH_*."""

    def __init__(self, platform: Platform, guests: SevGuests, asids: Asids, pages: Pages) -> None:
        self._platform, self._guests, self._pages = platform, guests, pages
        self._asids = asids

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
        platform.require_sev(sev.SEV_STATE_UNINIT)
        require(not flags & ~sev.SEV_INIT_FLAGS_SEV_ES, SevFwError.INVALID_PARAM, "flags")
        sev_es = bool(flags & sev.SEV_INIT_FLAGS_SEV_ES)
        if sev_es:
            size = SNP_TMR_SIZE if platform.snp_initialized else TMR_SIZE
            require(length >= size, SevFwError.INVALID_LEN, "length of the TMR")
            self._pages.output(tmr, size, align=size)
        platform.sev_es, platform.sev_state = sev_es, sev.SEV_STATE_INIT
        self._asids.distrust()

    def shutdown(self, _buffer: bytes) -> None:
        """SHUTDOWN, in any state: SNP guests are left alone, all others are lost."""
        self._guests.clear()
        self._platform.sev_state, self._platform.sev_es = sev.SEV_STATE_UNINIT, False

    def factory_reset(self, _buffer: bytes) -> None:
        """FACTORY_RESET: the platform gets a new identity."""
        self._platform.require_sev(sev.SEV_STATE_UNINIT)
        self._platform.identity.renew()

    def df_flush(self, _buffer: bytes) -> None:
        """DF_FLUSH."""
        self._platform.require_sev(sev.SEV_STATE_INIT, sev.SEV_STATE_WORKING)
        self._asids.flush()

    def status(self, _buffer: bytes) -> bytes:
        """PLATFORM_STATUS: the answer replaces the command buffer."""
        platform = self._platform
        major, minor, build = platform.version
        flags = sev.SEV_STATUS_FLAGS_CONFIG_ES if platform.sev_es else 0
        up = platform.sev_state != sev.SEV_STATE_UNINIT
        answer = sev.sev_user_data_status(
            api_major=major,
            api_minor=minor,
            state=platform.sev_state,
            flags=flags | (OWNED if up and platform.identity.externally_owned else 0),
            build=build,
            guest_count=len(self._guests),
        )
        return bytes(answer)

    def get_id(self, buffer: bytes) -> bytes:
        """GET_ID: a buffer too short gets nothing but the length it should have."""
        data = sev.sev_data_get_id.from_bytes(buffer)
        chip_id = self._platform.chip_id
        length, data.len = data.len, len(chip_id)
        if not data.address or length < len(chip_id):
            raise Refused(SevFwError.INVALID_LEN, f"length {length}", bytes(data))
        target = self._pages.output(data.address, len(chip_id), align=1)
        self._pages.memory.write(target, chip_id)
        return bytes(data)

    # -- identity --------------------------------------------------------------------------

    def pek_gen(self, _buffer: bytes) -> None:
        """PEK_GEN: the platform owns itself again, with new keys."""
        self._platform.require_sev(sev.SEV_STATE_INIT)
        self._platform.identity.renew()

    def pdh_gen(self, _buffer: bytes) -> None:
        """PDH_GEN: a new Diffie-Hellman key."""
        self._platform.require_sev(sev.SEV_STATE_INIT, sev.SEV_STATE_WORKING)
        self._platform.identity.renew_pdh()

    def pek_csr(self, buffer: bytes) -> bytes:
        """PEK_CSR: the PEK's certificate for an owner to sign."""
        self._platform.require_sev(sev.SEV_STATE_INIT, sev.SEV_STATE_WORKING)
        data = sev.sev_data_pek_csr.from_bytes(buffer)
        length, data.len = data.len, CERT_SIZE
        if length < CERT_SIZE:
            raise Refused(SevFwError.INVALID_LEN, f"length {length}", bytes(data))
        target = self._pages.output(data.address, length, align=1)
        self._pages.memory.write(target, bytes(self._platform.identity.request))
        return bytes(data)

    def pek_cert_import(self, buffer: bytes) -> None:
        """PEK_CERT_IMPORT: an owner takes the platform."""
        self._platform.require_sev(sev.SEV_STATE_INIT)
        identity = self._platform.identity
        require(not identity.externally_owned, SevFwError.ALREADY_OWNED, "has an owner")
        data = sev.sev_data_pek_cert_import.from_bytes(buffer)
        good = data.pek_cert_len == data.oca_cert_len == CERT_SIZE
        require(good, SevFwError.INVALID_LEN, "certificates")
        pek = self._pages.read(data.pek_cert_address, CERT_SIZE)
        oca = self._pages.read(data.oca_cert_address, CERT_SIZE)
        identity.adopt(sev_cert.from_bytes(pek), sev_cert.from_bytes(oca))

    def pdh_cert_export(self, buffer: bytes) -> bytes:
        """PDH_CERT_EXPORT: the PDH's certificate, and the chain PEK, OCA, CEK."""
        self._platform.require_sev(sev.SEV_STATE_INIT, sev.SEV_STATE_WORKING)
        data = sev.sev_data_pdh_cert_export.from_bytes(buffer)
        lengths = data.pdh_cert_len, data.cert_chain_len
        data.pdh_cert_len, data.cert_chain_len = CERT_SIZE, CHAIN_SIZE
        if lengths[0] < CERT_SIZE or lengths[1] < CHAIN_SIZE:
            raise Refused(SevFwError.INVALID_LEN, f"lengths {lengths}", bytes(data))
        cert_at = self._pages.output(data.pdh_cert_address, lengths[0], align=1)
        chain_at = self._pages.output(data.cert_chain_address, lengths[1], align=1)
        identity = self._platform.identity
        chain = bytes(identity.pek) + bytes(identity.oca) + bytes(identity.cek)
        self._pages.memory.write(cert_at, bytes(identity.pdh))
        self._pages.memory.write(chain_at, chain)
        return bytes(data)
