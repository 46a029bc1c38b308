# SPDX-License-Identifier: GPL-2.0-only
"""Certificates from userspace by KVM_EXIT_SNP_REQ_CERTS (Documentation/virt/kvm/api.rst, 7.0)."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.uapi.errors import SevFwError
from harness.vm import exits, layout
from harness.vm.exits import RunError
from harness.vm.guest import DEFAULT_MEMORY, Guest, GuestCpu
from harness.vm.guest_message import MessageType, Messenger, key_request
from harness.vm.host import Host
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
    report_in,
    report_of,
    report_page,
)

pytestmark = [
    pytest.mark.patches(29),
    pytest.mark.areas("guest requests", "extended guest requests"),
    pytest.mark.needs("snp", "request_certificates"),
]

GENERIC = 0xFFFFFFFF
"""SNP_GUEST_VMM_ERR_GENERIC (arch/x86/kvm/svm/sev.c, 7.0)."""
ENABLE = sevapi.KVM_SEV_SNP_ENABLE_REQ_CERTS
PATTERN = b"\x5a" * PAGE
NEEDED = -(-len(CERTIFICATES) // PAGE)


class Vmm(CertificateSource):
    """What userspace answers, and what it was asked."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(guest)
        self.asked: list[exits.CertificatesExit] = []
        guest.hooks.certificates = self.answer

    def answer(self, cpu: GuestCpu, request: exits.CertificatesExit) -> tuple[int, int | None]:
        """As a VMM with certificates does."""
        self.asked.append(request)
        return self.give(request.gpa, request.npages, errno.ENOSPC)


@pytest.fixture
def guest(host: Host) -> Iterator[Guest]:
    """A guest whose VMM has certificates."""
    with Guest.launch(host, certificates=True) as launched:
        yield launched


@pytest.fixture
def messenger(guest: Guest) -> Messenger:
    """Messages of the guest under VMPCK0."""
    return Messenger(guest.cpu())


@pytest.fixture
def vmm(guest: Guest) -> Vmm:
    """Userspace with certificates."""
    return Vmm(guest)


# -- enabling ------------------------------------------------------------------------------


def test_is_told(host: Host) -> None:
    """/dev/kvm says that it can ask for certificates."""
    request = bytes(
        uapi.kvm_device_attr(group=uapi.KVM_X86_GRP_SEV, attr=uapi.KVM_X86_SEV_SNP_REQ_CERTS)
    )
    assert host.kernel.ioctl(host.fd, uapi.KVM_HAS_DEVICE_ATTR, request).ok


def test_snp_guests_only(host: Host) -> None:
    """Only a VM that is an SNP guest can enable it."""
    with host.create_vm(uapi.KVM_X86_SNP_VM) as vm:
        assert vm.sev_call(ENABLE).errno == errno.EINVAL
        vm.sev_init2()
        for _ in range(2):
            assert vm.sev_call(ENABLE).errno == 0
    with host.create_vm(uapi.KVM_X86_SEV_ES_VM) as vm:
        vm.sev_init2()
        assert vm.sev_call(ENABLE).errno == errno.EINVAL


def test_not_once_there_are_vcpus(host: Host) -> None:
    """A VM that has a vCPU cannot enable it any more."""
    with host.create_vm(uapi.KVM_X86_SNP_VM) as vm:
        guest = Guest.of(vm)
        vm.sev_init2()
        guest.add_memory()
        guest.add_vcpu()
        assert vm.sev_call(ENABLE).errno == errno.EINVAL


def test_nobody_is_asked_unless_enabled(host: Host) -> None:
    """Without it the guest gets an empty table, and userspace is not asked."""
    with Guest.launch(host) as guest:
        vmm = Vmm(guest)
        guest.vm.write_gpa(DATA, PATTERN)
        report_in(extended(Messenger(guest.cpu())))
        assert guest.vm.read_gpa(DATA, PAGE) == bytes(24) + PATTERN[24:]
        assert not vmm.asked


# -- asking --------------------------------------------------------------------------------


