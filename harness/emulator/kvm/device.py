# SPDX-License-Identifier: GPL-2.0-only
"""The modules kvm and kvm_amd once loaded, and /dev/kvm."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from harness.emulator.kvm import cpuid, sev
from harness.emulator.kvm.asid import AsidPool
from harness.emulator.kvm.ccp import Ccp
from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.files import Call, File, IoctlTable
from harness.emulator.kvm.hostrmp import HostRmp
from harness.emulator.kvm.sched import Steps
from harness.emulator.kvm.vcpu import RUN_PAGES, get_struct
from harness.emulator.kvm.vm import HYPERCALL_EXITS, KVM_MAX_VCPU_IDS, KVM_MAX_VCPUS, Vm
from harness.emulator.memory import PAGE_SIZE
from harness.uapi import kvm as uapi

if TYPE_CHECKING:
    from harness.emulator.kvm.process import Process
    from harness.emulator.machine import Machine
    from harness.uapi.interfaces import Interface

KVM_API_VERSION = 12

KVM_IOCTLS = IoctlTable("kvm")


class Kvm:
    """What all VMs share."""

    def __init__(self, machine: Machine, interface: Interface, process: Process) -> None:
        self.machine = machine
        self.interface = interface
        self.process = process
        self.host_rmp = HostRmp(machine)
        self.ccp = Ccp(self)
        self.asids = AsidPool(machine.config.asids)
        self.vms: list[Vm] = []
        config = machine.config
        self.sev_snp = config.sev and config.sev_es and config.sev_snp
        self.vm_types = (
            1 << uapi.KVM_X86_DEFAULT_VM
            | 1 << uapi.KVM_X86_SW_PROTECTED_VM
            | (1 << uapi.KVM_X86_SEV_VM if config.sev else 0)
            | (1 << uapi.KVM_X86_SEV_ES_VM if config.sev and config.sev_es else 0)
            | (1 << uapi.KVM_X86_SNP_VM if self.sev_snp else 0)
        )

    def extension(self, cap: int, vm: Vm | None) -> int:
        """KVM_CHECK_EXTENSION: 0 for what is not there."""
        attributes = vm is None or vm.has_private_memory
        values = {
            uapi.KVM_CAP_USER_MEMORY: 1,
            uapi.KVM_CAP_USER_MEMORY2: 1,
            uapi.KVM_CAP_IRQCHIP: 1,
            uapi.KVM_CAP_SPLIT_IRQCHIP: 1,
            uapi.KVM_CAP_MP_STATE: 1,
            uapi.KVM_CAP_NR_MEMSLOTS: 32764,
            uapi.KVM_CAP_NR_VCPUS: 32,
            uapi.KVM_CAP_MAX_VCPUS: KVM_MAX_VCPUS,
            uapi.KVM_CAP_MAX_VCPU_ID: KVM_MAX_VCPU_IDS,
            uapi.KVM_CAP_IMMEDIATE_EXIT: 1,
            uapi.KVM_CAP_VM_TYPES: self.vm_types,
            uapi.KVM_CAP_EXIT_HYPERCALL: HYPERCALL_EXITS,
            uapi.KVM_CAP_MEMORY_ATTRIBUTES: uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE if attributes else 0,
            uapi.KVM_CAP_GUEST_MEMFD: int(attributes),
            uapi.KVM_CAP_MEMORY_FAULT_INFO: 1,
            uapi.KVM_CAP_PRE_FAULT_MEMORY: 1,
            uapi.KVM_CAP_SET_BOOT_CPU_ID: 1,
            uapi.KVM_CAP_EXT_CPUID: 1,
        }
        return values.get(cap, 0)


class KvmDevice(File):
    """An open /dev/kvm."""

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm

    def ioctl(self, call: Call, request: int, arg: int) -> int | Steps:
        """kvm_dev_ioctl: an unknown ioctl is EINVAL there, not ENOTTY (kvm_arch_dev_ioctl)."""
        try:
            return KVM_IOCTLS.handle(self.kvm, call, request, arg)
        except KvmError as error:
            raise KvmError(errno.EINVAL if error.errno == errno.ENOTTY else error.errno) from None


@KVM_IOCTLS(uapi.KVM_GET_API_VERSION)
def _get_api_version(kvm: Kvm, call: Call, arg: int) -> int:
    if arg:
        raise KvmError(errno.EINVAL)
    return KVM_API_VERSION


@KVM_IOCTLS(uapi.KVM_CHECK_EXTENSION)
def _check_extension(kvm: Kvm, call: Call, arg: int) -> int:
    return kvm.extension(arg, None)


@KVM_IOCTLS(uapi.KVM_GET_VCPU_MMAP_SIZE)
def _get_vcpu_mmap_size(kvm: Kvm, call: Call, arg: int) -> int:
    if arg:
        raise KvmError(errno.EINVAL)
    return RUN_PAGES * PAGE_SIZE


@KVM_IOCTLS(uapi.KVM_CREATE_VM)
def _create_vm(kvm: Kvm, call: Call, arg: int) -> int:
    """kvm_arch_init_vm: a type that is not in KVM_CAP_VM_TYPES is EINVAL."""
    if arg >= 64 or not kvm.vm_types >> arg & 1:
        raise KvmError(errno.EINVAL)
    vm = Vm(kvm, arg)
    kvm.vms.append(vm)
    return call.process.files.install(vm)


@KVM_IOCTLS(uapi.KVM_GET_SUPPORTED_CPUID)
def _get_supported_cpuid(kvm: Kvm, call: Call, arg: int) -> int:
    wanted = get_struct(call, uapi.kvm_cpuid2, arg)
    config = kvm.machine.config
    sev_es = config.sev and config.sev_es
    entries = cpuid.supported(sev=config.sev, sev_es=sev_es, sev_snp=kvm.sev_snp)
    if wanted.nent < len(entries):
        raise KvmError(errno.E2BIG)
    size = ctypes.sizeof(uapi.kvm_cpuid_entry2)
    for number, entry in enumerate(entries):
        call.write(arg + 8 + number * size, bytes(entry))
    call.write(arg, len(entries).to_bytes(4, "little"))
    return 0


@KVM_IOCTLS(uapi.KVM_GET_DEVICE_ATTR)
def _get_device_attr(kvm: Kvm, call: Call, arg: int) -> int:
    return sev.get_device_attr(kvm, call, arg)


@KVM_IOCTLS(uapi.KVM_HAS_DEVICE_ATTR)
def _has_device_attr(kvm: Kvm, call: Call, arg: int) -> int:
    return sev.has_device_attr(kvm, call, arg)
