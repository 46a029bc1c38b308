# SPDX-License-Identifier: GPL-2.0-only
"""The host under test, which makes VMs."""

from __future__ import annotations

from harness.uapi import kvm as uapi
from harness.vm.errors import KvmIoctlError
from harness.vm.system import System
from harness.vm.vm import Vm

TYPE_NAMES = {
    uapi.KVM_X86_DEFAULT_VM: "KVM_X86_DEFAULT_VM",
    uapi.KVM_X86_SW_PROTECTED_VM: "KVM_X86_SW_PROTECTED_VM",
    uapi.KVM_X86_SEV_VM: "KVM_X86_SEV_VM",
    uapi.KVM_X86_SEV_ES_VM: "KVM_X86_SEV_ES_VM",
    uapi.KVM_X86_SNP_VM: "KVM_X86_SNP_VM",
}


class Host(System):
    """A system under test, and the VMs that are made on it."""

    def create_vm(self, type: int | None = None, *, irqchip: bool = True) -> Vm:
        """KVM_CREATE_VM; without a type the strongest there is.

        irqchip: give it local APICs in the kernel (KVM_CAP_SPLIT_IRQCHIP), which APs need.
        """
        kind = self.strongest_type if type is None else type
        result = self.kernel.ioctl(self.fd, uapi.KVM_CREATE_VM, kind)
        if not result.ok:
            name = TYPE_NAMES.get(kind, str(kind))
            raise KvmIoctlError(f"KVM_CREATE_VM({name})", result.errno)
        vm = Vm(self, result.value, kind)
        self.vms.append(vm)
        if irqchip:
            vm.enable_cap(uapi.KVM_CAP_SPLIT_IRQCHIP, 24)
        return vm
