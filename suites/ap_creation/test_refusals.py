# SPDX-License-Identifier: GPL-2.0-only
"""AP creation requests that the hypervisor must refuse, and VMSAs that the hardware refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.uapi import ghcb as abi
from harness.uapi.ghcb import GhcbError
from harness.uapi.vmsa import (
    SVM_SEV_FEAT_ALTERNATE_INJECTION,
    SVM_SEV_FEAT_RESTRICTED_INJECTION,
)
from harness.vm.exits import FailEntryExit, InterruptedExit
from harness.vm.guest import Guest
from harness.vm.layout import PAGE_SIZE as PAGE
from suites.ap_creation.starting import (
    AREA,
    booted,
    bring_up,
    kick_out,
    left,
    settle,
    vmsa_page,
)

pytestmark = [
    pytest.mark.patches(19),
    pytest.mark.areas("AP creation", "bad input"),
    pytest.mark.needs("snp"),
]

CREATE = abi.SVM_VMGEXIT_AP_CREATE
INVALID = abi.GHCB_ERR_INVALID_INPUT


def _still_waiting(guest: Guest) -> None:
    """The refused request has started nothing, and a good one still does."""
    waiting = guest.cpu(1).start()
    settle(guest)
    assert guest.cpu(1).header().boots == 0
    assert guest.cpu().start_ap(1, vmsa_page(1)).malformed == GhcbError.NONE
    assert booted(guest, waiting).boots == 1


@pytest.mark.parametrize("apic_id", [2, 7, 255, 0x101, 0x10001, 0x80000001, 0xFFFFFFFF])
def test_unknown_apic_id(pair: Guest, apic_id: int) -> None:
    """A request for a vCPU that does not exist is invalid input, and wakes nobody."""
    pair.cpu().build_vmsa(vmsa_page(1), 1).check()
    assert pair.cpu().ap_creation(apic_id, vmsa_page(1)).malformed == INVALID
    _still_waiting(pair)


@pytest.mark.parametrize("offset", [1, 8, 0x800, 0xFFF])
@pytest.mark.parametrize("request_", [0, 1], ids=["on_init", "create"])
def test_unaligned_vmsa(pair: Guest, offset: int, request_: int) -> None:
    """A VMSA address inside a page is invalid input."""
    answer = pair.cpu().ap_creation(1, vmsa_page(1) + offset, request_)
    assert answer.malformed == INVALID
    _still_waiting(pair)


@pytest.mark.parametrize("gpa", [AREA, 0x600000, 0])
def test_vmsa_aligned_to_2m(pair: Guest, gpa: int) -> None:
    """A VMSA at a 2 MiB boundary is refused, for an erratum of the RMP check."""
    assert pair.cpu().ap_creation(1, gpa).malformed == INVALID
    _still_waiting(pair)


def test_vmsa_beyond_the_address_space(pair: Guest) -> None:
    """A VMSA address above the physical address width is invalid input."""
    assert pair.cpu().ap_creation(1, (1 << 60) + PAGE).malformed == INVALID
    _still_waiting(pair)


@pytest.mark.parametrize("request_", [3, 4, 0x100, 0xFFFFFFFF])
def test_unknown_request(pair: Guest, request_: int) -> None:
    """A request other than CREATE, CREATE_ON_INIT and DESTROY is invalid input."""
    assert pair.cpu().ap_creation(1, vmsa_page(1), request_).malformed == INVALID
    _still_waiting(pair)


@pytest.mark.parametrize("vmpl", [1, 2, 3])
def test_vmpl_other_than_zero(pair: Guest, vmpl: int) -> None:
    """Only VMPL 0 is offered: a request for another is invalid input."""
    assert pair.cpu().ap_creation(1, vmsa_page(1), CREATE, vmpl=vmpl).malformed == INVALID
    _still_waiting(pair)


@pytest.mark.parametrize(
    "mode",
    [
        SVM_SEV_FEAT_RESTRICTED_INJECTION,
        SVM_SEV_FEAT_ALTERNATE_INJECTION,
        SVM_SEV_FEAT_RESTRICTED_INJECTION | SVM_SEV_FEAT_ALTERNATE_INJECTION,
    ],
    ids=["restricted", "alternate", "both"],
)
def test_injection_mode(pair: Guest, mode: int) -> None:
    """An interrupt injection mode that the VM was not made with is invalid input."""
    answer = pair.cpu().ap_creation(1, vmsa_page(1), sev_features=1 | mode)
    assert answer.malformed == INVALID
    _still_waiting(pair)


@pytest.mark.parametrize("bit", [1, 2, 5, 9, 63])
def test_features_other_than_the_vms(pair: Guest, bit: int) -> None:
    """Features that the VM was not made with are invalid input since Linux 6.15."""
    answer = pair.cpu().ap_creation(1, vmsa_page(1), sev_features=1 | 1 << bit)
    if pair.vm.interface.ap_features_exact:
        assert answer.malformed == INVALID
        _still_waiting(pair)
    else:
        assert answer.malformed == GhcbError.NONE


def test_features_missing(pair: Guest) -> None:
    """CREATE without SEV_FEATURES in RAX is malformed: an input is missing."""
    answer = pair.cpu().vmgexit(abi.SVM_VMGEXIT_AP_CREATION, 1 << 32 | CREATE, vmsa_page(1))
    assert answer.malformed == abi.GHCB_ERR_MISSING_INPUT
    _still_waiting(pair)


def test_destroy_needs_no_features(pair: Guest) -> None:
    """DESTROY takes no RAX."""
    info1 = 1 << 32 | abi.SVM_VMGEXIT_AP_DESTROY
    assert pair.cpu().vmgexit(abi.SVM_VMGEXIT_AP_CREATION, info1, 0).malformed == GhcbError.NONE


def test_destroy_ignores_the_features(pair: Guest) -> None:
    """DESTROY does not look at an RAX that is given."""
    info1 = 1 << 32 | abi.SVM_VMGEXIT_AP_DESTROY
    features = 1 | SVM_SEV_FEAT_RESTRICTED_INJECTION | SVM_SEV_FEAT_ALTERNATE_INJECTION
    event = pair.cpu().vmgexit(abi.SVM_VMGEXIT_AP_CREATION, info1, 0, rax=features)
    assert event.malformed == GhcbError.NONE


def test_destroy_ignores_the_address(pair: Guest) -> None:
    """DESTROY does not look at the VMSA address."""
    bring_up(pair, 1)
    answer = pair.cpu().ap_creation(1, 0xFFF, abi.SVM_VMGEXIT_AP_DESTROY)
    assert answer.malformed == GhcbError.NONE


def _refused_by_hardware(guest: Guest, vmsa: int) -> None:
    """CREATE is taken, the target's KVM_RUN fails to enter, and a good VMSA still starts it."""
    waiting = guest.cpu(1).start()
    assert guest.cpu().ap_creation(1, vmsa).malformed == GhcbError.NONE
    assert isinstance(left(guest, waiting), FailEntryExit)
    # The target is runnable now, with what it cannot run; creation comes before it is entered.
    assert guest.cpu().start_ap(1, vmsa_page(3)).malformed == GhcbError.NONE
    assert booted(guest, guest.cpu(1).start()).boots == 1


