# SPDX-License-Identifier: GPL-2.0-only
"""AP_CREATION requests that KVM must refuse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.uapi import ghcb
from harness.vm.guest import Guest
from harness.vm.host import Host

pytestmark = [
    pytest.mark.patches(17),
    pytest.mark.areas("AP creation"),
    pytest.mark.needs("snp"),
]

VMSA = 0x401000
CREATES = (ghcb.SVM_VMGEXIT_AP_CREATE_ON_INIT, ghcb.SVM_VMGEXIT_AP_CREATE)


@pytest.fixture
def guest(host: Host) -> Iterator[Guest]:
    """A guest whose second vCPU has not run."""
    with Guest.launch(host, vcpus=2) as launched:
        yield launched


@pytest.mark.parametrize("request_", [*CREATES, ghcb.SVM_VMGEXIT_AP_DESTROY])
def test_unknown_apic_id(guest: Guest, request_: int) -> None:
    """A request for an APIC id that no vCPU has is refused."""
    left = guest.cpu().ap_creation(77, VMSA, request_)
    assert left.malformed == ghcb.GHCB_ERR_INVALID_INPUT


@pytest.mark.parametrize("request_", CREATES)
@pytest.mark.parametrize("vmsa", [VMSA + 1, VMSA + 0x800, 0x400000, 1 << 52 | VMSA])
def test_bad_address(guest: Guest, request_: int, vmsa: int) -> None:
    """A VMSA that is unaligned, aligned to 2 MiB or beyond physical memory is refused."""
    left = guest.cpu().ap_creation(guest.cpu(1).vcpu.id, vmsa, request_)
    assert left.malformed == ghcb.GHCB_ERR_INVALID_INPUT


@pytest.mark.parametrize("request_", CREATES)
@pytest.mark.parametrize("bit", [3, 4])
def test_injection_mode_not_offered(guest: Guest, request_: int, bit: int) -> None:
    """Interrupt injection modes that the VM was not created with are refused."""
    features = guest.vmsa_features | 1 | 1 << bit
    cpu = guest.cpu()
    left = cpu.ap_creation(guest.cpu(1).vcpu.id, VMSA, request_, sev_features=features)
    assert left.malformed == ghcb.GHCB_ERR_INVALID_INPUT


@pytest.mark.parametrize("request_", [3, 0xFFFF])
def test_unknown_request(guest: Guest, request_: int) -> None:
    """A request that is none of create, create on INIT and destroy is refused."""
    left = guest.cpu().ap_creation(guest.cpu(1).vcpu.id, VMSA, request_)
    assert left.malformed == ghcb.GHCB_ERR_INVALID_INPUT
