# SPDX-License-Identifier: GPL-2.0-only
"""Where request and response may lie: two different, aligned, shared pages with memory."""

from __future__ import annotations

import pytest

from harness.uapi.errors import SevFwError
from harness.vm import layout
from harness.vm.guest import DEFAULT_MEMORY, Guest
from harness.vm.guest_commands import VmgExitResult
from harness.vm.guest_message import Messenger
from suites.guest_req.messaging import (
    DATA,
    EXTENDED,
    PAGE,
    REQUEST,
    assert_not_carried,
    attempt,
    refused,
    report_of,
    report_page,
)

pytestmark = [
    pytest.mark.patches(26, 29),
    pytest.mark.areas("guest requests"),
    pytest.mark.needs("snp"),
]

GOOD_REQUEST, GOOD_RESPONSE = DATA, DATA + PAGE
PRIVATE = layout.FREE_GPA
BEYOND = DEFAULT_MEMORY
MARK = b"private to the guest"
PLACES = [
    pytest.param(GOOD_REQUEST + 1, GOOD_RESPONSE, id="request off by 1"),
    pytest.param(GOOD_REQUEST + 0x800, GOOD_RESPONSE, id="request in mid-page"),
    pytest.param(GOOD_REQUEST, GOOD_RESPONSE + 8, id="response off by 8"),
    pytest.param(GOOD_REQUEST, GOOD_RESPONSE + 0xFFF, id="response at the page's end"),
    pytest.param(GOOD_REQUEST, GOOD_REQUEST, id="one page for both"),
]
NOWHERE = [
    pytest.param(BEYOND, id="beyond memory"),
    pytest.param(0xFEC00000, id="device"),
    pytest.param((1 << 51) - PAGE, id="end of the address space"),
    pytest.param(1 << 32 | GOOD_RESPONSE + PAGE, id="above 4 GiB"),
]


@pytest.fixture
def ready(guest: Guest) -> Messenger:
    """A messenger with a good request in its page."""
    messenger = Messenger(guest.cpu(), request=GOOD_REQUEST, response=GOOD_RESPONSE)
    guest.vm.write_gpa(GOOD_REQUEST, report_page(messenger))
    guest.vm.write_gpa(GOOD_RESPONSE, MARK)
    return messenger


def made_private(guest: Guest, content: bytes) -> int:
    """A validated private page with content, and the shared view of it in the host zeroed."""
    guest.cpu().make_private(PRIVATE, PAGE)
    guest.cpu().write(PRIVATE, content)
    return PRIVATE


@pytest.mark.parametrize("code", [REQUEST, EXTENDED], ids=["request", "extended"])
@pytest.mark.parametrize(("request_gpa", "response_gpa"), PLACES)
def test_unaligned_or_equal(
    guest: Guest, ready: Messenger, request_gpa: int, response_gpa: int, code: int
) -> None:
    """Addresses that are unaligned or equal are refused, and no message is sent."""
    left = attempt(guest.cpu(), request_gpa, response_gpa, code, rax=DATA + 8 * PAGE, rbx=0)
    assert isinstance(left, VmgExitResult)
    bad_address = guest.vm.interface.guest_request_bad_address
    if bad_address is None:
        assert_not_carried(guest.cpu(), left)
    else:
        assert left.malformed == bad_address
    assert guest.vm.read_gpa(GOOD_RESPONSE, len(MARK)) == MARK
    report_of(ready)


@pytest.mark.parametrize("gpa", NOWHERE)
def test_request_without_memory(guest: Guest, ready: Messenger, gpa: int) -> None:
    """A request where there is no memory is not carried, and the next message is answered."""
    assert_not_carried(guest.cpu(), attempt(guest.cpu(), gpa, GOOD_RESPONSE))
    assert guest.vm.read_gpa(GOOD_RESPONSE, len(MARK)) == MARK
    report_of(ready)


@pytest.mark.parametrize("gpa", NOWHERE)
def test_response_without_memory(guest: Guest, gpa: int) -> None:
    """A response that has no memory to go to is reported, and the guest can go on."""
    messenger = Messenger(guest.cpu(), level=1)
    guest.vm.write_gpa(messenger.request, report_page(messenger))
    assert_not_carried(guest.cpu(), attempt(guest.cpu(), messenger.request, gpa))
    report_of(Messenger(guest.cpu()))


def test_private_request(guest: Guest, ready: Messenger) -> None:
    """A request in private memory is not seen by the host: what it finds there is no message."""
    made_private(guest, report_page(ready))
    left = attempt(guest.cpu(), PRIVATE, GOOD_RESPONSE)
    assert isinstance(left, VmgExitResult)
    assert left.info2 == refused(guest.vm.interface, SevFwError.INVALID_PARAM)
    report_of(ready)


def test_private_response(guest: Guest, ready: Messenger) -> None:
    """A response cannot be written to private memory: the guest's content stays."""
    made_private(guest, MARK)
    left = attempt(guest.cpu(), GOOD_REQUEST, PRIVATE)
    assert isinstance(left, VmgExitResult)
    assert guest.cpu().read(PRIVATE, len(MARK)) == MARK


def test_converted_pages(guest: Guest, ready: Messenger) -> None:
    """Pages that the guest has made shared serve for messages as any other."""
    made_private(guest, MARK)
    guest.cpu().make_shared(PRIVATE, PAGE)
    messenger = Messenger(guest.cpu(), request=GOOD_REQUEST, response=PRIVATE)
    assert report_of(messenger, b"here").report_data.startswith(b"here")


def test_private_pages_stay_usable(guest: Guest, ready: Messenger) -> None:
    """After a request in private memory the pages can be converted, and used, as before."""
    made_private(guest, MARK)
    attempt(guest.cpu(), PRIVATE, GOOD_RESPONSE)
    guest.cpu().make_shared(PRIVATE, PAGE)
    guest.vm.write_gpa(PRIVATE, b"by the host")
    assert guest.cpu().read(PRIVATE, 11, private=False) == b"by the host"
    report_of(ready)


def test_rest_of_memory_untouched(guest: Guest, ready: Messenger) -> None:
    """Nothing but the response page is written."""
    before = guest.vm.read_gpa(GOOD_REQUEST, PAGE)
    around = (GOOD_REQUEST - PAGE, GOOD_RESPONSE + PAGE)
    for gpa in around:
        guest.vm.write_gpa(gpa, b"\xa5" * PAGE)
    assert isinstance(attempt(guest.cpu(), GOOD_REQUEST, GOOD_RESPONSE), VmgExitResult)
    assert guest.vm.read_gpa(GOOD_REQUEST, PAGE) == before
    for gpa in around:
        assert guest.vm.read_gpa(gpa, PAGE) == b"\xa5" * PAGE
