# SPDX-License-Identifier: GPL-2.0-only
"""Memory attributes: which guest addresses are private (virt/kvm/kvm_main.c, 6.12)."""

from __future__ import annotations

import errno

import pytest

from harness.uapi import kvm as uapi
from harness.vm.exits import MemoryFaultExit
from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.vm import Vm
from suites.gmem.memory import HUGE, PAGE, A, B, fresh, use

pytestmark = [
    pytest.mark.patches(6, 21),
    pytest.mark.areas("guest_memfd", "memory attributes"),
    pytest.mark.needs("private_memory"),
]

PRIVATE = uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE


def test_reported(host: Host, vm: Vm) -> None:
    """The private attribute is reported by the host and by a VM that has private memory."""
    assert host.extension(uapi.KVM_CAP_MEMORY_ATTRIBUTES) == PRIVATE
    assert vm.extension(uapi.KVM_CAP_MEMORY_ATTRIBUTES) == PRIVATE
    assert vm.extension(uapi.KVM_CAP_GUEST_MEMFD) == 1


@pytest.mark.parametrize(
    ("gpa", "size", "attributes", "flags"),
    [
        (0, 0, PRIVATE, 0),
        (1, PAGE, PRIVATE, 0),
        (0, PAGE + 1, PRIVATE, 0),
        ((1 << 64) - PAGE, 2 * PAGE, PRIVATE, 0),
        (0, PAGE, PRIVATE, 1),
        (0, PAGE, 1, 0),
        (0, PAGE, PRIVATE | 1 << 63, 0),
    ],
    ids=["empty", "gpa", "size", "wraps", "flags", "attribute", "reserved"],
)
def test_bad_input(vm: Vm, gpa: int, size: int, attributes: int, flags: int) -> None:
    """A range must be whole pages and the attributes known; else EINVAL."""
    assert vm.set_memory_attributes_raw(gpa, size, attributes, flags).errno == errno.EINVAL


def test_need_no_memory(vm: Vm) -> None:
    """Attributes can be set where no slot is, and set again to what they are."""
    for private in (True, True, False, False):
        attributes = PRIVATE if private else 0
        assert vm.set_memory_attributes_raw(1 << 40, HUGE, attributes).errno == 0


# Only an SNP guest says itself which kind of access it wants.
@pytest.mark.needs("snp")
@pytest.mark.parametrize("private", [True, False], ids=["private", "shared"])
def test_wrong_access_goes_to_userspace(guest: Guest, private: bool) -> None:
    """An access of the kind that the attributes do not allow is a memory fault exit."""
    cpu = guest.cpu()
    guest.vm.set_memory_attributes(A, PAGE, private=not private)
    stopped = cpu.load(A, private=private).exit
    assert isinstance(stopped, MemoryFaultExit)
    assert (stopped.gpa, stopped.size, stopped.private) == (A, PAGE, private)
    assert stopped.errno == errno.EFAULT


@pytest.mark.needs("snp")
def test_access_goes_on_after_conversion(guest: Guest) -> None:
    """When userspace converts the page as a memory fault asks, the access is carried out."""
    cpu = guest.cpu()

    def convert(_: object, fault: MemoryFaultExit) -> bool:
        guest.vm.set_memory_attributes(fault.gpa, fault.size, private=fault.private)
        return True

    guest.hooks.memory_fault = convert
    guest.vm.set_memory_attributes(A, PAGE, private=True)
    cpu.store(A, 0x1234, private=False).check()
    assert guest.vm.read_gpa(A, 8) == (0x1234).to_bytes(8, "little")


def test_change_unmaps_only_its_range(guest: Guest) -> None:
    """Converting a page takes it from the guest and leaves its neighbours alone."""
    cpu = guest.cpu()
    use(cpu, A, 3 * PAGE)
    cpu.fill(A, 3 * PAGE, 7).check()
    guest.vm.set_memory_attributes(A + PAGE, PAGE, private=False)
    guest.vm.write_gpa(A + PAGE, b"\x55" * 8)
    assert cpu.load(A + PAGE, private=False).check().value == 0x5555555555555555
    assert cpu.verify(A, PAGE, 7).check().value == 0
    assert cpu.verify(A + 2 * PAGE, PAGE, 7).check().value == 0


def test_private_memory_survives_the_change(guest: Guest) -> None:
    """Changing attributes frees nothing: back in private the page has what it had."""
    cpu = guest.cpu()
    use(cpu, A)
    cpu.fill(A, PAGE, 99, 1).check()
    guest.vm.set_memory_attributes(A, PAGE, private=False)
    guest.vm.set_memory_attributes(A, PAGE, private=True)
    assert cpu.verify(A, PAGE, 99, 1).check().value == 0


@pytest.mark.needs("snp")
def test_no_slot(guest: Guest) -> None:
    """A private access where no slot is (MMIO) is a memory fault exit, never MMIO."""
    far = 1 << 30
    guest.vm.set_memory_attributes(far, PAGE, private=True)
    stopped = guest.cpu().load(far).exit
    assert isinstance(stopped, MemoryFaultExit)
    assert (stopped.gpa, stopped.private) == (far, True)


def test_private_but_no_slot_any_type(guest: Guest) -> None:
    """Memory that is private by its attributes but has no slot stops the vCPU."""
    far = 1 << 30
    fresh(guest.cpu(), far, PAGE)
    stopped = guest.cpu().load(far).exit
    assert isinstance(stopped, MemoryFaultExit)
    assert stopped.private


def test_private_in_a_slot_without_guest_memfd(guest: Guest) -> None:
    """Private memory needs a slot with guest_memfd: without, the vCPU gets a memory fault."""
    gpa = 1 << 30
    guest.vm.add_slot(5, gpa, 4 * PAGE)
    fresh(guest.cpu(), gpa, PAGE)
    stopped = guest.cpu().load(gpa).exit
    assert isinstance(stopped, MemoryFaultExit)
    assert (stopped.gpa, stopped.private) == (gpa, True)


def test_file_closed_under_a_slot(guest: Guest) -> None:
    """When the guest_memfd is closed its slot has no private memory any more."""
    gpa = 1 << 30
    gmem = guest.vm.create_gmem(HUGE)
    guest.vm.add_slot(5, gpa, HUGE, gmem=gmem)
    cpu = guest.cpu()
    use(cpu, gpa)
    cpu.store(gpa, 1).check()
    gmem.close()
    stopped = cpu.load(gpa).exit
    assert isinstance(stopped, MemoryFaultExit)
    assert stopped.errno == errno.EFAULT


def test_many_ranges(guest: Guest) -> None:
    """Every second page private: each access sees its own kind of memory."""
    cpu = guest.cpu()
    vm = guest.vm
    vm.set_memory_attributes(B, 16 * PAGE, private=False)
    for number in range(0, 16, 2):
        use(cpu, B + number * PAGE)
        cpu.store(B + number * PAGE, number).check()
        cpu.store(B + (number + 1) * PAGE, number + 1, private=False).check()
    for number in range(16):
        private = number % 2 == 0
        assert cpu.load(B + number * PAGE, private=private).check().value == number
        seen = int.from_bytes(vm.read_gpa(B + number * PAGE, 8), "little")
        assert seen == (0 if private else number)
