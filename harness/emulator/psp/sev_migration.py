# SPDX-License-Identifier: GPL-2.0-only
"""SEND_* and RECEIVE_*: a guest moves to another platform (SEV API 55766, guest migration).

Not modelled: a policy that demands an AMD platform at the other end (bit SEV) needs a chain of
certificates up to AMD's root, which the emulated chip's CEK does not have: UNSUPPORTED.
Packets are never compressed.
"""

from __future__ import annotations

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.psp import sev_channel
from harness.emulator.psp.pages import Pages
from harness.emulator.psp.platform import Platform
from harness.emulator.psp.sev_channel import (
    CERT_SIZE,
    HEADER_SIZE,
    PACKET_MAX,
    SESSION_SIZE,
    Channel,
)
from harness.emulator.psp.sev_guest import SevGuest, SevGuests, SevGuestState, SevPolicy
from harness.emulator.psp.sev_identity import check
from harness.emulator.psp.sev_launch import BLOCK, foreign_free, require_blocks
from harness.emulator.psp.status import Refused, require
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from harness.uapi.sev_channel import CertUsage, sev_cert

CHAIN_SIZE = 3 * CERT_SIZE
"""PEK, OCA and CEK, one behind the other."""


class SevMigration:
    """The commands of both ends."""

    def __init__(self, platform: Platform, guests: SevGuests, pages: Pages) -> None:
        self._platform, self._guests, self._pages = platform, guests, pages

    # -- outgoing --------------------------------------------------------------------------

    def send_start(self, buffer: bytes) -> bytes:
        """SEND_START: GSTATE.RUNNING to GSTATE.SUPDATE; a wrong length is told the right one."""
        platform, data = self._platform, sev.sev_data_send_start.from_bytes(buffer)
        guest = self._guests.find(data.handle)
        if data.session_len != SESSION_SIZE:
            length, data.session_len = data.session_len, SESSION_SIZE
            raise Refused(SevFwError.INVALID_LEN, f"session of {length}", bytes(data))
        guest.require_state(SevGuestState.RUNNING)
        may = not guest.policy & SevPolicy.NOSEND
        require(may, SevFwError.POLICY_FAILURE, "may not be sent")
        known = not guest.policy & SevPolicy.SEV
        require(known, SevFwError.UNSUPPORTED, "no chain up to AMD's root")
        require(data.pdh_cert_len == CERT_SIZE, SevFwError.INVALID_LEN, "certificate")
        cert = self._pages.read(data.pdh_cert_address, CERT_SIZE)
        if guest.policy & SevPolicy.DOMAIN:
            require(data.plat_certs_len == CHAIN_SIZE, SevFwError.INVALID_LEN, "certificates")
            self._check_domain(cert, self._pages.read(data.plat_certs_address, CHAIN_SIZE))
        target = self._pages.output(data.session_address, SESSION_SIZE, align=1)
        key = platform.identity.pdh_key
        guest.channel, session = sev_channel.offer(key, cert, platform.secrets, guest.policy)
        self._pages.memory.write(target, session)
        guest.state = SevGuestState.SUPDATE
        data.policy = guest.policy
        return bytes(data)

    def _check_domain(self, cert: bytes, chain: bytes) -> None:
        """The other platform has to have the same owner."""
        pek, oca = (sev_cert.from_bytes(chain[at:]) for at in (0, CERT_SIZE))
        check(oca, oca, CertUsage.OCA)
        check(pek, oca, CertUsage.PEK)
        check(sev_cert.from_bytes(cert), pek, CertUsage.PDH)
        same = bytes(oca) == bytes(self._platform.identity.oca)
        require(same, SevFwError.POLICY_FAILURE, "another owner")

    def send_update_data(self, buffer: bytes) -> bytes:
        """SEND_UPDATE_DATA: guest memory into a packet."""
        return self._send_update(buffer, vmsa=False)

    def send_update_vmsa(self, buffer: bytes) -> bytes:
        """SEND_UPDATE_VMSA: the same for a VMSA."""
        return self._send_update(buffer, vmsa=True)

    def _send_update(self, buffer: bytes, *, vmsa: bool) -> bytes:
        data = sev.sev_data_send_update_data.from_bytes(buffer)
        self._platform.require_sev(sev.SEV_STATE_WORKING)
        length, data.hdr_len = data.hdr_len, HEADER_SIZE
        if length < HEADER_SIZE:
            raise Refused(SevFwError.INVALID_LEN, f"header of {length}", bytes(data))
        guest = self._moving(data.handle, SevGuestState.SUPDATE, vmsa=vmsa)
        _check_packet(data.guest_len, data.trans_len, vmsa=vmsa)
        require(data.trans_len >= data.guest_len, SevFwError.INVALID_LEN, "transport buffer")
        source = foreign_free(self._pages, data.guest_address, data.guest_len)
        header_at = self._pages.output(data.hdr_address, HEADER_SIZE, align=1)
        body_at = self._pages.output(data.trans_address, data.trans_len, align=1)
        plain = self._pages.memory.read(source, data.guest_len)
        header, body = guest.channel.seal(self._platform.secrets, plain)
        self._pages.memory.write(body_at, body)
        self._pages.memory.write(header_at, header)
        return bytes(data)

    def send_finish(self, buffer: bytes) -> None:
        """SEND_FINISH: GSTATE.SUPDATE to GSTATE.SENT."""
        handle = sev.sev_data_send_finish.from_bytes(buffer).handle
        self._close(handle, SevGuestState.SUPDATE, SevGuestState.SENT)

    def send_cancel(self, buffer: bytes) -> None:
        """SEND_CANCEL: back to GSTATE.RUNNING."""
        handle = sev.sev_data_send_cancel.from_bytes(buffer).handle
        self._close(handle, SevGuestState.SUPDATE, SevGuestState.RUNNING)

    # -- incoming --------------------------------------------------------------------------

    def receive_start(self, buffer: bytes) -> bytes:
        """RECEIVE_START: a new guest in GSTATE.RUPDATE."""
        platform, data = self._platform, sev.sev_data_receive_start.from_bytes(buffer)
        platform.require_sev(sev.SEV_STATE_INIT, sev.SEV_STATE_WORKING)
        good = (data.session_len, data.pdh_cert_len) == (SESSION_SIZE, CERT_SIZE)
        require(good, SevFwError.INVALID_LEN, "session or certificate")
        session = self._pages.read(data.session_address, SESSION_SIZE)
        cert = self._pages.read(data.pdh_cert_address, CERT_SIZE)
        channel = sev_channel.accept(platform.identity.pdh_key, cert, session, data.policy)
        self._guests.check_owner_policy(data.policy)
        self._guests.check_policy(data.policy, data.handle)
        guest = self._guests.create(data.policy, SevGuestState.RUPDATE, channel)
        data.handle = guest.handle
        return bytes(data)

    def receive_update_data(self, buffer: bytes) -> None:
        """RECEIVE_UPDATE_DATA: a packet into guest memory."""
        self._receive_update(buffer, vmsa=False)

    def receive_update_vmsa(self, buffer: bytes) -> None:
        """RECEIVE_UPDATE_VMSA: the same for a VMSA."""
        self._receive_update(buffer, vmsa=True)

    def _receive_update(self, buffer: bytes, *, vmsa: bool) -> None:
        data = sev.sev_data_receive_update_data.from_bytes(buffer)
        guest = self._moving(data.handle, SevGuestState.RUPDATE, vmsa=vmsa)
        _check_packet(data.guest_len, data.trans_len, vmsa=vmsa)
        good = data.trans_len == data.guest_len and data.hdr_len >= HEADER_SIZE
        require(good, SevFwError.INVALID_LEN, "header or packet")
        target = self._pages.output(data.guest_address, data.guest_len, align=BLOCK)
        header = self._pages.read(data.hdr_address, HEADER_SIZE)
        body = self._pages.read(data.trans_address, data.trans_len)
        self._pages.memory.write(target, guest.channel.open(sev_channel.DATA, header, body))

    def receive_finish(self, buffer: bytes) -> None:
        """RECEIVE_FINISH: GSTATE.RUPDATE to GSTATE.RUNNING."""
        handle = sev.sev_data_receive_finish.from_bytes(buffer).handle
        self._close(handle, SevGuestState.RUPDATE, SevGuestState.RUNNING)

    # -- both ------------------------------------------------------------------------------

    def _moving(self, handle: int, state: SevGuestState, *, vmsa: bool) -> SevGuest:
        guest = self._guests.find(handle)
        guest.require_state(state)
        require(guest.es or not vmsa, SevFwError.UNSUPPORTED, "no SEV-ES guest")
        guest.require_active()
        return guest

    def _close(self, handle: int, before: SevGuestState, after: SevGuestState) -> None:
        guest = self._guests.find(handle)
        guest.require_state(before)
        guest.channel, guest.state = Channel(), after


def _check_packet(guest_len: int, trans_len: int, *, vmsa: bool) -> None:
    good = 0 < guest_len <= PACKET_MAX and 0 < trans_len <= PACKET_MAX
    require(good, SevFwError.INVALID_LEN, f"packet of {guest_len}")
    require_blocks(guest_len)
    require(guest_len == PAGE_SIZE or not vmsa, SevFwError.INVALID_LEN, "no VMSA")
