# SPDX-License-Identifier: GPL-2.0-only
"""What page state changes stand on: the GHCB's registration, its negotiation, termination."""

from __future__ import annotations

import errno

import pytest

from harness.uapi import ghcb as abi
from harness.uapi import kvm as uapi
from harness.uapi.ghcb import GhcbError
from harness.vm import layout
from harness.vm.exits import RunError, SystemEventExit
from harness.vm.guest import Guest
from harness.vm.guest_commands import VmgExitResult
from harness.vm.host import Host
from harness.vm.mailbox import Command, Op
from suites.psc.changing import A

pytestmark = [
    pytest.mark.patches(13),
    pytest.mark.areas("GHCB"),
    pytest.mark.needs("snp"),
]

OTHER = layout.SHARED_FREE_GPA


@pytest.mark.parametrize("gpa", [OTHER, layout.ghcb(5), A, 1 << 40])
def test_any_page_can_be_registered(guest: Guest, gpa: int) -> None:
    """The answer to a registration is the page that was asked for."""
    # One batch: the guest's own page is to be registered again before it reports.
    pages = (gpa, layout.ghcb(0))
    results = guest.cpu().run(
        Command(Op.VMGEXIT_MSR, (page | abi.GHCB_MSR_REG_GPA_REQ,)) for page in pages
    )
    for page, result in zip(pages, results, strict=True):
        assert result.check().value == page | abi.GHCB_MSR_REG_GPA_RESP


def test_unregistered_page(guest: Guest) -> None:
    """An NAE event with a page that is not the registered one fails.

    KVM_RUN does, with EINVAL, or (Linux 7.2) the guest is told that its page is not registered.
    """
    cpu = guest.cpu()
    reason = guest.vm.interface.unregistered_ghcb
    if reason is not None:
        event = Command(Op.VMGEXIT, (abi.SVM_VMGEXIT_HV_FEATURES, 0, 0))
        other, own = (
            Command(Op.VMGEXIT_MSR, (page | abi.GHCB_MSR_REG_GPA_REQ,))
            for page in (OTHER, layout.ghcb(0))
        )
        answer = VmgExitResult.of(cpu.run([other, event, own])[1].check())
        assert (answer.malformed, answer.info2) == (reason, reason)
        assert cpu.vmgexit(abi.SVM_VMGEXIT_HV_FEATURES).malformed == GhcbError.NONE
        return
    cpu.start(
        Command(Op.VMGEXIT_MSR, (OTHER | abi.GHCB_MSR_REG_GPA_REQ,)),
        Command(Op.VMGEXIT, (abi.SVM_VMGEXIT_HV_FEATURES, 0, 0)),
    )
    assert cpu.pending is not None
    cpu.wait(cpu.pending)
    assert cpu.stopped == RunError(errno.EINVAL)


def test_no_preferred_page(guest: Guest) -> None:
    """The hypervisor prefers no GHCB page."""
    answer = guest.cpu().vmgexit_msr(abi.GHCB_MSR_PREF_GPA_REQ).check().value
    none = abi.GHCB_MSR_PREF_GPA_NONE << abi.GHCB_MSR_GPA_VALUE_POS
    assert answer == none & (1 << 64) - 1 | abi.GHCB_MSR_PREF_GPA_RESP


def test_protocol_versions(guest: Guest, host: Host) -> None:
    """SEV information names protocol version 2 as the highest, 1 as the lowest, and the C-bit."""
    answer = guest.cpu().vmgexit_msr(abi.GHCB_MSR_SEV_INFO_REQ).check().value
    assert answer & 0xFFF == abi.GHCB_MSR_SEV_INFO_RESP
    assert (answer >> 48, answer >> 32 & 0xFFFF) == (2, 1)
    assert answer >> 24 & 0xFF == host.cbit


@pytest.mark.parametrize("request_", [0x003, 0x0FF, 0xFFF])
def test_unknown_request_is_left_alone(guest: Guest, request_: int) -> None:
    """A request that the hypervisor does not know comes back as it was."""
    value = 0x1234 << 12 | request_
    assert guest.cpu().vmgexit_msr(value).check().value == value


@pytest.mark.parametrize("register", range(4))
def test_cpuid_by_msr(guest: Guest, register: int) -> None:
    """CPUID by the MSR protocol gives each register as CPUID by the GHCB page does."""
    cpu = guest.cpu()
    assert cpu.cpuid(0, by_msr=True)[register] == cpu.cpuid(0)[register]


@pytest.mark.patches(20)
@pytest.mark.parametrize(("reason_set", "reason"), [(0, 0), (0, 2), (1, 4)])
def test_termination(guest: Guest, reason_set: int, reason: int) -> None:
    """A termination request ends KVM_RUN with a SEV_TERM event that carries the reason."""
    value = abi.GHCB_MSR_TERM_REQ | reason_set << 12 | reason << 16
    cpu = guest.cpu()
    cpu.vmgexit_msr(value)
    assert cpu.stopped == SystemEventExit(uapi.KVM_SYSTEM_EVENT_SEV_TERM, (value,))


@pytest.mark.patches(20)
def test_termination_by_nae(guest: Guest) -> None:
    """The NAE event for termination ends KVM_RUN with a SEV_TERM event that names the GHCB."""
    cpu = guest.cpu()
    cpu.vmgexit_raw(abi.SVM_VMGEXIT_TERM_REQUEST, 0, 1)
    where = layout.ghcb(0)
    assert cpu.stopped == SystemEventExit(uapi.KVM_SYSTEM_EVENT_SEV_TERM, (where,))


def test_usage_other_than_zero(guest: Guest) -> None:
    """A GHCB of a usage that KVM does not know is malformed."""
    answer = guest.cpu().vmgexit(abi.SVM_VMGEXIT_HV_FEATURES, usage=1)
    assert answer.malformed == abi.GHCB_ERR_INVALID_USAGE


@pytest.mark.parametrize(
    "code", [0x8000_0014, 0x8000_FFF0, 0x400, 1 << 32 | 0x72, 1 << 63 | 0x72, (1 << 64) - 1]
)
def test_unknown_event(guest: Guest, code: int) -> None:
    """An event that KVM does not know is malformed."""
    assert guest.cpu().vmgexit(code).malformed == abi.GHCB_ERR_INVALID_EVENT
