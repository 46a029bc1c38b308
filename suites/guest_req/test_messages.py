# SPDX-License-Identifier: GPL-2.0-only
"""Guest messages: numbers, keys, authentication, and headers that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from harness.uapi.errors import SevFwError
from harness.vm.errors import MessageError
from harness.vm.guest import Guest
from harness.vm.guest_message import (
    MAX_PAYLOAD,
    MessageHeader,
    MessageType,
    Messenger,
    report_request,
    seal,
    unseal,
)
from harness.vm.host import Host
from suites.guest_req.messaging import PAGE, refused, report_of, report_page

pytestmark = [
    pytest.mark.patches(26),
    pytest.mark.areas("guest requests", "guest messages"),
    pytest.mark.needs("snp"),
]


def assert_refused(messenger: Messenger, page: bytes, error: SevFwError) -> None:
    """The firmware refuses a page and gives no fresh answer; the next good message is answered."""
    guest = messenger.cpu.guest
    left = messenger.send_page(page).exit
    assert (left.info1, left.info2) == (0, refused(guest.vm.interface, error))
    try:
        header, _ = unseal(messenger.key, guest.vm.read_gpa(messenger.response, PAGE))
    except MessageError:
        pass
    else:
        assert header.seqno <= messenger.seqno
    assert report_of(messenger, b"good").report_data.startswith(b"good")


def test_many_messages(messenger: Messenger) -> None:
    """Request and response count on by one each, for as long as the guest talks."""
    for number in range(50):
        assert messenger.seqno == 1 + 2 * number
        messenger.derived_key()


@pytest.mark.parametrize("before", [1, 3])
def test_number_reused(messenger: Messenger, before: int) -> None:
    """A message that was answered once is refused when it comes again."""
    for _ in range(before - 1):
        messenger.derived_key()
    page = report_page(messenger)
    assert messenger.send_page(page).ok
    messenger.seqno += 2
    assert_refused(messenger, page, SevFwError.INVALID_PARAM)


@pytest.mark.parametrize("step", [-1, 1, 2, 1 << 32])
def test_wrong_number(messenger: Messenger, step: int) -> None:
    """A number that was skipped, or is the response's, is refused; the right one is kept."""
    messenger.derived_key()
    page = report_page(messenger, seqno=messenger.seqno + step)
    assert_refused(messenger, page, SevFwError.INVALID_PARAM)


@pytest.mark.parametrize("number", [0, (1 << 64) - 1])
def test_extreme_number(messenger: Messenger, number: int) -> None:
    """Numbers at the ends of the range are refused."""
    page = report_page(messenger, seqno=number)
    assert_refused(messenger, page, SevFwError.INVALID_PARAM)


def test_keys_count_apart(guest: Guest) -> None:
    """Each VMPCK counts its own messages."""
    messengers = [Messenger(guest.cpu(), level=level) for level in range(4)]
    assert len({messenger.key for messenger in messengers}) == 4
    for rounds, messenger in enumerate(messengers):
        for _ in range(rounds):
            report_of(messenger, vmpl=3)
    for messenger in messengers:
        assert report_of(messenger, vmpl=3).vmpl == 3


@pytest.mark.parametrize(("claimed", "used"), [(0, 1), (1, 0), (3, 2)])
def test_wrong_vmpck(guest: Guest, claimed: int, used: int) -> None:
    """A message sealed with another VMPCK than it names does not authenticate."""
    messenger, other = (Messenger(guest.cpu(), level=level) for level in (claimed, used))
    payload = report_request(vmpl=3)
    header = MessageHeader(MessageType.REPORT_REQ, len(payload), 1, claimed)
    left = messenger.send_page(seal(other.key, header, payload)).exit
    assert left.info2 == refused(guest.vm.interface, SevFwError.BAD_MEASUREMENT)
    for one in (messenger, other):
        report_of(one, vmpl=3)


@pytest.mark.parametrize("level", [4, 255])
def test_unknown_vmpck(messenger: Messenger, level: int) -> None:
    """There are four VMPCKs."""
    page = report_page(messenger, vmpck=level)
    assert_refused(messenger, page, SevFwError.INVALID_PARAM)


