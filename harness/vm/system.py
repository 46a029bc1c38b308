# SPDX-License-Identifier: GPL-2.0-only
"""The system under test: what it offers by /dev/kvm and /dev/sev."""

from __future__ import annotations

import ctypes
from functools import cached_property

from harness.kernel import Kernel
from harness.uapi import kvm as uapi
from harness.uapi.interfaces import Interface
from harness.uapi.vmsa import X86_CR4_MCE
from harness.vm.closing import Closing
from harness.vm.errors import KvmIoctlError
from harness.vm.sevdev import SevPlatform

CPUID_ENTRIES = 256

MACHINE_CHECKS = "/sys/devices/system/machinecheck/machinecheck0/check_interval"
"""Is there where the kernel handles machine checks: CONFIG_X86_MCE, and no mce=off."""


class System:
    """A kernel with KVM, speaking one of the SNP interfaces."""

    def __init__(self, kernel: Kernel, interface: Interface) -> None:
        self.kernel = kernel
        self.interface = interface
        self.vms: list[Closing] = []
        """VMs that were made here and not closed."""

    @cached_property
    def fd(self) -> int:
        """Descriptor of /dev/kvm, opened at first use."""
        return self.kernel.open("/dev/kvm")

    def close(self) -> None:
        """Close /dev/kvm, and the VMs that are left; it is opened again at the next use."""
        for vm in list(self.vms):
            vm.close()
        fd = vars(self).pop("fd", None)
        if fd is not None:
            self.kernel.close(fd)

    @cached_property
    def sev(self) -> SevPlatform:
        """/dev/sev, opened at first use."""
        return SevPlatform(self.kernel, self.interface)

    def extension(self, cap: int) -> int:
        """KVM_CHECK_EXTENSION."""
        return self.kernel.ioctl(self.fd, uapi.KVM_CHECK_EXTENSION, cap).value

    @cached_property
    def vcpu_mmap_size(self) -> int:
        """KVM_GET_VCPU_MMAP_SIZE: bytes of a vCPU's mapping."""
        return self.kernel.ioctl(self.fd, uapi.KVM_GET_VCPU_MMAP_SIZE).value

    @cached_property
    def exits_on_map_gpa_range(self) -> bool:
        """Whether KVM_HC_MAP_GPA_RANGE can be had as an exit (KVM_CAP_EXIT_HYPERCALL)."""
        return bool(self.extension(uapi.KVM_CAP_EXIT_HYPERCALL) >> uapi.KVM_HC_MAP_GPA_RANGE & 1)

    @cached_property
    def vm_types(self) -> frozenset[int]:
        """The VM types that KVM_CAP_VM_TYPES reports."""
        mask = self.extension(uapi.KVM_CAP_VM_TYPES)
        return frozenset(bit for bit in range(32) if mask >> bit & 1)

    @property
    def has_snp(self) -> bool:
        """Whether SNP VMs can be made."""
        return uapi.KVM_X86_SNP_VM in self.vm_types

    @property
    def has_private_memory(self) -> bool:
        """Whether any VM type offers guest_memfd."""
        return bool(self.vm_types & {uapi.KVM_X86_SNP_VM, uapi.KVM_X86_SW_PROTECTED_VM})

    @property
    def strongest_type(self) -> int:
        """The VM type with the strongest protection on offer."""
        for kind in (uapi.KVM_X86_SNP_VM, uapi.KVM_X86_SW_PROTECTED_VM):
            if kind in self.vm_types:
                return kind
        return uapi.KVM_X86_DEFAULT_VM

    @cached_property
    def machine_checks(self) -> bool:
        """Whether the host's kernel handles machine checks."""
        return self.kernel.read_file(MACHINE_CHECKS) is not None

    @property
    def vmsa_cr4(self) -> int:
        """Bits of the host's CR4 that KVM puts into every VMSA (svm_set_cr4, 6.12): MCE."""
        return X86_CR4_MCE if self.machine_checks else 0

    def parameter(self, name: str) -> str | None:
        """A parameter of the module kvm_amd, None where the target does not have it."""
        value = self.kernel.read_file(f"/sys/module/kvm_amd/parameters/{name}")
        return value.strip() if value is not None else None

    @cached_property
    def supported_cpuid(self) -> list[uapi.kvm_cpuid_entry2]:
        """KVM_GET_SUPPORTED_CPUID."""
        size = ctypes.sizeof(uapi.kvm_cpuid_entry2)
        request = CPUID_ENTRIES.to_bytes(4, "little") + bytes(4 + CPUID_ENTRIES * size)
        result = self.kernel.ioctl(self.fd, uapi.KVM_GET_SUPPORTED_CPUID, request)
        if not result.ok:
            raise KvmIoctlError("KVM_GET_SUPPORTED_CPUID", result.errno)
        count = int.from_bytes(result.data[:4], "little")
        return [
            uapi.kvm_cpuid_entry2.from_buffer_copy(result.data, 8 + number * size)
            for number in range(count)
        ]

    @cached_property
    def cbit(self) -> int:
        """Position of the C-bit (CPUID 0x8000001F EBX[5:0]); 51 where the leaf is missing."""
        for entry in self.supported_cpuid:
            if entry.function == 0x8000001F and entry.ebx & 0x3F:
                return int(entry.ebx & 0x3F)
        return 51
