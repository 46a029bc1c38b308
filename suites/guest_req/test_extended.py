# SPDX-License-Identifier: GPL-2.0-only
"""Extended guest requests: certificates beside the report, by userspace or an empty table."""

from __future__ import annotations

import pytest

from harness.uapi import ghcb as abi
from harness.uapi import kvm as uapi
from harness.uapi.errors import SevFwError
from harness.vm import exits, layout
from harness.vm.guest import DEFAULT_MEMORY, Guest, GuestCpu
from harness.vm.guest_commands import VmgExitResult
from harness.vm.guest_message import MessageType, Messenger, key_request
from suites.guest_req.messaging import (
    BUSY,
    CERTIFICATES,
    DATA,
    EXTENDED,
    INVALID_LEN,
    PAGE,
    CertificateSource,
    assert_not_carried,
    attempt,
    extended,
    refused,
    report_in,
    report_of,
    report_page,
)

pytestmark = [
    pytest.mark.patches(29),
    pytest.mark.areas("guest requests", "extended guest requests"),
    pytest.mark.needs("snp"),
]

by_userspace = pytest.mark.needs("userspace_certificates")
empty_table = pytest.mark.needs("empty_certificate_table")
PATTERN = b"\x5a" * PAGE
TABLE_END = bytes(24)


class Vmm(CertificateSource):
    """What userspace answers, and what it was asked."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(guest)
        self.asked: list[exits.VmgexitExit] = []
        guest.hooks.ext_guest_request = self.answer

    def answer(self, cpu: GuestCpu, request: exits.VmgexitExit) -> tuple[int, int | None]:
        """As a VMM with certificates does."""
        self.asked.append(request)
        return self.give(request.data_gpa, request.data_npages, INVALID_LEN)


@pytest.fixture
def vmm(guest: Guest) -> Vmm:
    """Userspace with certificates."""
    return Vmm(guest)


def test_report(messenger: Messenger) -> None:
    """An extended request gives the same report as a plain one."""
    plain = report_of(messenger, b"x" * 64)
    report = report_in(extended(messenger, b"x" * 64, pages=4))
    assert report.raw[:0x2A0] == plain.raw[:0x2A0]


def test_other_messages(messenger: Messenger) -> None:
    """An extended request may carry any message."""
    key = messenger.derived_key()
    answer = messenger.send(
        MessageType.KEY_REQ, key_request(), extended=True, data_gpa=DATA, data_pages=1
    )
    assert answer.payload[32:64] == key


def test_firmware_refusal(guest: Guest, messenger: Messenger) -> None:
    """A message that the firmware refuses fails the extended request with its error."""
    page = report_page(messenger, seqno=7)
    left = messenger.send_page(page, extended=True, data_gpa=DATA, data_pages=4).exit
    assert left.info2 == refused(guest.vm.interface, SevFwError.INVALID_PARAM)
    report_in(extended(messenger, pages=4))


@pytest.mark.parametrize("offset", [1, 24, 0xFFF])
def test_unaligned_data(guest: Guest, messenger: Messenger, offset: int) -> None:
    """Certificates cannot go to an address that is not aligned; nothing is written or sent."""
    guest.vm.write_gpa(DATA, PATTERN * 2)
    answer = extended(messenger, gpa=DATA + offset)
    assert not answer.ok
    interface = guest.vm.interface
    if interface.userspace_certificates:
        assert (answer.exit.info1, answer.vmm_error) == (0, interface.guest_request_generic)
    else:
        assert answer.exit.malformed == abi.GHCB_ERR_INVALID_INPUT
    assert guest.vm.read_gpa(DATA, 2 * PAGE) == PATTERN * 2
    report_of(messenger)


# -- certificates from userspace -----------------------------------------------------------


@by_userspace
def test_certificates(guest: Guest, messenger: Messenger, vmm: Vmm) -> None:
    """Userspace is asked where to write how many pages, and the guest reads what it wrote."""
    report = report_in(extended(messenger, b"with", pages=4))
    assert report.report_data.startswith(b"with")
    (asked,) = vmm.asked
    assert asked.type == uapi.KVM_USER_VMGEXIT_EXT_GUEST_REQ
    assert (asked.data_gpa, asked.data_npages) == (DATA, 4)
    size = len(CERTIFICATES)
    assert guest.cpu().read(DATA, size, private=False) == CERTIFICATES


@by_userspace
@pytest.mark.parametrize("pages", [0, 1, 2])
def test_short_buffer(messenger: Messenger, vmm: Vmm, pages: int) -> None:
    """A buffer that is too short is answered with the pages needed, and nothing is sent."""
    answer = extended(messenger, pages=pages)
    assert answer.exit.info2 == INVALID_LEN << 32
    assert answer.exit.rbx == 3
    assert vmm.asked[-1].data_npages == pages
    report_in(extended(messenger, pages=answer.exit.rbx))


@by_userspace
def test_busy(messenger: Messenger, vmm: Vmm) -> None:
    """Userspace that is busy has the guest come again with the same message."""
    vmm.error = BUSY
    for _ in range(3):
        assert extended(messenger, pages=4).exit.info2 == BUSY << 32
    vmm.error = 0
    report_in(extended(messenger, pages=4))
    assert len(vmm.asked) == 4


@by_userspace
@pytest.mark.parametrize("error", [3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF], ids=hex)
def test_error_from_userspace(messenger: Messenger, vmm: Vmm, error: int) -> None:
    """Any other error of userspace reaches the guest, and nothing is sent."""
    vmm.error = error
    answer = extended(messenger, pages=4)
    assert (answer.exit.info1, answer.vmm_error, answer.fw_error) == (0, error, 0)
    assert answer.exit.rbx == 4
    report_of(messenger)


@by_userspace
def test_unaligned_data_is_not_asked_for(messenger: Messenger, vmm: Vmm) -> None:
    """Userspace does not see a request with an unaligned address."""
    assert not extended(messenger, gpa=DATA + 8, pages=4).ok
    assert not vmm.asked


@by_userspace
def test_certificates_of_a_request_that_fails(guest: Guest, vmm: Vmm) -> None:
    """A request whose message cannot be read fails after userspace has served it."""
    buffer = layout.buffer(0)
    left = attempt(guest.cpu(), DEFAULT_MEMORY, buffer, EXTENDED, rax=DATA, rbx=4)
    assert_not_carried(guest.cpu(), left)
    assert len(vmm.asked) == 1


@by_userspace
def test_kvm_does_not_touch_the_buffer(guest: Guest, messenger: Messenger, vmm: Vmm) -> None:
    """Where userspace writes nothing, the guest's buffer keeps its content."""
    vmm.certificates = b""
    guest.vm.write_gpa(DATA, PATTERN)
    report_in(extended(messenger))
    assert guest.vm.read_gpa(DATA, PAGE) == PATTERN


