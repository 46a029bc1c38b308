# SPDX-License-Identifier: GPL-2.0-only
"""What lives how long: VM, slot and guest_memfd hold references to each other (6.12)."""

from __future__ import annotations

import errno

import pytest

from harness.uapi import kvm as uapi
from harness.vm.exits import MemoryFaultExit
from harness.vm.gmem import GuestMemfd
from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.results import attempt
from harness.vm.vm import Vm
from suites.gmem.memory import FAR, HUGE, MEMORY, PAGE, empty, fresh, marked, write_marks

pytestmark = [
    pytest.mark.patches(21, 22, 24),
    pytest.mark.areas("guest_memfd", "lifetime"),
    pytest.mark.needs("sw_protected"),
]

PAGES = 4
SIZE = PAGES * PAGE


def orphan(vm: Vm, size: int = SIZE) -> GuestMemfd:
    """A file that is not closed with its VM."""
    gmem = vm.create_gmem(size)
    vm.gmems.remove(gmem)
    return gmem


def test_file_outlives_its_vm(host: Host) -> None:
    """A guest_memfd can be allocated, punched and closed after its VM was closed."""
    vm = host.create_vm(uapi.KVM_X86_SW_PROTECTED_VM)
    gmem = orphan(vm)
    vm.add_slot(0, 0, SIZE, gmem=gmem)
    vm.close()
    gmem.allocate(0, SIZE)
    gmem.punch_hole(0, SIZE)
    gmem.close()


def test_file_of_a_guest_that_is_gone(host: Host) -> None:
    """The same with pages that a guest had mapped."""
    kind = uapi.KVM_X86_SW_PROTECTED_VM
    with Guest.launch(host, memory=MEMORY, vm_type=kind) as guest:
        guest.cpu().boot()
        gmem = orphan(guest.vm)
        guest.vm.add_slot(5, FAR, SIZE, gmem=gmem)
        fresh(guest.cpu(), FAR, SIZE)
        write_marks(guest.cpu(), FAR, PAGES)
    gmem.punch_hole(PAGE, PAGE)
    gmem.close()


def test_file_of_a_dead_vm_in_another(host: Host) -> None:
    """The file of a VM that is gone belongs to no other: binding it is EINVAL."""
    first = host.create_vm(uapi.KVM_X86_SW_PROTECTED_VM)
    gmem = orphan(first)
    first.close()
    with gmem, host.create_vm(uapi.KVM_X86_SW_PROTECTED_VM) as second:
        result = attempt("KVM_SET_USER_MEMORY_REGION2", second.add_slot, 0, 0, SIZE, gmem=gmem)
        assert result.errno == errno.EINVAL


def test_closed_file_is_unmapped(plain_pair: Guest) -> None:
    """Pages that the guest had mapped are out of its reach when their file is closed."""
    cpu, vm = plain_pair.cpu(), plain_pair.vm
    gmem = vm.create_gmem(SIZE)
    vm.add_slot(5, FAR, SIZE, gmem=gmem)
    fresh(cpu, FAR, SIZE)
    write_marks(cpu, FAR, PAGES)
    gmem.close()
    for one, number in zip(plain_pair.cpus, (0, PAGES - 1), strict=True):
        stopped = one.load(FAR + number * PAGE).exit
        assert isinstance(stopped, MemoryFaultExit), f"page {number} is still there"
        assert (stopped.gpa, stopped.private) == (FAR + number * PAGE, True)


def test_shared_memory_stays_when_the_file_is_closed(plain: Guest) -> None:
    """Without its file a slot goes on having shared memory."""
    cpu, vm = plain.cpu(), plain.vm
    gmem = vm.create_gmem(SIZE)
    vm.add_slot(5, FAR, SIZE, gmem=gmem)
    cpu.store(FAR, 7, private=False).check()
    gmem.close()
    cpu.store(FAR + PAGE, 8, private=False).check()
    assert vm.read_gpa(FAR, 1) == b"\x07"
    assert vm.read_gpa(FAR + PAGE, 1) == b"\x08"


def test_slot_deleted_after_its_file(plain: Guest) -> None:
    """A slot whose file is closed can be deleted, and its address given to a new one."""
    cpu, vm = plain.cpu(), plain.vm
    gmem = vm.create_gmem(SIZE)
    vm.add_slot(5, FAR, SIZE, gmem=gmem)
    fresh(cpu, FAR, SIZE)
    write_marks(cpu, FAR, PAGES)
    gmem.close()
    vm.delete_slot(5)
    vm.add_slot(5, FAR, SIZE, gmem=vm.create_gmem(SIZE))
    assert empty(cpu, FAR, PAGES)
    write_marks(cpu, FAR, PAGES)
    assert marked(cpu, FAR, PAGES)


def test_second_file_for_the_same_slot_number(plain: Guest) -> None:
    """Files come and go under one slot number; each starts empty and keeps what it had."""
    cpu, vm = plain.cpu(), plain.vm
    files = [vm.create_gmem(SIZE) for _ in range(2)]
    fresh(cpu, FAR, SIZE)
    for turn in range(3):
        for number, gmem in enumerate(files):
            vm.add_slot(5, FAR, SIZE, gmem=gmem)
            assert marked(cpu, FAR, PAGES, 0x10 * (number + 1)) if turn else empty(cpu, FAR, PAGES)
            write_marks(cpu, FAR, PAGES, 0x10 * (number + 1))
            vm.delete_slot(5)


@pytest.mark.parametrize("rounds", [30])
def test_many_vms_one_after_the_other(host: Host, rounds: int) -> None:
    """VMs with private memory can be made and ended any number of times."""
    for _ in range(rounds):
        with host.create_vm(uapi.KVM_X86_SW_PROTECTED_VM) as vm:
            gmem = vm.create_gmem(HUGE)
            vm.add_slot(0, 0, HUGE, gmem=gmem)
            vm.set_memory_attributes(0, HUGE, private=True)
            gmem.allocate(0, 8 * PAGE)
