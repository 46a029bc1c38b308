# SPDX-License-Identifier: GPL-2.0-only
"""guest_memfd files and how they are bound to memory slots (virt/kvm/guest_memfd.c, 6.12)."""

from __future__ import annotations

import errno

import pytest

from harness.operations import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, Mmap
from harness.uapi import kvm as uapi
from harness.vm.host import Host
from harness.vm.results import attempt
from harness.vm.vm import Vm
from suites.gmem.memory import FAR, HUGE, KVM_CAP_GUEST_MEMFD_FLAGS, PAGE

pytestmark = [
    pytest.mark.patches(6, 21, 22),
    pytest.mark.areas("guest_memfd"),
    pytest.mark.needs("private_memory"),
]

SIZE = 16 * PAGE
BINDING = "KVM_SET_USER_MEMORY_REGION2"


def _refused(vm: Vm, code: int, **region: int) -> None:
    fields = {"flags": uapi.KVM_MEM_GUEST_MEMFD, "memory_size": SIZE, **region}
    struct = uapi.kvm_userspace_memory_region2(**fields)
    result = attempt(BINDING, vm.set_region, struct)
    assert result.errno == code


@pytest.mark.parametrize("size", [PAGE, 3 * PAGE, HUGE, 1 << 40])
def test_size_of_pages(vm: Vm, size: int) -> None:
    """A guest_memfd of any positive number of pages can be made."""
    assert vm.create_gmem(size).fd > 0


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE + 1, 1 << 63, (1 << 64) - PAGE])
def test_bad_size(vm: Vm, size: int) -> None:
    """A size that is zero, negative or no number of pages is EINVAL."""
    result = attempt("KVM_CREATE_GUEST_MEMFD", vm.create_gmem, size)
    assert result.errno == errno.EINVAL


def test_unknown_flags(vm: Vm) -> None:
    """A flag that the VM does not report is EINVAL."""
    known = vm.extension(KVM_CAP_GUEST_MEMFD_FLAGS)
    for bit in range(64):
        if not known >> bit & 1:
            result = attempt("KVM_CREATE_GUEST_MEMFD", vm.create_gmem, PAGE, flags=1 << bit)
            assert result.errno == errno.EINVAL, f"flag {bit}"


def test_host_cannot_map_it(vm: Vm) -> None:
    """The host cannot map guest_memfd: private pages are out of its reach."""
    gmem = vm.create_gmem(HUGE)
    assert vm.kernel.call(Mmap(PAGE, flags=1, fd=gmem.fd)).errno == errno.ENODEV


def test_bound_where_asked(vm: Vm) -> None:
    """Two slots share a file when their ranges of it do not overlap."""
    gmem = vm.create_gmem(2 * SIZE)
    vm.add_slot(0, 0, SIZE, gmem=gmem)
    vm.add_slot(1, HUGE, SIZE, gmem=gmem, gmem_offset=SIZE)
    for slot, (gpa, offset) in enumerate(((0, 0), (HUGE, SIZE))):
        again = attempt(BINDING, vm.add_slot, 2, FAR, SIZE, gmem=gmem, gmem_offset=offset)
        assert again.errno in vm.interface.gmem_bound_errnos, f"slot {slot} at GPA {gpa:#x}"


@pytest.mark.parametrize("offset", [0, PAGE, SIZE - PAGE])
def test_overlapping_binding(vm: Vm, offset: int) -> None:
    """A range of the file that a slot holds cannot be bound again."""
    gmem = vm.create_gmem(2 * SIZE)
    vm.add_slot(0, 0, SIZE, gmem=gmem)
    result = attempt(BINDING, vm.add_slot, 1, HUGE, SIZE, gmem=gmem, gmem_offset=offset)
    assert result.errno in vm.interface.gmem_bound_errnos


def test_free_again_after_deletion(vm: Vm) -> None:
    """When its slot is deleted a range of the file can be bound again."""
    gmem = vm.create_gmem(SIZE)
    vm.add_slot(0, 0, SIZE, gmem=gmem)
    vm.delete_slot(0)
    vm.add_slot(1, HUGE, SIZE, gmem=gmem)
    again = attempt(BINDING, vm.add_slot, 0, 0, SIZE, gmem=gmem)
    assert again.errno in vm.interface.gmem_bound_errnos


@pytest.mark.parametrize(
    ("offset", "size"),
    [(PAGE, SIZE), (SIZE, PAGE), (0, SIZE + PAGE), (1, PAGE), (SIZE - 1, PAGE)],
)
def test_binding_outside_the_file(vm: Vm, offset: int, size: int) -> None:
    """A binding must lie in the file and begin at a page."""
    gmem = vm.create_gmem(SIZE)
    result = attempt(BINDING, vm.add_slot, 0, 0, size, gmem=gmem, gmem_offset=offset)
    assert result.errno == errno.EINVAL


