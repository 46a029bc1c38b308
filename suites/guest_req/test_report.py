# SPDX-License-Identifier: GPL-2.0-only
"""Attestation reports: what they say of guest and platform, and who vouches for it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from harness.uapi import sev as sevapi
from harness.uapi.errors import SevFwError
from harness.vm.attestation import SIGNED_BY_VCEK, Report, VerificationError, verify_chain
from harness.vm.guest import Guest
from harness.vm.guest_message import MessageType, Messenger, report_request
from harness.vm.host import Host
from harness.vm.id_block import id_auth, id_block, owner_key
from harness.vm.vm import DEFAULT_POLICY
from suites.guest_req.messaging import (
    VCEK,
    VLEK,
    certificate,
    refused,
    report_of,
    report_status,
)

pytestmark = [
    pytest.mark.patches(26),
    pytest.mark.areas("guest requests", "attestation"),
    pytest.mark.needs("snp"),
]


def test_signed_up_to_the_root(endorsed: Host, messenger: Messenger) -> None:
    """The VCEK signs a report, the ASK certifies the VCEK, and the ARK the ASK."""
    report = report_of(messenger)
    vcek, ask, ark = (certificate(endorsed, name) for name in ("vcek", "ask", "ark"))
    assert report.signing_key == SIGNED_BY_VCEK
    report.verify(vcek)
    verify_chain(vcek, ask, ark)


@pytest.mark.parametrize("offset", [0, 0x50, 0x90, 0x1A0, 0x29F])
def test_signature_covers_the_report(endorsed: Host, messenger: Messenger, offset: int) -> None:
    """A report in which one bit was changed no longer verifies."""
    raw = bytearray(report_of(messenger).raw)
    raw[offset] ^= 0x80
    with pytest.raises(VerificationError):
        Report.decode(bytes(raw)).verify(certificate(endorsed, "vcek"))


def test_report_data(messenger: Messenger, rng: random.Random) -> None:
    """A report carries the 64 bytes that its request gave."""
    for data in (bytes(64), b"\xff" * 64, rng.randbytes(64)):
        assert report_of(messenger, data).report_data == data


@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_measurement(host: Host, vcpus: int) -> None:
    """The measurement is the launch digest of the guest's pages and of every vCPU."""
    with Guest.launch(host, vcpus=vcpus) as guest:
        assert report_of(Messenger(guest.cpu())).measurement == guest.expected_digest()


def test_host_data(host: Host, rng: random.Random) -> None:
    """A report carries the host data that LAUNCH_FINISH was given."""
    data = rng.randbytes(32)
    with Guest.launch(host, finish={"host_data": data}) as guest:
        assert report_of(Messenger(guest.cpu())).host_data == data


def test_nothing_given(messenger: Messenger) -> None:
    """Without ID block and host data their fields are zeros."""
    report = report_of(messenger)
    assert report.host_data == bytes(32)
    assert report.id_key_digest == bytes(48)
    assert report.author_key_digest == bytes(48)
    assert report.family_id == bytes(16)
    assert report.image_id == bytes(16)
    assert not report.author_key_en


@pytest.mark.parametrize("author", [None, "author"])
def test_id_key_digest(host: Host, guest: Guest, author: str | None) -> None:
    """A report names the keys that signed the ID block, and what the block says."""
    key, by = owner_key("owner"), owner_key(author) if author else None
    block = id_block(guest.expected_digest(), DEFAULT_POLICY, family_id=b"f" * 16, guest_svn=3)
    finish = {
        "id_block_en": 1,
        "auth_key_en": int(by is not None),
        "id_block": bytes(block),
        "id_auth": bytes(id_auth(block, key, by)),
    }
    with Guest.launch(host, finish=finish) as owned:
        report = report_of(Messenger(owned.cpu()))
    assert report.id_key_digest == key.digest
    assert report.author_key_digest == (by.digest if by else bytes(48))
    assert report.author_key_en == (by is not None)
    assert (report.family_id, report.guest_svn) == (b"f" * 16, 3)


