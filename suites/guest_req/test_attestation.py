# SPDX-License-Identifier: GPL-2.0-only
"""Pausing attestation while the host changes TCB or certificates, against requests under way."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from harness.operations import Ioctl
from harness.uapi import sev as sevapi
from harness.vm import exits
from harness.vm.guest import Guest, GuestCpu
from harness.vm.guest_commands import VmgExitResult
from harness.vm.guest_message import Messenger
from harness.vm.host import Host
from harness.vm.mailbox import Command, Op, VmgExit
from harness.vm.results import attempt
from suites.guest_req.messaging import (
    BUSY,
    DATA,
    EXTENDED,
    PAGE,
    extended,
    report_in,
    report_of,
    report_page,
)

pytestmark = [
    pytest.mark.patches(28, 29),
    pytest.mark.areas("attestation", "extended guest requests"),
    pytest.mark.needs("snp", "pause_attestation"),
]


SEEDS = range(1, 7)
PAUSING = 60
"""Thread that pauses."""


def ready(messenger: Messenger) -> Command:
    """An extended request for a report, laid out in memory: the command that sends it."""
    vm = messenger.cpu.guest.vm
    vm.write_gpa(messenger.request, report_page(messenger))
    vm.write_gpa(messenger.response, bytes(PAGE))
    flags = VmgExit.RAX | VmgExit.RBX
    addresses = messenger.request, messenger.response
    return Command(Op.VMGEXIT, (EXTENDED, *addresses, 0, DATA, 1), flags)


def sent(messenger: Messenger) -> bool:
    """Whether a busy request reached the firmware: then the response page is not empty."""
    return any(messenger.cpu.guest.vm.read_gpa(messenger.response, PAGE))


def pause_op(host: Host) -> Ioctl:
    """SNP_PAUSE_ATTESTATION as an operation for a thread of its own."""
    address = host.kernel.mmap(PAGE)
    request = sevapi.sev_issue_cmd(cmd=sevapi.SNP_PAUSE_ATTESTATION, data=address)
    return Ioctl(host.sev.fd, sevapi.SEV_ISSUE_CMD, bytes(request))


@pytest.fixture(autouse=True)
def _resumed(_needs: None, host: Host) -> Iterator[None]:
    """Attestation goes on at the end, whatever the test did."""
    yield
    host.sev.resume_attestation()


def test_transaction_id(host: Host) -> None:
    """Resume returns the id that its pause returned, and each change has a new one."""
    first = host.sev.pause_attestation()
    assert host.sev.resume_attestation() == first
    second = host.sev.pause_attestation()
    assert second == first + 1
    assert host.sev.resume_attestation() == second


def test_pause_twice(host: Host) -> None:
    """A second pause is refused with EBUSY and does not disturb the first."""
    first = host.sev.pause_attestation()
    for _ in range(2):
        result = attempt("SNP_PAUSE_ATTESTATION", host.sev.pause_attestation)
        assert result.errno == errno.EBUSY
    assert host.sev.resume_attestation() == first


def test_resume_alone(host: Host) -> None:
    """Resume without a pause succeeds and counts as a change: ids do not come again."""
    first = host.sev.resume_attestation()
    assert host.sev.resume_attestation() > first


@pytest.mark.parametrize("command", ["SNP_PAUSE_ATTESTATION", "SNP_RESUME_ATTESTATION"])
def test_no_structure(host: Host, command: str) -> None:
    """A command without a structure is refused, and changes nothing."""
    assert host.sev.call(getattr(sevapi, command)).errno == errno.EINVAL
    first = host.sev.pause_attestation()
    assert host.sev.resume_attestation() == first


def test_paused(host: Host, guest: Guest, messenger: Messenger) -> None:
    """While attestation is paused an extended request is busy, and userspace is not asked."""
    host.sev.pause_attestation()
    for _ in range(3):
        answer = extended(messenger)
        assert (answer.exit.info1, answer.exit.info2) == (0, BUSY << 32)
    assert guest.cpu().exits["VmgexitExit"] == 0
    host.sev.resume_attestation()
    report_in(extended(messenger))


def test_plain_requests_go_on(host: Host, messenger: Messenger) -> None:
    """A pause does not concern requests without certificates."""
    host.sev.pause_attestation()
    report_of(messenger)
    host.sev.resume_attestation()
    report_of(messenger)


@pytest.mark.parametrize("resumes", [False, True], ids=["paused", "paused and resumed"])
def test_change_under_way(host: Host, guest: Guest, messenger: Messenger, resumes: bool) -> None:
    """A request that userspace was serving when a change began is busy, and can be repeated."""

    def change(cpu: GuestCpu, request: exits.VmgexitExit) -> tuple[int, int | None]:
        host.sev.pause_attestation()
        if resumes:
            host.sev.resume_attestation()
        return 0, None

    guest.hooks.ext_guest_request = change
    answer = extended(messenger)
    assert not answer.ok
    assert answer.vmm_error == BUSY
    guest.hooks.ext_guest_request = None
    host.sev.resume_attestation()
    if host.interface.stale_request_sent:
        messenger.seqno += 2
    report_in(extended(messenger))


def test_error_of_userspace_during_a_change(host: Host, guest: Guest, messenger: Messenger) -> None:
    """Userspace's own error is what the guest sees, a change or not, and nothing is sent."""

    def change(cpu: GuestCpu, request: exits.VmgexitExit) -> tuple[int, int | None]:
        host.sev.pause_attestation()
        return 77, None

    guest.hooks.ext_guest_request = change
    assert extended(messenger).vmm_error == 77
    guest.hooks.ext_guest_request = None
    host.sev.resume_attestation()
    report_in(extended(messenger))