def test_page_that_is_no_vmsa(pair: Guest) -> None:
    """A private page without the VMSA bit cannot be run: entry fails, the host lives on."""
    pair.cpu().build_vmsa(vmsa_page(1), 1, rmpadjust=False).check()
    _refused_by_hardware(pair, vmsa_page(1))


def test_shared_page(pair: Guest) -> None:
    """A shared page cannot be a VMSA: entry fails."""
    gpa = vmsa_page(1)
    pair.cpu().make_shared(gpa, PAGE)
    _refused_by_hardware(pair, gpa)


def test_page_not_validated(pair: Guest) -> None:
    """A private page that was never validated cannot be a VMSA: entry fails."""
    _refused_by_hardware(pair, 0x601000)


@pytest.mark.parametrize("features", [0, 1 << 40 | 1], ids=["no SNP", "reserved"])
def test_wrong_features_in_the_vmsa(pair: Guest, features: int) -> None:
    """A VMSA whose SEV_FEATURES hardware does not take fails to enter."""
    built = pair.cpu().build_vmsa(vmsa_page(1), 1, sev_features=features).check()
    assert built.value == 0
    _refused_by_hardware(pair, vmsa_page(1))


def test_no_memory_at_the_address(pair: Guest) -> None:
    """A VMSA address without memory fails to enter instead of hanging the vCPU."""
    bring_up(pair, 1)
    assert pair.cpu().ap_creation(1, (1 << 30) + PAGE).malformed == GhcbError.NONE
    assert isinstance(left(pair, pair.cpu(1).start()), FailEntryExit)


def test_vmsa_of_another_guest(smp: Callable[[int], Guest]) -> None:
    """A VMSA page of one guest cannot start a vCPU of another: each has its own memory."""
    one, two = smp(2), smp(2)
    bring_up(one, 1)
    waiting = two.cpu(1).start()
    assert two.cpu().ap_creation(1, vmsa_page(1)).malformed == GhcbError.NONE
    assert isinstance(left(two, waiting), FailEntryExit)
    assert one.cpu(1).cpuid(0) == one.cpu().cpuid(0)


def test_vmsa_page_is_punched_out(pair: Guest) -> None:
    """When the memory of its VMSA is freed a vCPU cannot be entered any more."""
    bring_up(pair, 1)
    pair.vm.gmems[0].punch_hole(vmsa_page(1), PAGE)
    assert pair.cpu().ap_creation(1, vmsa_page(1)).malformed == GhcbError.NONE
    assert isinstance(left(pair, pair.cpu(1).start()), FailEntryExit)


def test_guest_cannot_take_a_running_vcpus_state(pair: Guest) -> None:
    """A refused request for a running AP: what becomes of it is the interface's word."""
    bring_up(pair, 1)
    assert pair.cpu().ap_creation(1, 3).malformed == INVALID
    running = pair.cpu(1).start()
    settle(pair)
    if pair.vm.interface.ap_creation_error_stops_target:
        kick_out(pair.cpu(1), running)
        assert isinstance(pair.cpu(1).stopped, InterruptedExit)
    else:
        assert booted(pair, running).boots == 1
