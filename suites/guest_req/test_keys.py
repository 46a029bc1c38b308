# SPDX-License-Identifier: GPL-2.0-only
"""Derived keys: the same for the same request, and different in all that was mixed in."""

from __future__ import annotations

from typing import Any

import pytest

from harness.uapi import sev as sevapi
from harness.uapi.errors import SevFwError
from harness.vm.attestation import Report
from harness.vm.guest import Guest
from harness.vm.guest_message import MessageType, Messenger, key_request
from harness.vm.host import Host
from harness.vm.id_block import id_auth, id_block, owner_key
from harness.vm.vm import DEFAULT_POLICY
from suites.guest_req.messaging import key_of, key_response, refused, report_of

pytestmark = [
    pytest.mark.patches(26),
    pytest.mark.areas("guest requests", "derived keys"),
    pytest.mark.needs("snp"),
]

POLICY, IMAGE_ID, FAMILY_ID, MEASUREMENT, GUEST_SVN, TCB = (1 << bit for bit in range(6))
"""GUEST_FIELD_SELECT of MSG_KEY_REQ."""
VMRK = 1


def owned(host: Host, digest: bytes, **fields: Any) -> Guest:
    """A guest with an ID block."""
    block = id_block(digest, DEFAULT_POLICY, **fields)
    auth = id_auth(block, owner_key("owner"), None)
    finish = {"id_block_en": 1, "id_block": bytes(block), "id_auth": bytes(auth)}
    return Guest.launch(host, finish=finish)


def test_same_request_same_key(messenger: Messenger) -> None:
    """The same request gives the same key as often as it is made, and no empty one."""
    first, again = messenger.derived_key(), messenger.derived_key()
    assert first == again
    assert any(first)


def test_key_outlives_the_guest(host: Host, messenger: Messenger) -> None:
    """Without guest fields a key from the chip's root is the same in another guest."""
    with Guest.launch(host) as other:
        assert key_of(other) == messenger.derived_key()


def test_vmrk(host: Host, messenger: Messenger) -> None:
    """A key from the VMRK is not that from the chip's root, and is the guest's alone."""
    mine = messenger.derived_key(key_request(root_key_select=VMRK))
    assert mine == messenger.derived_key(key_request(root_key_select=VMRK))
    assert mine != messenger.derived_key()
    with Guest.launch(host) as other:
        assert key_of(other, root_key_select=VMRK) != mine


def test_selection_is_mixed_in(messenger: Messenger) -> None:
    """Each selection of fields and each VMPL gives a key of its own."""
    selections = (0, POLICY, IMAGE_ID, FAMILY_ID, MEASUREMENT, GUEST_SVN, TCB, 0x3F)
    keys = [messenger.derived_key(key_request(field_select=one)) for one in selections]
    keys += [messenger.derived_key(key_request(vmpl=vmpl)) for vmpl in range(1, 4)]
    assert len(set(keys)) == len(keys)


def test_measurement(host: Host, guest: Guest) -> None:
    """A guest with another measurement gets another key where the measurement is selected."""
    with Guest.launch(host, vcpus=2) as other:
        messengers = [Messenger(one.cpu()) for one in (guest, other)]
        plain = [one.derived_key() for one in messengers]
        mixed = [one.derived_key(key_request(field_select=MEASUREMENT)) for one in messengers]
    assert plain[0] == plain[1]
    assert mixed[0] != mixed[1]


def test_policy(host: Host, guest: Guest) -> None:
    """A guest with another policy gets another key where the policy is selected."""
    with Guest.launch(host, policy=DEFAULT_POLICY | sevapi.SNP_POLICY_MASK_DEBUG) as other:
        messengers = [Messenger(one.cpu()) for one in (guest, other)]
        plain = [one.derived_key() for one in messengers]
        mixed = [one.derived_key(key_request(field_select=POLICY)) for one in messengers]
    assert plain[0] == plain[1]
    assert mixed[0] != mixed[1]


