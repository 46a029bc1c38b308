# SPDX-License-Identifier: GPL-2.0-only
"""A VM: its file and the ioctls that have nothing to do with encryption."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from harness.emulator.kvm import gmem, sev
from harness.emulator.kvm.attributes import PrivateRanges
from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.files import Call, File, IoctlTable
from harness.emulator.kvm.mmu import Mmu
from harness.emulator.kvm.sched import Mutex, Steps
from harness.emulator.kvm.sevinfo import SevInfo
from harness.emulator.kvm.slots import Slots
from harness.emulator.kvm.vcpu import Vcpu, get_struct
from harness.emulator.memory import PAGE_SIZE
from harness.uapi import kvm as uapi

if TYPE_CHECKING:
    from harness.emulator.kvm.device import Kvm

KVM_MAX_VCPUS = 4096
"""CONFIG_KVM_MAX_NR_VCPUS, as distributions have it."""
KVM_MAX_VCPU_IDS = 4 * KVM_MAX_VCPUS
"""KVM_VCPU_ID_RATIO times as many (arch/x86/include/asm/kvm_host.h, 6.12)."""
HYPERCALL_EXITS = 1 << uapi.KVM_HC_MAP_GPA_RANGE

UNENCRYPTED = (uapi.KVM_X86_DEFAULT_VM, uapi.KVM_X86_SW_PROTECTED_VM)

VM_IOCTLS = IoctlTable("vm")


class Vm(File):
    """One virtual machine; it lives as long as a file of it is open (struct kvm)."""

    def __init__(self, kvm: Kvm, type: int) -> None:
        self.kvm = kvm
        self.machine = kvm.machine
        self.interface = kvm.interface
        self.type = type
        self.sev_snp = type == uapi.KVM_X86_SNP_VM
        self.has_private_memory = type in (uapi.KVM_X86_SNP_VM, uapi.KVM_X86_SW_PROTECTED_VM)
        self.has_protected_state = type in (uapi.KVM_X86_SNP_VM, uapi.KVM_X86_SEV_ES_VM)
        self.pre_fault_allowed = not self.sev_snp
        self.sev = SevInfo(need_init=type not in UNENCRYPTED)
        self.private = PrivateRanges()
        self.slots = Slots(self)
        self.mmu = Mmu(self)
        self.vcpus: list[Vcpu] = []
        self.lapic = False
        self.bsp_id = 0
        self.hypercall_exits = 0
        self.dead = False
        self.lock = Mutex("kvm->lock")
        self.slots_lock = Mutex("kvm->slots_lock")
        self._references = 1

    @property
    def asid(self) -> int:
        """The guest's ASID, 0 before KVM_SEV_INIT2."""
        return self.sev.asid

    def vcpu_by_id(self, id: int) -> Vcpu | None:
        """kvm_get_vcpu_by_id."""
        return next((vcpu for vcpu in self.vcpus if vcpu.id == id), None)

    def get(self) -> None:
        """kvm_get_kvm."""
        self._references += 1

    def put(self) -> None:
        """kvm_put_kvm: the last reference destroys the VM."""
        self._references -= 1
        if self._references == 0:
            self._destroy()

    def release(self) -> None:
        """The VM's descriptor was closed; vCPUs and guest_memfds may still hold it."""
        self.put()

    def _destroy(self) -> None:
        """kvm_destroy_vm: vCPUs, then what encryption holds."""
        for vcpu in self.vcpus:
            vcpu.destroy()
        sev.destroy(self)
        self.kvm.vms.remove(self)

    def ioctl(self, call: Call, request: int, arg: int) -> int | Steps:
        """kvm_vm_ioctl."""
        if self.dead:
            raise KvmError(errno.EIO)
        return VM_IOCTLS.handle(self, call, request, arg)


@VM_IOCTLS(uapi.KVM_CREATE_VCPU)
def _create_vcpu(vm: Vm, call: Call, arg: int) -> Steps:
    if arg >= KVM_MAX_VCPU_IDS or len(vm.vcpus) >= KVM_MAX_VCPUS:
        raise KvmError(errno.EINVAL)
    yield from vm.lock.lock(call.task)
    try:
        if vm.vcpu_by_id(arg) is not None:
            raise KvmError(errno.EEXIST)
        sev.check_create_vcpu(vm)
        vcpu = Vcpu(vm, arg, len(vm.vcpus))
        vm.vcpus.append(vcpu)
        return call.process.files.install(vcpu)
    finally:
        vm.lock.unlock()