def test_pausing_again_and_again(host: Host, guest: Guest, messenger: Messenger) -> None:
    """Requests between changes are answered, those within are busy, whatever the order."""
    for _ in range(8):
        host.sev.pause_attestation()
        assert extended(messenger).vmm_error == BUSY
        host.sev.resume_attestation()
        report_in(extended(messenger))
    assert guest.cpu().exits["VmgexitExit"] == 8


def test_every_vm_is_paused(host: Host, guest: Guest, messenger: Messenger) -> None:
    """A pause holds for all VMs of the host, and for those launched during it."""
    host.sev.pause_attestation()
    with Guest.launch(host) as other:
        later = Messenger(other.cpu())
        assert extended(messenger).vmm_error == BUSY
        assert extended(later).vmm_error == BUSY
        host.sev.resume_attestation()
        report_in(extended(messenger))
        report_in(extended(later))


@pytest.mark.parametrize("seed", SEEDS)
def test_change_on_another_thread(scheduled: Callable[[int], Host], seed: int) -> None:
    """A change that races a request leaves it answered or busy, and the next one is answered.

    The requests of two vCPUs and the pause run on threads of their own, in the seed's order.
    """
    other = scheduled(seed)
    with Guest.launch(other, vcpus=2) as guest:
        messengers = [Messenger(cpu, level=cpu.index) for cpu in guest.cpus]
        for _ in range(4):
            pending = [guest.cpus[one.level].start(ready(one)) for one in messengers]
            ticket = other.kernel.start([pause_op(other)], thread=PAUSING)
            left = [VmgExitResult.of(result) for (result,) in guest.wait(pending)]
            assert other.kernel.wait(ticket)[0].ok
            for messenger, one in zip(messengers, left, strict=True):
                assert one.info2 in (0, BUSY << 32)
                if not one.info2 or (other.interface.stale_request_sent and sent(messenger)):
                    messenger.seqno += 2
            assert extended(messengers[0]).vmm_error == BUSY
            other.sev.resume_attestation()
            for messenger in messengers:
                report_in(extended(messenger))