@pytest.mark.parametrize("policy", [DEFAULT_POLICY, DEFAULT_POLICY | sevapi.SNP_POLICY_MASK_DEBUG])
def test_policy(host: Host, policy: int) -> None:
    """A report shows the policy that LAUNCH_START was given."""
    with Guest.launch(host, policy=policy) as guest:
        assert report_of(Messenger(guest.cpu())).policy == policy


def test_platform(host: Host, messenger: Messenger) -> None:
    """A report agrees with SNP_PLATFORM_STATUS about TCB and firmware version."""
    status, report = host.sev.platform_status(), report_of(messenger)
    assert report.current_tcb == report.launch_tcb
    assert status.current_tcb_version == report.launch_tcb
    assert report.reported_tcb == status.reported_tcb_version
    assert report.current_version == (status.api_major, status.api_minor, status.build_id & 0xFF)
    assert any(report.chip_id)
    assert not report.mask_chip_key


def test_report_id(host: Host, messenger: Messenger) -> None:
    """All reports of a guest have one report ID; another guest has another, but the same chip."""
    first, again = report_of(messenger), report_of(messenger)
    with Guest.launch(host) as other:
        foreign = report_of(Messenger(other.cpu()))
    assert first.report_id == again.report_id
    assert foreign.report_id != again.report_id
    assert any(first.report_id)
    assert first.report_id_ma == b"\xff" * 32
    assert first.chip_id == foreign.chip_id


@pytest.mark.parametrize("level", range(4))
def test_vmpl(guest: Guest, level: int) -> None:
    """A VMPCK speaks for its own VMPL and for those of less privilege, not for the others."""
    messenger = Messenger(guest.cpu(), level=level)
    for vmpl in range(level, 4):
        assert report_of(messenger, vmpl=vmpl).vmpl == vmpl
    for vmpl in (*range(level), 4, 0xFFFFFFFF):
        status = report_status(messenger, report_request(vmpl=vmpl))
        assert status == SevFwError.INVALID_PARAM, f"VMPL{vmpl} under VMPCK{level}"


@pytest.mark.parametrize("offset", [72, 95])
def test_reserved_bytes(messenger: Messenger, offset: int) -> None:
    """A request with reserved bytes that are not zero is answered with a status and no report."""
    payload = bytearray(report_request())
    payload[offset] = 1
    assert report_status(messenger, bytes(payload)) == SevFwError.INVALID_PARAM
    assert report_status(messenger, report_request()) == 0


@pytest.mark.parametrize("size", [0, 1, 72, 95, 97, 128])
def test_payload_size(host: Host, messenger: Messenger, size: int) -> None:
    """A report request of another size than the specification's is refused."""
    answer = messenger.send(MessageType.REPORT_REQ, report_request().ljust(size, b"\0")[:size])
    assert answer.exit.info2 == refused(host.interface, SevFwError.INVALID_PARAM)
    report_of(messenger)


def test_key_selection(messenger: Messenger) -> None:
    """KEY_SEL chooses the signing key: the VCEK is there, a VLEK is not, 3 means nothing."""
    assert report_of(messenger, key_select=VCEK).signing_key == SIGNED_BY_VCEK
    payload = report_request(key_select=VLEK)
    assert report_status(messenger, payload) == SevFwError.INVALID_KEY
    payload = report_request(key_select=3)
    assert report_status(messenger, payload) == SevFwError.INVALID_PARAM


def test_vcek_disabled(host: Host) -> None:
    """A guest launched to have no use of the VCEK gets no report signed by it."""
    finish: dict[str, Any] = {host.interface.finish_key_field: 1}
    with Guest.launch(host, finish=finish) as guest:
        messenger = Messenger(guest.cpu())
        for select in (0, VCEK):
            payload = report_request(key_select=select)
            assert report_status(messenger, payload) == SevFwError.INVALID_KEY