def test_offset_that_wraps(vm: Vm) -> None:
    """An offset whose end wraps around is EINVAL."""
    gmem = vm.create_gmem(SIZE)
    _refused(vm, errno.EINVAL, guest_memfd=gmem.fd, guest_memfd_offset=(1 << 64) - PAGE)


def test_descriptor_of_something_else(vm: Vm) -> None:
    """A slot takes no other file for its guest_memfd, and no closed one."""
    _refused(vm, errno.EINVAL, guest_memfd=vm.fd)
    _refused(vm, errno.EBADF, guest_memfd=9999)


def test_file_of_another_vm(host: Host, vm: Vm) -> None:
    """A guest_memfd belongs to the VM that made it; another VM's slot cannot have it."""
    with host.create_vm() as other:
        gmem = other.create_gmem(SIZE)
        _refused(vm, errno.EINVAL, guest_memfd=gmem.fd)


def test_slots_with_it_are_immutable(vm: Vm) -> None:
    """A slot with guest_memfd can be deleted, not changed."""
    gmem = vm.create_gmem(SIZE)
    slot = vm.add_slot(0, 0, SIZE, gmem=gmem)
    at = {"guest_memfd": gmem.fd, "userspace_addr": slot.address}
    _refused(vm, errno.EINVAL, guest_phys_addr=HUGE, **at)
    _refused(vm, errno.EINVAL, **at)


@pytest.mark.parametrize("flag", [uapi.KVM_MEM_READONLY, uapi.KVM_MEM_LOG_DIRTY_PAGES])
def test_incompatible_slot_flags(vm: Vm, flag: int) -> None:
    """Private memory can be neither read-only nor have its writes logged."""
    gmem = vm.create_gmem(SIZE)
    _refused(vm, errno.EINVAL, guest_memfd=gmem.fd, flags=uapi.KVM_MEM_GUEST_MEMFD | flag)


@pytest.mark.parametrize("gpa", [0, SIZE - PAGE])
def test_overlapping_slots(vm: Vm, gpa: int) -> None:
    """Two slots cannot cover the same guest address; the refused one binds nothing."""
    gmem = vm.create_gmem(2 * SIZE)
    vm.add_slot(0, 0, SIZE, gmem=gmem)
    result = attempt(
        "KVM_SET_USER_MEMORY_REGION2",
        lambda: vm.add_slot(1, gpa, SIZE, gmem=gmem, gmem_offset=SIZE),
    )
    assert result.errno == errno.EEXIST
    vm.add_slot(1, HUGE, SIZE, gmem=gmem, gmem_offset=SIZE)


def test_no_private_memory_in_a_default_vm(host: Host) -> None:
    """A VM of the default type offers no private attribute, nor guest_memfd that is only that."""
    with host.create_vm(uapi.KVM_X86_DEFAULT_VM) as plain:
        assert plain.extension(uapi.KVM_CAP_MEMORY_ATTRIBUTES) == 0
        if not plain.extension(KVM_CAP_GUEST_MEMFD_FLAGS):
            assert plain.extension(uapi.KVM_CAP_GUEST_MEMFD) == 0
        answer = plain.set_memory_attributes_raw(0, PAGE, uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE)
        assert answer.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("mode", "offset", "length", "code"),
    [
        (0, 0, PAGE, errno.EOPNOTSUPP),
        (FALLOC_FL_KEEP_SIZE | 0x10, 0, PAGE, errno.EOPNOTSUPP),
        (FALLOC_FL_KEEP_SIZE, 1, PAGE, errno.EINVAL),
        (FALLOC_FL_KEEP_SIZE, 0, PAGE - 1, errno.EINVAL),
        (FALLOC_FL_KEEP_SIZE, SIZE, PAGE, errno.EINVAL),
        (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, PAGE + 1, errno.EINVAL),
        (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, PAGE // 2, PAGE, errno.EINVAL),
        (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 0, errno.EINVAL),
    ],
)
def test_bad_fallocate(vm: Vm, mode: int, offset: int, length: int, code: int) -> None:
    """Allocating and punching work in whole pages inside the file and never changes its size."""
    gmem = vm.create_gmem(SIZE)
    result = attempt("fallocate of guest_memfd", gmem.fallocate, mode, offset, length)
    assert result.errno == code


def test_hole_beyond_the_end(vm: Vm) -> None:
    """A hole beyond the end of the file is no error: there is nothing to free."""
    vm.create_gmem(SIZE).punch_hole(SIZE, SIZE)


@pytest.mark.parametrize("length", [0, PAGE, 2 * SIZE])
def test_size_is_fixed(vm: Vm, length: int) -> None:
    """A guest_memfd can be neither truncated nor extended."""
    result = attempt("ftruncate of guest_memfd", vm.create_gmem(SIZE).truncate, length)
    assert result.errno == errno.EINVAL