def test_key_of_another_guest(host: Host, messenger: Messenger) -> None:
    """A message sealed with another guest's VMPCK does not authenticate."""
    with Guest.launch(host) as other:
        foreign = Messenger(other.cpu())
        assert foreign.key != messenger.key
        page = report_page(foreign)
    assert_refused(messenger, page, SevFwError.BAD_MEASUREMENT)


@pytest.mark.parametrize(
    "offset",
    [
        pytest.param(0x00, id="tag"),
        pytest.param(0x0F, id="end of the tag"),
        pytest.param(0x34, id="type"),
        pytest.param(0x35, id="version"),
        pytest.param(0x36, id="size"),
        pytest.param(0x38, id="reserved word"),
        pytest.param(0x3D, id="reserved bytes"),
        pytest.param(0x5F, id="end of the header"),
        pytest.param(0x60, id="payload"),
        pytest.param(0xBF, id="end of the payload"),
    ],
)
def test_tampered(messenger: Messenger, offset: int) -> None:
    """A message of which one bit changed under way does not authenticate."""
    page = bytearray(report_page(messenger))
    page[offset] ^= 1
    assert_refused(messenger, bytes(page), SevFwError.BAD_MEASUREMENT)


def test_not_a_message(messenger: Messenger) -> None:
    """A page of zeros, of ones, or the last response is no request."""
    vm = messenger.cpu.guest.vm
    messenger.derived_key()
    response = vm.read_gpa(messenger.response, PAGE)
    for page in (bytes(PAGE), b"\xff" * PAGE, response):
        assert_refused(messenger, page, SevFwError.INVALID_PARAM)


@pytest.mark.parametrize("field", ["algo", "header_version", "header_size", "version"])
@pytest.mark.parametrize("value", [0, 2, 255])
def test_wrong_header(messenger: Messenger, field: str, value: int) -> None:
    """Another algorithm, header version, header size or message version is refused."""
    header: dict[str, Any] = {field: value}
    page = report_page(messenger, **header)
    assert_refused(messenger, page, SevFwError.INVALID_PARAM)


@pytest.mark.parametrize(
    "kind", [0, MessageType.REPORT_RSP, MessageType.KEY_RSP, 0x40, 0xFF], ids=int
)
def test_wrong_type(messenger: Messenger, kind: int) -> None:
    """A message of no type, or of a response's, is refused."""
    page = report_page(messenger, type=int(kind))
    assert_refused(messenger, page, SevFwError.INVALID_PARAM)


@pytest.mark.parametrize("size", [MAX_PAYLOAD + 1, 0xFFFF])
def test_size_beyond_the_page(messenger: Messenger, size: int) -> None:
    """A payload cannot be larger than the page leaves room for."""
    page = report_page(messenger, size=size)
    assert_refused(messenger, page, SevFwError.INVALID_PARAM)


def test_size_shorter_than_the_payload(messenger: Messenger) -> None:
    """A size that cuts the payload off breaks its authentication."""
    page = report_page(messenger, size=64)
    assert_refused(messenger, page, SevFwError.BAD_MEASUREMENT)


def test_answers_are_encrypted(messenger: Messenger) -> None:
    """Nothing of a report is readable in the shared pages that carried it."""
    report = report_of(messenger, b"attested data".ljust(64, b"."))
    vm = messenger.cpu.guest.vm
    for gpa in (messenger.request, messenger.response):
        page = vm.read_gpa(gpa, PAGE)
        assert b"attested data" not in page
        assert report.measurement not in page
        assert report.report_id not in page


def test_response_header(messenger: Messenger) -> None:
    """A response names type, number, key and size, and its rest is zeros."""
    report_of(messenger)
    page = messenger.cpu.guest.vm.read_gpa(messenger.response, PAGE)
    header = MessageHeader.decode(page)
    assert (header.type, header.seqno, header.vmpck) == (MessageType.REPORT_RSP, 2, 0)
    assert (header.version, header.header_version) == (1, 1)
    assert not any(page[0x60 + header.size :])
