# SPDX-License-Identifier: GPL-2.0-only
"""Running guests whose pages change state; nothing of them may be left in the RMP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.uapi import kvm as uapi
from harness.vm.guest import Guest
from harness.vm.host import Host
from suites.psc.changing import BYTES


def _launch(host: Host, vm_type: int, vcpus: int = 1) -> Iterator[Guest]:
    inspector = host.kernel.inspector
    before = inspector.assigned_pages() if inspector else 0
    with Guest.launch(host, vcpus=vcpus, vm_type=vm_type, memory=BYTES) as guest:
        yield guest
    if inspector:
        assert inspector.assigned_pages() == before
        assert not inspector.counters()["leaked_pages"]


@pytest.fixture
def guest(host: Host) -> Iterator[Guest]:
    """An SNP guest with one vCPU."""
    yield from _launch(host, uapi.KVM_X86_SNP_VM)


@pytest.fixture
def pair(host: Host) -> Iterator[Guest]:
    """An SNP guest with two vCPUs."""
    yield from _launch(host, uapi.KVM_X86_SNP_VM, vcpus=2)


@pytest.fixture(params=["snp", "sw_protected"])
def vm_type(host: Host, request: pytest.FixtureRequest) -> int:
    """Each VM type that has private memory."""
    types = {"snp": uapi.KVM_X86_SNP_VM, "sw_protected": uapi.KVM_X86_SW_PROTECTED_VM}
    wanted = types[request.param]
    if wanted not in host.vm_types:
        pytest.skip(f"this host has no VMs of type {request.param}")
    return wanted


@pytest.fixture
def any_guest(host: Host, vm_type: int) -> Iterator[Guest]:
    """A guest with private memory and one vCPU, SNP or plain."""
    yield from _launch(host, vm_type)


@pytest.fixture
def any_pair(host: Host, vm_type: int) -> Iterator[Guest]:
    """A guest with private memory and two vCPUs, SNP or plain."""
    yield from _launch(host, vm_type, vcpus=2)