# -- KVM's empty table ---------------------------------------------------------------------


@empty_table
def test_empty_table(guest: Guest, messenger: Messenger) -> None:
    """The buffer begins with the end of a table, and no other byte of it is written."""
    guest.vm.write_gpa(DATA, PATTERN)
    report_in(extended(messenger))
    assert guest.vm.read_gpa(DATA, PAGE) == TABLE_END + PATTERN[len(TABLE_END) :]
    assert guest.cpu().exits["VmgexitExit"] == 0


@empty_table
def test_no_buffer(guest: Guest, messenger: Messenger) -> None:
    """With a buffer of no pages nothing is written, and the report comes."""
    guest.vm.write_gpa(DATA, PATTERN)
    report_in(extended(messenger, pages=0))
    assert guest.vm.read_gpa(DATA, PAGE) == PATTERN


@empty_table
def test_table_is_for_reports_only(guest: Guest, messenger: Messenger) -> None:
    """A request for a key has no certificates: its buffer is not looked at."""
    guest.vm.write_gpa(DATA, PATTERN)
    answer = messenger.send(
        MessageType.KEY_REQ, key_request(), extended=True, data_gpa=DATA + 1, data_pages=1
    )
    assert answer.ok
    assert guest.vm.read_gpa(DATA, PAGE) == PATTERN


@empty_table
@pytest.mark.parametrize("fields", [{}, {"rax": DATA}, {"rbx": 1}], ids=["none", "rax", "rbx"])
def test_registers_not_given(guest: Guest, messenger: Messenger, fields: dict[str, int]) -> None:
    """A request for a report needs RAX and RBX, and is malformed without."""
    guest.vm.write_gpa(messenger.request, report_page(messenger))
    left = attempt(guest.cpu(), messenger.request, messenger.response, EXTENDED, **fields)
    assert isinstance(left, VmgExitResult)
    assert left.malformed == abi.GHCB_ERR_INVALID_INPUT
    report_of(messenger)


@empty_table
@pytest.mark.parametrize("gpa", [DEFAULT_MEMORY, 0xFEC00000, 1 << 32 | DATA], ids=hex)
def test_table_without_memory(guest: Guest, messenger: Messenger, gpa: int) -> None:
    """A buffer where there is no memory is not carried, and the next message is answered."""
    guest.vm.write_gpa(messenger.request, report_page(messenger))
    addresses = messenger.request, messenger.response
    left = attempt(guest.cpu(), *addresses, EXTENDED, rax=gpa, rbx=1)
    assert_not_carried(guest.cpu(), left)
    report_of(messenger)


@empty_table
def test_private_buffer(guest: Guest, messenger: Messenger) -> None:
    """The table cannot be written to private memory: the guest's content stays."""
    gpa = layout.FREE_GPA
    guest.cpu().make_private(gpa, PAGE)
    guest.cpu().write(gpa, PATTERN)
    report_in(extended(messenger, gpa=gpa))
    assert guest.cpu().read(gpa, PAGE) == PATTERN


@empty_table
def test_request_without_memory(guest: Guest) -> None:
    """An extended request where there is no memory is not carried."""
    buffer = layout.buffer(0)
    left = attempt(guest.cpu(), DEFAULT_MEMORY, buffer, EXTENDED, rax=DATA, rbx=1)
    assert_not_carried(guest.cpu(), left)
    report_of(Messenger(guest.cpu()))
