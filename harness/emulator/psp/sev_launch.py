# SPDX-License-Identifier: GPL-2.0-only
"""LAUNCH_* and ATTESTATION of plain SEV and SEV-ES guests, and DBG_* (SEV API 55766).

Memory is not encrypted in this model: LAUNCH_UPDATE_* measure and check, DBG_* copy and check.
Under SNP the kernel hands over what these commands write as Firmware pages, guest memory
included (snp_populate_cmd_buf_desc_list, drivers/crypto/ccp/sev-dev.c, Linux 6.12).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Final

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
from harness.emulator.psp.sev_guest import SevGuests, SevGuestState, SevPolicy
from harness.emulator.psp.sev_identity import sign
from harness.emulator.psp.status import Refused, require
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from harness.uapi.layout import size
from harness.uapi.sev_channel import CertAlgo, CertUsage, sev_attestation_report, sev_measurement

BLOCK = 16
"""Memory is encrypted in blocks of this many bytes: addresses and lengths are multiples of it."""

_CHUNK = 1 << 20

MEASUREMENT_SIZE: Final = size(sev_measurement)
REPORT_SIZE: Final = size(sev_attestation_report)
_MEASURED = SevGuestState.LSECRET, SevGuestState.RUNNING, SevGuestState.SUPDATE, SevGuestState.SENT


def require_blocks(length: int) -> None:
    """Refuse a length that is not one of whole blocks."""
    require(length % BLOCK == 0, SevFwError.INVALID_LEN, f"length {length}")


def chunks(length: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the parts that a long range is worked off in."""
    for at in range(0, length, _CHUNK):
        yield at, min(_CHUNK, length - at)


def foreign_free(pages: Pages, address: int, length: int) -> int:
    """Address of memory to be read with a guest's key: no page of an SNP guest's.

    Hardware would decrypt those to noise; without encryption they would be read in clear.
    """
    pa = pages.address(address, length, BLOCK)
    for page in range(pa & -PAGE_SIZE, pa + length, PAGE_SIZE) if pages.enforce else ():
        asid = pages.rmp.effective(page).asid
        require(asid == 0, SevFwError.INVALID_PAGE_OWNER, f"0x{page:x} is ASID {asid}'s")
    return pa


