# SPDX-License-Identifier: GPL-2.0-only
"""The firmware model: guest messages, reports, derived keys, certificates.

The guest's side is harness.vm.guest_message, which shares no code with the firmware's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.psp import Psp
from harness.emulator.psp.certificates import (
    OID_BL_SPL,
    OID_CSP_ID,
    OID_HWID,
    OID_PRODUCT_NAME,
    OID_SNP_SPL,
    OID_TEE_SPL,
    OID_UCODE_SPL,
)
from harness.emulator.psp.endorsement import emulated_hashstick
from harness.emulator.psp.tcb import Tcb
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from harness.vm import attestation
from harness.vm import guest_message as client
from tests.psp_host import POLICY, PspHost, psp_host

REPORT_REQ, KEY_REQ = client.MessageType.REPORT_REQ, client.MessageType.KEY_REQ


class Channel:
    """A running guest and its channel to the firmware."""

    def __init__(
        self, host: PspHost, asid: int = 1, start: dict[str, Any] | None = None, **finish: Any
    ) -> None:
        self.host = host
        self.gctx = host.launching(asid, **(start or {}))
        secrets = host.assign(host.page(), 0x1000, asid)
        assert host.update(self.gctx, secrets, sev.SNP_PAGE_TYPE_SECRET) == SevFwError.SUCCESS
        self.secrets = host.memory.read(secrets, PAGE_SIZE)
        assert host.finish(self.gctx, **finish) == SevFwError.SUCCESS
        self.request, self.response = host.page(), host.firmware_page()
        self.counts = [0] * 4

    def key(self, level: int) -> bytes:
        return client.vmpck_of(self.secrets, level)

    def page(self, kind: int, payload: bytes, level: int = 0, **header: Any) -> bytes:
        made = client.MessageHeader(kind, len(payload), self.counts[level] + 1, level)
        return client.seal(self.key(level), dataclasses.replace(made, **header), payload)

    def send_page(self, page: bytes) -> SevFwError:
        self.host.memory.write(self.request, page)
        data = sev.sev_data_snp_guest_request(
            gctx_paddr=self.gctx, req_paddr=self.request, res_paddr=self.response
        )
        return self.host.issue(sev.SEV_CMD_SNP_GUEST_REQUEST, data)

    def send(self, kind: int, payload: bytes, level: int = 0) -> bytes:
        assert self.send_page(self.page(kind, payload, level)) == SevFwError.SUCCESS
        answer = self.host.memory.read(self.response, PAGE_SIZE)
        header, plain = client.unseal(self.key(level), answer)
        assert header.type == kind + 1
        assert header.seqno == self.counts[level] + 2
        self.counts[level] += 2
        return plain

    def report(self, data: bytes = b"", level: int = 0, **request: Any) -> attestation.Report:
        payload = client.report_request(data, **request)
        answer = client.ReportResponse.decode(
            self.send(client.MessageType.REPORT_REQ, payload, level)
        )
        assert answer.status == SevFwError.SUCCESS
        return attestation.Report.decode(answer.report)

    def report_status(self, payload: bytes, level: int = 0) -> int:
        answer = client.ReportResponse.decode(
            self.send(client.MessageType.REPORT_REQ, payload, level)
        )
        assert answer.report == b""
        return answer.status

    def derived(self, level: int = 0, **request: Any) -> client.KeyResponse:
        payload = client.key_request(**request)
        return client.KeyResponse.decode(self.send(KEY_REQ, payload, level))


@pytest.fixture
def host() -> Iterator[PspHost]:
    with psp_host(seed=5) as made:
        yield made


@pytest.fixture
def channel(host: PspHost) -> Channel:
    return Channel(host, host_data=b"h" * 32)


def load_vlek(host: PspHost, tcb: Tcb | None = None) -> None:
    pa = host.page()
    host.memory.write(pa, emulated_hashstick(5, tcb or host.psp.platform.tcb))
    data = sev.sev_user_data_snp_vlek_load(len=16, vlek_wrapped_address=pa)
    host.must(sev.SEV_CMD_SNP_VLEK_LOAD, data)


# -- reports -------------------------------------------------------------------------------


def test_report_says_what_was_launched(host: PspHost, channel: Channel) -> None:
    report = channel.report(b"nonce".ljust(64, b"\0"), vmpl=2)
    guest = host.psp.guests.find(channel.gctx)
    assert (report.version, report.vmpl, report.policy) == (2, 2, POLICY)
    assert report.report_data == b"nonce".ljust(64, b"\0")
    assert report.measurement == guest.digest.value
    assert report.host_data == b"h" * 32
    assert report.chip_id == host.psp.platform.chip_id != bytes(64)
    assert report.current_version == report.committed_version == (1, 55, 40)
    tcb = host.psp.platform.tcb.value
    assert report.current_tcb == report.reported_tcb == report.committed_tcb == tcb
    assert report.launch_tcb == tcb
    assert report.report_id not in (bytes(32), b"\xff" * 32)
    assert report.report_id_ma == b"\xff" * 32
    assert report.signing_key == attestation.SIGNED_BY_VCEK
    assert report.platform_info & 1


def test_report_verifies_up_to_the_ark(host: PspHost, channel: Channel) -> None:
    certificates = host.psp.certificates
    report = channel.report()
    vcek = certificates.vcek()
    report.verify(vcek)
    attestation.verify_chain(vcek, certificates.ask, certificates.ark)
    spoilt = bytearray(report.raw)
    spoilt[0x90] ^= 1
    with pytest.raises(attestation.VerificationError):
        attestation.Report.decode(bytes(spoilt)).verify(vcek)
    with pytest.raises(attestation.VerificationError):
        attestation.verify_chain(vcek, certificates.asvk, certificates.ark)


def test_vcek_belongs_to_chip_and_reported_tcb(host: PspHost, channel: Channel) -> None:
    first = channel.report()
    older = Tcb(boot_loader=1, tee=0, snp=2, microcode=200)
    host.must(sev.SEV_CMD_SNP_CONFIG, sev.sev_user_data_snp_config(reported_tcb=older.value))
    second = channel.report()
    assert second.reported_tcb == older.value != second.current_tcb
    second.verify(host.psp.certificates.vcek())
    with pytest.raises(attestation.VerificationError):
        first.verify(host.psp.certificates.vcek())
    with psp_host(seed=6) as other, pytest.raises(attestation.VerificationError):
        first.verify(other.psp.certificates.vcek(host.psp.platform.tcb))


def test_report_names_the_migration_agent(host: PspHost, channel: Channel) -> None:
    policy = POLICY | sev.SNP_POLICY_MASK_MIGRATE_MA
    start = {"policy": policy, "ma_en": 1, "ma_gctx_paddr": channel.gctx}
    guest = Channel(host, asid=2, start=start)
    assert guest.report().report_id_ma == channel.report().report_id
    assert host.decommission(channel.gctx) == SevFwError.SUCCESS
    assert guest.report().report_id_ma == b"\xff" * 32


def test_masked_chip(host: PspHost, channel: Channel) -> None:
    config = sev.sev_user_data_snp_config(mask_chip_id=1, mask_chip_key=1)
    host.must(sev.SEV_CMD_SNP_CONFIG, config)
    report = channel.report()
    assert report.chip_id == bytes(64)
    assert report.mask_chip_key
    assert report.signing_key == attestation.SIGNED_BY_NONE
    assert report.signature == (0, 0)


def test_vlek_signs_where_it_is_loaded(host: PspHost, channel: Channel) -> None:
    status = channel.report_status(client.report_request(bytes(64), key_select=2))
    assert status == SevFwError.INVALID_KEY
    load_vlek(host)
    certificates = host.psp.certificates
    report = channel.report()
    assert report.signing_key == attestation.SIGNED_BY_VLEK
    report.verify(certificates.vlek())
    attestation.verify_chain(certificates.vlek(), certificates.asvk, certificates.ark)
    channel.report(key_select=1).verify(certificates.vcek())
    assert channel.report_status(client.report_request(bytes(64), key_select=3)) == (
        SevFwError.INVALID_PARAM
    )


def test_vlek_for_an_older_tcb_does_not_sign(host: PspHost, channel: Channel) -> None:
    load_vlek(host, Tcb(boot_loader=1))
    status = channel.report_status(client.report_request(bytes(64)))
    assert status == SevFwError.INVALID_KEY


def test_guest_without_vcek(host: PspHost) -> None:
    channel = Channel(host, vcek_disabled=1)
    assert channel.report_status(client.report_request(bytes(64))) == SevFwError.INVALID_KEY
    load_vlek(host)
    assert channel.report().signing_key == attestation.SIGNED_BY_VLEK


@pytest.mark.parametrize(
    ("level", "vmpl", "good"),
    [(0, 0, True), (0, 3, True), (0, 4, False), (2, 2, True), (2, 3, True), (2, 1, False)],
)
def test_a_key_speaks_for_its_vmpl_and_less(
    channel: Channel, level: int, vmpl: int, good: bool
) -> None:
    payload = client.report_request(bytes(64), vmpl=vmpl)
    answer = client.ReportResponse.decode(channel.send(5, payload, level))
    assert answer.status == (SevFwError.SUCCESS if good else SevFwError.INVALID_PARAM)
    key = channel.derived(level, vmpl=vmpl)
    assert key.status == answer.status
    assert (key.key != bytes(32)) == good


# -- derived keys --------------------------------------------------------------------------


def test_derived_key_depends_on_what_is_selected(host: PspHost, channel: Channel) -> None:
    other = Channel(host, asid=2)
    everything = {channel.derived(field_select=1 << bit).key for bit in range(6)}
    everything |= {channel.derived(vmpl=vmpl).key for vmpl in range(4)}
    assert len(everything) == 10
    assert channel.derived().key == channel.derived().key
    assert channel.derived().key == other.derived().key
    vmrk = channel.derived(root_key_select=1)
    assert vmrk.key != other.derived(root_key_select=1).key
    assert vmrk.key not in everything
    older = channel.derived(field_select=1 << 5, tcb_version=Tcb(1).value)
    assert older.key not in everything


@pytest.mark.parametrize(
    "request_fields",
    [
        {"root_key_select": 8},
        {"field_select": 1 << 6},
        {"guest_svn": 1},
        {"tcb_version": Tcb(boot_loader=200).value},
        {"tcb_version": 1 << 30},
    ],
)
def test_derived_key_refused(channel: Channel, request_fields: dict[str, int]) -> None:
    answer = channel.derived(**request_fields)
    assert (answer.status, answer.key) == (SevFwError.INVALID_PARAM, bytes(32))


# -- messages ------------------------------------------------------------------------------

REPORT = client.report_request(bytes(64))


def test_each_vmpck_counts_for_itself(channel: Channel) -> None:
    for level in (0, 1, 1, 3, 0):
        channel.report(level=level, vmpl=3)
    assert channel.counts == [4, 4, 0, 2]


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"seqno": 0}, SevFwError.INVALID_PARAM),
        ({"seqno": 2}, SevFwError.INVALID_PARAM),
        ({"seqno": 1 << 63}, SevFwError.INVALID_PARAM),
        ({"algo": 0}, SevFwError.INVALID_PARAM),
        ({"algo": 2}, SevFwError.INVALID_PARAM),
        ({"header_version": 2}, SevFwError.INVALID_PARAM),
        ({"header_size": 0x40}, SevFwError.INVALID_PARAM),
        ({"size": 4096}, SevFwError.INVALID_PARAM),
        ({"size": 4001}, SevFwError.INVALID_PARAM),
        ({"size": 4000}, SevFwError.BAD_MEASUREMENT),
        ({"vmpck": 4}, SevFwError.INVALID_PARAM),
        ({"vmpck": 1}, SevFwError.BAD_MEASUREMENT),
        ({"version": 9}, SevFwError.INVALID_PARAM),
        ({"type": 0}, SevFwError.INVALID_PARAM),
        ({"type": 6}, SevFwError.INVALID_PARAM),
        ({"type": 3}, SevFwError.INVALID_PARAM),
    ],
)
def test_bad_header_leaves_no_response_and_no_count(
    host: PspHost, channel: Channel, header: dict[str, int], error: SevFwError
) -> None:
    assert channel.send_page(channel.page(5, REPORT, **header)) == error
    assert host.memory.read(channel.response, PAGE_SIZE) == bytes(PAGE_SIZE)
    channel.report()


def test_replay_is_refused(channel: Channel) -> None:
    page = channel.page(5, REPORT)
    assert channel.send_page(page) == SevFwError.SUCCESS
    assert channel.send_page(page) == SevFwError.INVALID_PARAM


@pytest.mark.parametrize("at", [0, 0x30, 0x36, 0x60, 0x60 + 95])
def test_tampering_is_noticed(channel: Channel, at: int) -> None:
    page = bytearray(channel.page(5, REPORT))
    page[at] ^= 0x80
    assert channel.send_page(bytes(page)) in (
        SevFwError.BAD_MEASUREMENT,
        SevFwError.INVALID_PARAM,
    )
    channel.report()


def test_sequence_numbers_run_out(host: PspHost, channel: Channel) -> None:
    last = (1 << 64) - 3
    host.psp.guests.find(channel.gctx).message_counts[0] = channel.counts[0] = last
    channel.report()
    page = channel.page(5, REPORT, seqno=0)
    assert channel.send_page(page) == SevFwError.AEAD_OFLOW


def test_request_and_response_pages_are_checked(host: PspHost, channel: Channel) -> None:
    firmware = channel.response
    channel.response = host.page()
    assert channel.send_page(channel.page(5, REPORT)) == SevFwError.INVALID_PAGE_STATE
    channel.response = firmware + 8
    assert channel.send_page(channel.page(5, REPORT)) == SevFwError.INVALID_ADDRESS
    channel.response = 1 << 40
    assert channel.send_page(channel.page(5, REPORT)) == SevFwError.INVALID_ADDRESS
    channel.response = firmware
    channel.request = host.assign(host.page(), 0x9000, 1)
    assert channel.send_page(channel.page(5, REPORT)) == SevFwError.INVALID_PAGE_STATE


def test_cpuid_message_is_checked_like_the_page(channel: Channel) -> None:
    function = (1).to_bytes(4, "little") + bytes(20)
    good = function + (0x00A00F11).to_bytes(4, "little") + bytes(20)
    bad = function + bytes(8) + (1 << 24).to_bytes(4, "little") + bytes(12)
    header = (1).to_bytes(4, "little") + bytes(12)
    assert channel.send(1, header + good) == bytes(4) + header[:12] + good
    answer = channel.send(1, header + bad)
    assert int.from_bytes(answer[:4], "little") == SevFwError.INVALID_PARAM
    assert answer[16:] == function + bytes(24)


# -- certificates --------------------------------------------------------------------------


def extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes:
    value = certificate.extensions.get_extension_for_oid(oid).value
    assert isinstance(value, x509.UnrecognizedExtension)
    return value.value


def test_vcek_certificate_names_chip_and_tcb(host: PspHost) -> None:
    tcb = Tcb(boot_loader=3, tee=0, snp=20, microcode=209)
    vcek = host.psp.certificates.vcek(tcb)
    assert extension(vcek, OID_BL_SPL) == b"\x02\x01\x03"
    assert extension(vcek, OID_TEE_SPL) == b"\x02\x01\x00"
    assert extension(vcek, OID_SNP_SPL) == b"\x02\x01\x14"
    assert extension(vcek, OID_UCODE_SPL) == b"\x02\x02\x00\xd1"
    assert extension(vcek, OID_HWID) == host.psp.platform.chip_id
    assert extension(vcek, OID_PRODUCT_NAME) == b"\x16\x08Milan-B0"
    with pytest.raises(x509.ExtensionNotFound):
        extension(vcek, OID_CSP_ID)
    assert "not AMD" in vcek.subject.rfc4514_string()


def test_everything_follows_from_the_seed() -> None:
    def run(seed: int) -> tuple[bytes, ...]:
        with psp_host(seed=seed) as host:
            channel = Channel(host)
            psp: Psp = host.psp
            certificates = psp.certificates.ark, psp.certificates.ask, psp.certificates.vcek()
            der = [c.public_bytes(serialization.Encoding.DER) for c in certificates]
            return (channel.secrets, channel.report().raw, *der)

    first, again, other = run(1), run(1), run(2)
    assert first == again
    assert [a == b for a, b in zip(first, other, strict=True)] == [False, False, True, True, False]