@VM_IOCTLS(uapi.KVM_SET_USER_MEMORY_REGION)
def _set_region(vm: Vm, call: Call, arg: int) -> int:
    size = ctypes.sizeof(uapi.kvm_userspace_memory_region)
    region = uapi.kvm_userspace_memory_region2()
    ctypes.memmove(ctypes.addressof(region), call.read(arg, size), size)
    if region.flags & ~(uapi.KVM_MEM_LOG_DIRTY_PAGES | uapi.KVM_MEM_READONLY):
        raise KvmError(errno.EINVAL)
    return vm.slots.set_region(call, region)


@VM_IOCTLS(uapi.KVM_SET_USER_MEMORY_REGION2)
def _set_region2(vm: Vm, call: Call, arg: int) -> int:
    return vm.slots.set_region(call, get_struct(call, uapi.kvm_userspace_memory_region2, arg))


@VM_IOCTLS(uapi.KVM_SET_MEMORY_ATTRIBUTES)
def _set_attributes(vm: Vm, call: Call, arg: int) -> Steps:
    """kvm_vm_ioctl_set_mem_attributes: a conversion unmaps; it does not touch the RMP.

    It waits for a LAUNCH_UPDATE under way, which holds the same lock.
    """
    wanted = get_struct(call, uapi.kvm_memory_attributes, arg)
    supported = uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE if vm.has_private_memory else 0
    if wanted.flags or wanted.attributes & ~supported:
        raise KvmError(errno.EINVAL)
    if wanted.size == 0 or wanted.address + wanted.size >= 1 << 64:
        raise KvmError(errno.EINVAL)
    if wanted.address % PAGE_SIZE or wanted.size % PAGE_SIZE:
        raise KvmError(errno.EINVAL)
    start, end = wanted.address // PAGE_SIZE, (wanted.address + wanted.size) // PAGE_SIZE
    private = bool(wanted.attributes & uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE)
    yield from vm.slots_lock.lock(call.task)
    try:
        if not (vm.private.covers if private else vm.private.disjoint)(start, end):
            vm.mmu.zap(start, end)
            vm.private.set(start, end, private)
    finally:
        vm.slots_lock.unlock()
    return 0


@VM_IOCTLS(uapi.KVM_CREATE_GUEST_MEMFD)
def _create_guest_memfd(vm: Vm, call: Call, arg: int) -> int:
    wanted = get_struct(call, uapi.kvm_create_guest_memfd, arg)
    if not vm.has_private_memory:
        raise KvmError(errno.EINVAL)
    return call.process.files.install(gmem.create(vm, wanted.size, wanted.flags))


@VM_IOCTLS(uapi.KVM_CHECK_EXTENSION)
def _check_extension(vm: Vm, call: Call, arg: int) -> int:
    return vm.kvm.extension(arg, vm)


@VM_IOCTLS(uapi.KVM_ENABLE_CAP)
def _enable_cap(vm: Vm, call: Call, arg: int) -> int:
    """kvm_vm_ioctl_enable_cap: hypercall exits and a local APIC in the kernel."""
    cap = get_struct(call, uapi.kvm_enable_cap, arg)
    if cap.flags:
        raise KvmError(errno.EINVAL)
    if cap.cap == uapi.KVM_CAP_EXIT_HYPERCALL:
        if cap.args[0] & ~HYPERCALL_EXITS:
            raise KvmError(errno.EINVAL)
        vm.hypercall_exits = cap.args[0]
        return 0
    if cap.cap == uapi.KVM_CAP_SPLIT_IRQCHIP:
        if cap.args[0] > 24:
            raise KvmError(errno.EINVAL)
        _create_lapic(vm)
        return 0
    raise KvmError(errno.EINVAL)


@VM_IOCTLS(uapi.KVM_CREATE_IRQCHIP)
def _create_irqchip(vm: Vm, call: Call, arg: int) -> int:
    _create_lapic(vm)
    return 0


def _create_lapic(vm: Vm) -> None:
    if vm.lapic or vm.vcpus:
        raise KvmError(errno.EEXIST)
    vm.lapic = True


@VM_IOCTLS(uapi.KVM_SET_BOOT_CPU_ID)
def _set_boot_cpu_id(vm: Vm, call: Call, arg: int) -> int:
    if vm.vcpus:
        raise KvmError(errno.EBUSY)
    vm.bsp_id = arg
    return 0


@VM_IOCTLS(uapi.KVM_MEMORY_ENCRYPT_OP)
def _memory_encrypt_op(vm: Vm, call: Call, arg: int) -> int | Steps:
    return sev.memory_encrypt_op(vm, call, arg)