def test_certificates(guest: Guest, messenger: Messenger, vmm: Vmm) -> None:
    """Userspace is asked where to write how many pages, and the guest reads what it wrote."""
    report = report_in(extended(messenger, b"with", pages=4))
    assert report.report_data.startswith(b"with")
    assert vmm.asked == [exits.CertificatesExit(DATA, 4)]
    assert guest.cpu().read(DATA, len(CERTIFICATES), private=False) == CERTIFICATES


def test_userspace_that_writes_nothing(guest: Guest, messenger: Messenger, vmm: Vmm) -> None:
    """Where userspace writes nothing, the guest's buffer keeps its content."""
    vmm.certificates = b""
    guest.vm.write_gpa(DATA, PATTERN)
    report_in(extended(messenger))
    assert guest.vm.read_gpa(DATA, PAGE) == PATTERN


@pytest.mark.parametrize("pages", range(NEEDED))
def test_short_buffer(messenger: Messenger, vmm: Vmm, pages: int) -> None:
    """ENOSPC tells the guest how many pages are needed, and nothing is sent."""
    answer = extended(messenger, pages=pages)
    assert (answer.exit.info1, answer.exit.info2) == (0, INVALID_LEN << 32)
    assert answer.exit.rbx == NEEDED
    assert vmm.asked[-1].npages == pages
    report_in(extended(messenger, pages=answer.exit.rbx))


@pytest.mark.parametrize(
    ("error", "told"), [(errno.EAGAIN, BUSY), (errno.EIO, GENERIC)], ids=["EAGAIN", "EIO"]
)
def test_error_from_userspace(messenger: Messenger, vmm: Vmm, error: int, told: int) -> None:
    """EAGAIN is busy to the guest, EIO a generic error; the message can be sent again."""
    vmm.error = error
    for _ in range(3):
        answer = extended(messenger, pages=4)
        assert (answer.exit.info1, answer.exit.info2) == (0, told << 32)
        assert answer.exit.rbx == 4
    vmm.error = 0
    report_in(extended(messenger, pages=4))
    assert len(vmm.asked) == 4


@pytest.mark.parametrize("error", [1, errno.EINVAL, -errno.EIO, 1 << 32], ids=hex)
def test_answer_that_kvm_does_not_know(
    guest: Guest, messenger: Messenger, vmm: Vmm, error: int
) -> None:
    """Any other answer of userspace fails KVM_RUN with EINVAL, and nothing is sent."""
    vmm.error = error
    guest.vm.write_gpa(messenger.request, report_page(messenger))
    left = attempt(guest.cpu(), messenger.request, messenger.response, EXTENDED, rax=DATA, rbx=4)
    assert left == RunError(errno.EINVAL)


def test_unaligned_data_is_not_asked_for(messenger: Messenger, vmm: Vmm) -> None:
    """Userspace does not see a request with an unaligned address."""
    assert not extended(messenger, gpa=DATA + 8, pages=4).ok
    assert not vmm.asked
    report_of(messenger)


def test_certificates_are_for_reports_only(guest: Guest, messenger: Messenger, vmm: Vmm) -> None:
    """A request for a key has no certificates: userspace is not asked."""
    answer = messenger.send(
        MessageType.KEY_REQ, key_request(), extended=True, data_gpa=DATA, data_pages=4
    )
    assert answer.ok
    assert not vmm.asked


def test_request_without_memory(guest: Guest, vmm: Vmm) -> None:
    """A request whose message cannot be read is not carried, and userspace is not asked."""
    buffer = layout.buffer(0)
    left = attempt(guest.cpu(), DEFAULT_MEMORY, buffer, EXTENDED, rax=DATA, rbx=4)
    assert_not_carried(guest.cpu(), left)
    assert not vmm.asked


def test_firmware_refusal(guest: Guest, messenger: Messenger, vmm: Vmm) -> None:
    """Certificates do not help a message that the firmware refuses."""
    answer = messenger.send_page(
        report_page(messenger, seqno=7), extended=True, data_gpa=DATA, data_pages=4
    )
    assert answer.exit.info2 == SevFwError.INVALID_PARAM
    assert len(vmm.asked) == 1
    report_in(extended(messenger, pages=4))
