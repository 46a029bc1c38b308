# SPDX-License-Identifier: GPL-2.0-only
"""VMs at the stages of a launch; after each test nothing of them may be left in the host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.uapi import kvm as uapi
from harness.vm.gmem import GuestMemfd
from harness.vm.host import Host
from harness.vm.vm import Vm
from suites.launch.launching import add_private


@pytest.fixture
def vm(host: Host) -> Iterator[Vm]:
    """An SNP VM on which nothing was done yet; at its end the host is as it was before."""
    inspector = host.kernel.inspector
    before = inspector.assigned_pages() if inspector else 0
    guests = host.sev.platform_status().guest_count
    made = host.create_vm(uapi.KVM_X86_SNP_VM)
    yield made
    made.close()
    assert host.sev.platform_status().guest_count == guests
    if inspector:
        assert inspector.assigned_pages() == before
        assert not inspector.counters()["leaked_pages"]


@pytest.fixture
def initialised(vm: Vm) -> Vm:
    """An SNP VM after KVM_SEV_INIT2."""
    vm.sev_init2()
    return vm


@pytest.fixture
def gmem(initialised: Vm) -> GuestMemfd:
    """Private memory of PAGES pages at BASE."""
    return add_private(initialised)


@pytest.fixture
def started(initialised: Vm, gmem: GuestMemfd) -> Vm:
    """An SNP VM with private memory after LAUNCH_START."""
    initialised.launch_start()
    return initialised


@pytest.fixture
def finished(started: Vm) -> Vm:
    """An SNP VM with one vCPU and four pages, launched."""
    started.create_vcpu()
    started.launch_update(0x100000, bytes(4 * 4096))
    started.launch_finish()
    return started
