# SPDX-License-Identifier: GPL-2.0-only
"""KVM_MEMORY_ENCRYPT_OP: start, dispatch and end of encrypted VMs (svm/sev.c, Linux 6.12)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.emulator.kvm import launch, legacy, snp
from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.snp import free_vmsa
from harness.uapi import kvm as uapi
from harness.uapi import sev as abi
from harness.uapi.vmsa import SVM_SEV_FEAT_DEBUG_SWAP, SVM_SEV_FEAT_SNP_ACTIVE

if TYPE_CHECKING:
    from harness.emulator.kvm.device import Kvm
    from harness.emulator.kvm.files import Call
    from harness.emulator.kvm.sched import Steps
    from harness.emulator.kvm.vm import Vm

__all__ = [
    "check_create_vcpu",
    "destroy",
    "free_vmsa",
    "get_device_attr",
    "has_device_attr",
    "memory_encrypt_op",
]

SUPPORTED_XCR0 = 0x207
"""x87, SSE, AVX, PKRU: what KVM_X86_XCOMP_GUEST_SUPP reports on EPYC Milan."""

_MIGRATION = frozenset(
    (
        *(abi.KVM_SEV_SEND_START, abi.KVM_SEV_SEND_UPDATE_DATA, abi.KVM_SEV_SEND_FINISH),
        *(abi.KVM_SEV_SEND_CANCEL, abi.KVM_SEV_RECEIVE_START, abi.KVM_SEV_RECEIVE_FINISH),
    )
)
"""Not modelled, but for the check that comes first: ENOTTY for what is no SEV guest."""

Handler = Callable[["Vm", "Call", abi.kvm_sev_cmd], "int | Steps"]


# -- KVM_MEMORY_ENCRYPT_OP -------------------------------------------------------------------


def memory_encrypt_op(vm: Vm, call: Call, arg: int) -> int | Steps:
    """sev_mem_enc_ioctl: one SEV command; kvm_sev_cmd goes back to userspace with the status."""
    if not vm.kvm.ccp.present:
        raise KvmError(errno.ENOTTY)
    if not arg:
        return 0
    return _locked(vm, call, arg, snp.from_user(call, abi.kvm_sev_cmd, arg))


def _locked(vm: Vm, call: Call, arg: int, cmd: abi.kvm_sev_cmd) -> Steps:
    yield from vm.lock.lock(call.task)
    try:
        handler = _handler(vm, cmd)
        failure: KvmError | None = None
        try:
            result = handler(vm, call, cmd)
            if not isinstance(result, int):
                result = yield from result
        except KvmError as error:
            failure, result = error, -1
        call.write(arg, bytes(cmd))
        if failure is not None:
            raise failure
        return result
    finally:
        vm.lock.unlock()


def _handler(vm: Vm, cmd: abi.kvm_sev_cmd) -> Handler:
    """The command's handler; what is refused here leaves userspace's kvm_sev_cmd alone."""
    interface = vm.interface
    if (
        interface.legacy_command_errno is not None
        and vm.sev.snp_active
        and cmd.id < interface.launch_start.id
    ):
        raise KvmError(interface.legacy_command_errno)
    if cmd.id == abi.KVM_SEV_ES_INIT and not vm.machine.config.sev_es:
        raise KvmError(errno.ENOTTY)
    handlers: dict[int, Handler] = {
        abi.KVM_SEV_INIT: _init,
        abi.KVM_SEV_ES_INIT: _init,
        abi.KVM_SEV_INIT2: _init2,
        interface.launch_start.id: launch.start,
        interface.launch_update.id: launch.update,
        interface.launch_finish.id: launch.finish,
    }
    if interface.request_certificates:
        handlers[abi.KVM_SEV_SNP_ENABLE_REQ_CERTS] = _enable_certificates
    handler = handlers.get(cmd.id) or legacy.HANDLERS.get(cmd.id)
    if handler is None:
        foreign = cmd.id in _MIGRATION and not vm.sev.active
        raise KvmError(errno.ENOTTY if foreign else errno.EINVAL)
    return handler


# -- initialisation --------------------------------------------------------------------------


def _init(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
    """KVM_SEV_INIT and KVM_SEV_ES_INIT, for VMs that have no type."""
    if vm.type != uapi.KVM_X86_DEFAULT_VM:
        raise KvmError(errno.EINVAL)
    es = cmd.id == abi.KVM_SEV_ES_INIT
    data = abi.kvm_sev_init(ghcb_version=abi.GHCB_VERSION_MIN if es else 0)
    return _guest_init(vm, cmd, data, uapi.KVM_X86_SEV_ES_VM if es else uapi.KVM_X86_SEV_VM)


def _init2(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
    """KVM_SEV_INIT2, for VMs of an encrypted type."""
    if not vm.sev.need_init:
        raise KvmError(errno.EINVAL)
    if vm.type not in (uapi.KVM_X86_SEV_VM, uapi.KVM_X86_SEV_ES_VM, uapi.KVM_X86_SNP_VM):
        raise KvmError(errno.EINVAL)
    data = snp.from_user(call, abi.kvm_sev_init, cmd.data)
    if not vm.interface.init2_ghcb_version:
        data.ghcb_version = 0  # part of the padding then, which nobody checks
    return _guest_init(vm, cmd, data, vm.type)


def _guest_init(vm: Vm, cmd: abi.kvm_sev_cmd, data: abi.kvm_sev_init, vm_type: int) -> int:
    """__sev_guest_init."""
    es = vm_type != uapi.KVM_X86_SEV_VM
    valid_features = supported_vmsa_features(vm.kvm) if es else 0
    if vm.vcpus or data.flags or data.vmsa_features & ~valid_features:
        raise KvmError(errno.EINVAL)
    if data.ghcb_version > abi.GHCB_VERSION_MAX or (not es and data.ghcb_version):
        raise KvmError(errno.EINVAL)
    is_old = data.ghcb_version == abi.GHCB_VERSION_MIN
    if is_old and vm_type == uapi.KVM_X86_SNP_VM and not vm.interface.ghcb_version_1:
        raise KvmError(errno.EINVAL)
    sev = vm.sev
    if sev.active:
        raise KvmError(errno.EINVAL)
    kvm = vm.kvm
    asid = kvm.asids.alloc(kvm.ccp, es=es)
    try:
        error = kvm.ccp.platform_init()
        if error:
            cmd.error = error
            raise KvmError(errno.EIO)
        if vm_type == uapi.KVM_X86_SNP_VM:
            snp.guest_request_init(vm)
    except KvmError:
        kvm.asids.free(asid)
        raise
    sev.active, sev.es_active, sev.asid = True, es, asid
    sev.snp_active = vm_type == uapi.KVM_X86_SNP_VM
    sev.vmsa_features = data.vmsa_features
    if sev.snp_active:
        sev.vmsa_features |= SVM_SEV_FEAT_SNP_ACTIVE
    sev.ghcb_version = data.ghcb_version or (abi.GHCB_VERSION_DEFAULT if es else 0)
    sev.need_init = False
    return 0


def _enable_certificates(vm: Vm, call: Call, cmd: abi.kvm_sev_cmd) -> int:
    """snp_enable_certs (7.3): from now on userspace is asked for certificates."""
    if vm.vcpus or not vm.sev.snp_active:
        raise KvmError(errno.EINVAL)
    vm.sev.certificates = True
    return 0


def check_create_vcpu(vm: Vm) -> None:
    """kvm_arch_vcpu_precreate for SVM: 6.12 lets a vCPU be made before and after a launch, too.

    One made before KVM_SEV_INIT2 makes that fail; one made after the launch has no VMSA.
    """


# -- the end ---------------------------------------------------------------------------------


def destroy(vm: Vm) -> None:
    """sev_vm_destroy: flush caches, give the context and the ASID back."""
    sev, kvm = vm.sev, vm.kvm
    if not sev.active:
        return
    if vm.interface.end_flushes_caches:
        kvm.ccp.wbinvd()
    if sev.snp_active:
        snp.guest_request_cleanup(vm)
        if not snp.decommission(vm):
            return  # the ASID is leaked with the context
    else:
        legacy.unbind(vm)
    sev.active = False
    kvm.asids.free(sev.asid)


# -- device attributes -----------------------------------------------------------------------


def supported_vmsa_features(kvm: Kvm) -> int:
    """sev_supported_vmsa_features."""
    return SVM_SEV_FEAT_DEBUG_SWAP if kvm.machine.config.sev_es else 0


def _device_attr(kvm: Kvm, attribute: uapi.kvm_device_attr) -> int:
    if (attribute.group, attribute.attr) == kvm.interface.vmsa_features_attribute:
        return supported_vmsa_features(kvm)
    if (attribute.group, attribute.attr) == kvm.interface.policy_bits_attribute:
        return kvm.interface.policy_valid or 0 if kvm.machine.config.sev_snp else 0
    if kvm.interface.request_certificates and (attribute.group, attribute.attr) == (
        uapi.KVM_X86_GRP_SEV,
        uapi.KVM_X86_SEV_SNP_REQ_CERTS,
    ):
        return int(kvm.machine.config.sev_snp)
    if attribute.group == 0 and attribute.attr == uapi.KVM_X86_XCOMP_GUEST_SUPP:
        return SUPPORTED_XCR0
    raise KvmError(errno.ENXIO)


def get_device_attr(kvm: Kvm, call: Call, arg: int) -> int:
    """KVM_GET_DEVICE_ATTR on /dev/kvm."""
    attribute = snp.from_user(call, uapi.kvm_device_attr, arg)
    value = _device_attr(kvm, attribute)
    call.write(attribute.addr, value.to_bytes(8, "little"))
    return 0


def has_device_attr(kvm: Kvm, call: Call, arg: int) -> int:
    """KVM_HAS_DEVICE_ATTR on /dev/kvm."""
    _device_attr(kvm, snp.from_user(call, uapi.kvm_device_attr, arg))
    return 0
