# SPDX-License-Identifier: GPL-2.0-only
"""Pausing attestation while the host changes TCB or certificates, against requests under way."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from harness.uapi import sev as sevapi
from harness.vm import exits
from harness.vm.errors import SevError
from harness.vm.guest import Guest, GuestCpu
from harness.vm.guest_message import Messenger
from harness.vm.host import Host
from suites.guest_req.messaging import BUSY, extended, report_in, report_of

pytestmark = [
    pytest.mark.patches(28, 29),
    pytest.mark.areas("attestation", "extended guest requests"),
    pytest.mark.needs("snp", "pause_attestation"),
]


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
    assert host.sev.resume_attestation() == second == first + 1


def test_pause_twice(host: Host) -> None:
    """A second pause is refused with EBUSY and does not disturb the first."""
    first = host.sev.pause_attestation()
    for _ in range(2):
        with pytest.raises(SevError) as caught:
            host.sev.pause_attestation()
        assert caught.value.errno == errno.EBUSY
    assert host.sev.resume_attestation() == first


def test_resume_alone(host: Host) -> None:
    """Resume without a pause succeeds and counts as a change: ids do not come again."""
    first = host.sev.resume_attestation()
    assert host.sev.resume_attestation() > first


@pytest.mark.parametrize("command", ["SNP_PAUSE_ATTESTATION", "SNP_RESUME_ATTESTATION"])
def test_no_structure(host: Host, command: str) -> None:
    """A command without a structure is refused, and changes nothing."""
    assert host.sev.call(getattr(sevapi, command))[0] == errno.EINVAL
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
    if host.revision.stale_request_sent:
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
        assert extended(messenger).vmm_error == extended(later).vmm_error == BUSY
        host.sev.resume_attestation()
        report_in(extended(messenger))
        report_in(extended(later))
