# SPDX-License-Identifier: GPL-2.0-only
"""Running guests whose pages change state; nothing of them may be left in the RMP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import features
from harness.uapi import kvm as uapi
from harness.vm.guest import Guest, Hooks
from harness.vm.host import Host
from suites.psc.changing import BYTES, A

CLEARED = 64 << 10
"""Shared memory from A on that a lent guest finds empty."""


class Keeper:
    """Guests that serve test after test, as long as a test leaves them able to go on."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._kept: dict[tuple[int, int], Guest] = {}

    def lend(self, vm_type: int, vcpus: int = 1) -> Iterator[Guest]:
        """A guest whose private memory from A on, and some shared, is as after its launch."""
        guest = self._kept.pop((vm_type, vcpus), None)
        if guest is None:
            guest = Guest.launch(self._host, vcpus=vcpus, vm_type=vm_type, memory=BYTES)
        else:
            _reset(guest)
        slots = len(guest.vm.slots)
        done = False
        try:
            yield guest
            done = len(guest.vm.slots) == slots
        finally:
            if done and not any(cpu.stopped or cpu.pending for cpu in guest.cpus):
                self._kept[vm_type, vcpus] = guest
            else:
                guest.close()

    def close(self) -> None:
        """Close every guest."""
        for guest in self._kept.values():
            guest.close()


def _reset(guest: Guest) -> None:
    guest.hooks = Hooks()
    guest.psc_requests.clear()
    guest.vm.gmems[0].punch_hole(A, BYTES - A)
    guest.vm.set_memory_attributes(A, BYTES - A, private=guest.is_snp)
    guest.vm.write_gpa(A, bytes(CLEARED))
    if guest.vm.host.extension(uapi.KVM_CAP_EXIT_HYPERCALL) >> uapi.KVM_HC_MAP_GPA_RANGE & 1:
        guest.vm.enable_cap(uapi.KVM_CAP_EXIT_HYPERCALL, 1 << uapi.KVM_HC_MAP_GPA_RANGE)


@pytest.fixture(scope="module")
def keeper(host: Host) -> Iterator[Keeper]:
    """Guests for the tests of a module; at its end the RMP is as it was before."""
    inspector = host.kernel.inspector
    before = inspector.assigned_pages() if inspector else 0
    kept = Keeper(host)
    yield kept
    kept.close()
    if inspector:
        assert inspector.assigned_pages() == before
        assert not inspector.counters()["leaked_pages"]


@pytest.fixture
def guest(keeper: Keeper) -> Iterator[Guest]:
    """An SNP guest with one vCPU."""
    yield from keeper.lend(uapi.KVM_X86_SNP_VM)


@pytest.fixture(params=["snp", "sw_protected"])
def vm_type(host: Host, request: pytest.FixtureRequest) -> int:
    """Each VM type that has private memory."""
    types = {"snp": uapi.KVM_X86_SNP_VM, "sw_protected": uapi.KVM_X86_SW_PROTECTED_VM}
    reason = features.lacks(request.param, host)
    if reason:
        pytest.skip(reason)
    return types[request.param]


@pytest.fixture
def any_guest(keeper: Keeper, vm_type: int) -> Iterator[Guest]:
    """A guest with private memory and one vCPU, SNP or plain."""
    yield from keeper.lend(vm_type)


@pytest.fixture
def any_pair(keeper: Keeper, vm_type: int) -> Iterator[Guest]:
    """A guest with private memory and two vCPUs, SNP or plain."""
    yield from keeper.lend(vm_type, vcpus=2)