class SevLaunch:
    """The launch commands."""

    def __init__(self, platform: Platform, guests: SevGuests, pages: Pages) -> None:
        self._platform, self._guests, self._pages = platform, guests, pages

    def start(self, buffer: bytes) -> bytes:
        """LAUNCH_START: a new guest in GSTATE.LUPDATE; its handle replaces the one passed.

        A handle passed names a guest to share the key with.  Without a certificate there is no
        session: the transport keys are zero, and nobody vouches for the policy.
        """
        platform, data = self._platform, sev.sev_data_launch_start.from_bytes(buffer)
        platform.require_sev(sev.SEV_STATE_INIT, sev.SEV_STATE_WORKING)
        channel = Channel()
        if data.dh_cert_address:
            good = (data.session_len, data.dh_cert_len) == (SESSION_SIZE, CERT_SIZE)
            require(good, SevFwError.INVALID_LEN, "session or certificate")
            session = self._pages.read(data.session_address, SESSION_SIZE)
            cert = self._pages.read(data.dh_cert_address, CERT_SIZE)
            key = platform.identity.pdh_key
            channel = sev_channel.accept(key, cert, session, data.policy)
            self._guests.check_owner_policy(data.policy)
        self._guests.check_policy(data.policy, data.handle)
        guest = self._guests.create(data.policy, SevGuestState.LUPDATE, channel)
        data.handle = guest.handle
        return bytes(data)

    def update_data(self, buffer: bytes) -> None:
        """LAUNCH_UPDATE_DATA: measure guest memory, and encrypt it in place."""
        data = sev.sev_data_launch_update_data.from_bytes(buffer)
        self._update(data.handle, data.address, data.len, vmsa=False)

    def update_vmsa(self, buffer: bytes) -> None:
        """LAUNCH_UPDATE_VMSA: the same for the one page of a VMSA."""
        data = sev.sev_data_launch_update_vmsa.from_bytes(buffer)
        require(data.len == PAGE_SIZE, SevFwError.INVALID_LEN, f"length {data.len}")
        self._update(data.handle, data.address, data.len, vmsa=True)

    def _update(self, handle: int, address: int, length: int, *, vmsa: bool) -> None:
        guest = self._guests.find(handle)
        guest.require_state(SevGuestState.LUPDATE)
        require(guest.es or not vmsa, SevFwError.UNSUPPORTED, "no SEV-ES guest")
        guest.require_active()
        require(length > 0, SevFwError.INVALID_LEN, "nothing")
        require_blocks(length)
        pa = self._pages.output(address, length, align=BLOCK)
        for at, part in chunks(length):
            guest.digest.update(self._pages.memory.read(pa + at, part))

    def measure(self, buffer: bytes) -> bytes:
        """LAUNCH_MEASURE: GSTATE.LUPDATE to GSTATE.LSECRET; a short buffer is told the length."""
        data = sev.sev_data_launch_measure.from_bytes(buffer)
        guest = self._guests.find(data.handle)
        guest.require_state(SevGuestState.LUPDATE)
        length, data.len = data.len, MEASUREMENT_SIZE
        if length < MEASUREMENT_SIZE:
            raise Refused(SevFwError.INVALID_LEN, f"length {length}", bytes(data))
        target = self._pages.output(data.address, length, align=1)
        guest.launch_digest = guest.digest.digest()
        nonce = self._platform.secrets.draw("MNONCE", 16)
        major, minor, build = self._platform.version
        head = bytes((sev_channel.MEASURE, major, minor, build & 0xFF))
        mixed = head + guest.policy.to_bytes(4, "little") + guest.launch_digest + nonce
        guest.measure = hmac.digest(guest.channel.tik, mixed, "sha256")
        self._pages.memory.write(target, guest.measure + nonce)
        guest.state = SevGuestState.LSECRET
        return bytes(data)

    def secret(self, buffer: bytes) -> None:
        """LAUNCH_SECRET: the owner, having seen the measurement, puts data into the guest."""
        data = sev.sev_data_launch_secret.from_bytes(buffer)
        guest = self._guests.find(data.handle)
        good = data.hdr_len == HEADER_SIZE and 0 < data.guest_len <= PACKET_MAX
        good = good and data.guest_len == data.trans_len
        require(good, SevFwError.INVALID_LEN, "header, packet or guest memory")
        require_blocks(data.guest_len)
        guest.require_state(SevGuestState.LSECRET)
        guest.require_active()
        target = self._pages.output(data.guest_address, data.guest_len, align=BLOCK)
        header = self._pages.read(data.hdr_address, data.hdr_len)
        body = self._pages.read(data.trans_address, data.trans_len)
        plain = guest.channel.open(sev_channel.SECRET, header, body, guest.measure)
        self._pages.memory.write(target, plain)

    def finish(self, buffer: bytes) -> None:
        """LAUNCH_FINISH: GSTATE.LSECRET to GSTATE.RUNNING; the channel is closed."""
        guest = self._guests.find(sev.sev_data_launch_finish.from_bytes(buffer).handle)
        guest.require_state(SevGuestState.LSECRET)
        guest.channel = Channel()
        guest.state = SevGuestState.RUNNING

    def attestation(self, buffer: bytes) -> bytes:
        """ATTESTATION: the launch digest and a nonce, signed by the PEK."""
        data = sev.sev_data_attestation_report.from_bytes(buffer)
        guest = self._guests.find(data.handle)
        guest.require_state(*_MEASURED)
        length, data.len = data.len, REPORT_SIZE
        if length < REPORT_SIZE:
            raise Refused(SevFwError.INVALID_LEN, f"length {length}", bytes(data))
        target = self._pages.output(data.address, length, align=1)
        report = sev_attestation_report(
            mnonce=bytes(data.mnonce), launch_digest=guest.launch_digest, policy=guest.policy
        )
        signed = bytes(report)[: sev_attestation_report.sig_usage.offset]
        signature = sign(self._platform.identity.pek_key, signed)
        report.sig_usage, report.sig_algo = CertUsage.PEK, CertAlgo.ECDSA_SHA256
        report.sig_r, report.sig_s = bytes(signature.r), bytes(signature.s)
        self._pages.memory.write(target, bytes(report))
        return bytes(data)


class SevDebug:
    """DBG_DECRYPT and DBG_ENCRYPT."""

    def __init__(self, guests: SevGuests, pages: Pages) -> None:
        self._guests, self._pages = guests, pages

    def copy(self, buffer: bytes) -> None:
        """Either of the two: they differ in which side is the guest's memory."""
        data = sev.sev_data_dbg.from_bytes(buffer)
        guest = self._guests.find(data.handle)
        source = foreign_free(self._pages, data.src_addr, data.len)
        self._pages.address(data.dst_addr, data.len, BLOCK)
        require_blocks(data.len)
        allowed = not guest.policy & SevPolicy.NODBG
        require(allowed, SevFwError.POLICY_FAILURE, "no debugging allowed")
        target = self._pages.output(data.dst_addr, data.len, align=BLOCK)
        guest.require_active()
        for at, part in chunks(data.len):
            content = self._pages.memory.read(source + at, part)
            self._pages.memory.write(target + at, content)
