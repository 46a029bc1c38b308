# SPDX-License-Identifier: GPL-2.0-only
"""VMs and guests with private memory, of the strongest type that the host offers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.inspector import Inspector
from harness.uapi import kvm as uapi
from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.vm import Vm
from suites.gmem.memory import MEMORY


@pytest.fixture
def vm(host: Host) -> Iterator[Vm]:
    """A VM with private memory, initialised for SNP where it is an SNP VM; no memory yet."""
    with host.create_vm() as made:
        if made.is_snp:
            made.sev_init2()
        yield made


@pytest.fixture
def inspector(host: Host) -> Inspector:
    """What the RMP holds."""
    assert host.kernel.inspector is not None, "needs('inspector') comes first"
    return host.kernel.inspector


@pytest.fixture
def guest(host: Host) -> Iterator[Guest]:
    """A running guest with one vCPU; when it is gone nothing of it is left in the RMP."""
    rmp = host.kernel.inspector
    before = rmp.assigned_pages() if rmp else 0
    with Guest.launch(host, memory=MEMORY) as launched:
        launched.cpu().boot()
        yield launched
    if rmp:
        assert rmp.assigned_pages() == before


@pytest.fixture
def pair(host: Host) -> Iterator[Guest]:
    """A running guest with two vCPUs."""
    with Guest.launch(host, memory=MEMORY, vcpus=2) as launched:
        for cpu in launched.cpus:
            cpu.boot()
        yield launched


@pytest.fixture
def plain(host: Host) -> Iterator[Guest]:
    """A running KVM_X86_SW_PROTECTED_VM with one vCPU; only attributes make its memory private."""
    kind = uapi.KVM_X86_SW_PROTECTED_VM
    with Guest.launch(host, memory=MEMORY, vm_type=kind) as launched:
        launched.cpu().boot()
        yield launched


@pytest.fixture
def plain_pair(host: Host) -> Iterator[Guest]:
    """The same with two vCPUs."""
    kind = uapi.KVM_X86_SW_PROTECTED_VM
    with Guest.launch(host, memory=MEMORY, vm_type=kind, vcpus=2) as launched:
        for cpu in launched.cpus:
            cpu.boot()
        yield launched