@pytest.mark.parametrize(
    ("field", "select"), [("family_id", FAMILY_ID), ("image_id", IMAGE_ID)], ids=str
)
def test_ids(host: Host, guest: Guest, field: str, select: int) -> None:
    """A guest whose ID block names another family or image gets another key for it."""
    digest, request = guest.expected_digest(), key_request(field_select=select)
    plain, mixed = [], []
    for content in (b"a" * 16, b"b" * 16):
        with owned(host, digest, **{field: content}) as one:
            messenger = Messenger(one.cpu())
            plain.append(messenger.derived_key())
            mixed.append(messenger.derived_key(request))
    assert plain[0] == plain[1]
    assert mixed[0] != mixed[1]


def test_guest_svn(host: Host, guest: Guest) -> None:
    """A guest derives keys for its SVN and older ones, each another, but for no newer one."""
    with owned(host, guest.expected_digest(), guest_svn=2) as one:
        messenger = Messenger(one.cpu())
        keys = [key_response(messenger, field_select=GUEST_SVN, guest_svn=svn) for svn in range(4)]
    assert [key.status for key in keys] == [0, 0, 0, SevFwError.INVALID_PARAM]
    assert len({key.key for key in keys[:3]}) == 3
    assert keys[3].key == bytes(32)


def test_tcb_version(messenger: Messenger) -> None:
    """A guest derives keys for committed TCBs, each another, but for no newer one."""
    report: Report = report_of(messenger)
    assert report.committed_tcb >> 48 & 0xFF > 0
    older, newer = report.committed_tcb - (1 << 48), report.committed_tcb + (1 << 48)
    versions = (0, older, report.committed_tcb)
    keys = [messenger.derived_key(key_request(field_select=TCB, tcb_version=v)) for v in versions]
    assert len(set(keys)) == len(keys)
    beyond = key_response(messenger, field_select=TCB, tcb_version=newer)
    assert (beyond.status, beyond.key) == (SevFwError.INVALID_PARAM, bytes(32))


@pytest.mark.parametrize(
    "fields",
    [
        {"root_key_select": 1 << 3},
        {"root_key_select": 3 << 1},
        {"field_select": 1 << 6},
        {"field_select": 1 << 63},
        {"tcb_version": 1 << 16},
        {"vmpl": 4},
    ],
    ids=str,
)
def test_reserved(messenger: Messenger, fields: dict[str, Any]) -> None:
    """A request with reserved bits or values is answered with a status and no key."""
    response = key_response(messenger, **fields)
    assert (response.status, response.key) == (SevFwError.INVALID_PARAM, bytes(32))


def test_reserved_word(messenger: Messenger) -> None:
    """The word behind ROOT_KEY_SELECT must be zero."""
    payload = bytearray(key_request())
    payload[4] = 1
    assert key_response(messenger, bytes(payload)).status == SevFwError.INVALID_PARAM


@pytest.mark.parametrize("level", [1, 3])
def test_vmpl_above_the_key(guest: Guest, level: int) -> None:
    """A VMPCK derives no key of a VMPL with more privilege than its own."""
    messenger = Messenger(guest.cpu(), level=level)
    assert key_response(messenger, vmpl=level).status == 0
    assert key_response(messenger, vmpl=level - 1).status == SevFwError.INVALID_PARAM


@pytest.mark.parametrize("size", [0, 31, 33])
def test_payload_size(host: Host, messenger: Messenger, size: int) -> None:
    """A key request of another size than the specification's is refused."""
    answer = messenger.send(MessageType.KEY_REQ, key_request().ljust(size, b"\0")[:size])
    assert answer.exit.info2 == refused(host.interface, SevFwError.INVALID_PARAM)
    messenger.derived_key()


def test_vcek_disabled(host: Host) -> None:
    """A guest that has no use of the VCEK gets no key from it, but its VMRK serves."""
    finish: dict[str, Any] = {host.interface.finish_key_field: 1}
    with Guest.launch(host, finish=finish) as guest:
        messenger = Messenger(guest.cpu())
        assert key_response(messenger).status == SevFwError.INVALID_KEY
        assert key_response(messenger, root_key_select=VMRK).status == 0
