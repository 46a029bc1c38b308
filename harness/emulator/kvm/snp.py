# SPDX-License-Identifier: GPL-2.0-only
"""The firmware's part in one SNP guest: context, pages, VMSAs (arch/x86/kvm/svm/sev.c, 6.12)."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, TypeVar

from harness.emulator.kvm.devsev import SevDevice
from harness.emulator.kvm.errors import KvmError
from harness.emulator.memory import PAGE_LINES, PAGE_SIZE, PAGE_SIZE_2M
from harness.uapi import sev as abi

if TYPE_CHECKING:
    from harness.emulator.kvm.files import Call
    from harness.emulator.kvm.vcpu import Vcpu
    from harness.emulator.kvm.vm import Vm

S = TypeVar("S", bound=ctypes.Structure)


def from_user(call: Call, kind: type[S], address: int) -> S:
    """copy_from_user of one structure."""
    return kind.from_buffer_copy(call.read(address, ctypes.sizeof(kind)))


def firmware(call: Call, sev_fd: int, cmd: int, data: ctypes.Structure) -> int:
    """__sev_issue_cmd: the firmware's status; EBADF unless the descriptor is /dev/sev."""
    device = call.process.files.get(sev_fd)
    if not isinstance(device, SevDevice):
        raise KvmError(errno.EBADF)
    return device.ccp.do_cmd(cmd, data)


def issue(
    call: Call, sev_fd: int, cmd: int, data: ctypes.Structure, sev_cmd: abi.kvm_sev_cmd
) -> None:
    """Issue a command for userspace: the status goes to its `error`, a failure is EIO."""
    sev_cmd.error = firmware(call, sev_fd, cmd, data)
    if sev_cmd.error:
        raise KvmError(errno.EIO)


def bug(vm: Vm, why: str) -> None:
    """KVM_BUG: warn, and let no ioctl of the VM through any more."""
    if not vm.dead:
        vm.machine.printk(f"WARNING: {why}")
    vm.dead = True


# -- pages -----------------------------------------------------------------------------------


def make_shared(vm: Vm, pa: int) -> bool:
    """kvm_rmp_make_shared: a page that the RMP does not let go of is leaked, and the VM is dead."""
    host = vm.kvm.host_rmp
    try:
        host.make_shared_range(pa, 1)
    except KvmError:
        bug(vm, f"Failed to make PFN {pa >> 12:x} shared")
        host.leak(pa, 1)
        return False
    return True


def page_reclaim(vm: Vm, pa: int) -> bool:
    """snp_page_reclaim: take back a page that the firmware or a launching guest has."""
    reclaim = abi.sev_data_snp_page_reclaim(paddr=pa)
    error = vm.kvm.ccp.do_cmd(abi.SEV_CMD_SNP_PAGE_RECLAIM, reclaim)
    if error:
        bug(vm, f"Failed to reclaim PFN {pa >> 12:x}, rc -5 fw_err {error}")
        vm.kvm.host_rmp.leak(pa, 1)
        return False
    return make_shared(vm, pa)


# -- guest context ---------------------------------------------------------------------------


def context_create(vm: Vm, call: Call, sev_cmd: abi.kvm_sev_cmd) -> int | None:
    """snp_context_create: the guest context page, None whatever the failure."""
    ccp = vm.kvm.ccp
    context = ccp.alloc_firmware_page()
    if context is None:
        return None
    try:
        address = abi.sev_data_snp_addr(address=context)
        issue(call, sev_cmd.sev_fd, abi.SEV_CMD_SNP_GCTX_CREATE, address, sev_cmd)
    except KvmError as error:
        vm.machine.printk(
            "kvm_amd: Failed to create SEV-SNP context, "
            f"rc {-error.errno} fw_error {ctypes.c_int32(sev_cmd.error).value}"
        )
        ccp.free_firmware_page(context)
        return None
    return context


def decommission(vm: Vm) -> bool:
    """snp_decommission_context: also unbinds the ASID; False when the firmware refuses."""
    context = vm.sev.snp_context
    if context is None:
        return True
    error = vm.kvm.ccp.do_cmd(abi.SEV_CMD_SNP_DECOMMISSION, abi.sev_data_snp_addr(address=context))
    if error:
        vm.machine.printk("WARNING: Failed to release guest context, ret -5")
        return False
    vm.kvm.ccp.free_firmware_page(context)
    vm.sev.snp_context = None
    return True


def guest_request_init(vm: Vm) -> None:
    """snp_guest_req_init: bounce buffers between guests' shared pages and the firmware."""
    frames = vm.machine.frames
    try:
        request = frames.alloc(PAGE_SIZE, PAGE_SIZE)
    except MemoryError:
        raise KvmError(errno.ENOMEM) from None
    response = vm.kvm.ccp.alloc_firmware_page()
    if response is None:
        frames.free(request, PAGE_SIZE)
        raise KvmError(errno.EIO)
    vm.sev.guest_req_buffer, vm.sev.guest_resp_buffer = request, response


def guest_request_cleanup(vm: Vm) -> None:
    """snp_guest_req_cleanup."""
    if vm.sev.guest_resp_buffer is not None:
        vm.kvm.ccp.free_firmware_page(vm.sev.guest_resp_buffer)
    if vm.sev.guest_req_buffer is not None:
        vm.machine.frames.free(vm.sev.guest_req_buffer, PAGE_SIZE)
    vm.sev.guest_req_buffer = vm.sev.guest_resp_buffer = None


# -- VMSAs -----------------------------------------------------------------------------------


def alloc_vmsa(vm: Vm) -> int:
    """snp_safe_alloc_page: never at a 2 MiB boundary, where VMRUN may see it in use."""
    frames = vm.machine.frames
    try:
        pa = frames.alloc(PAGE_SIZE, PAGE_SIZE)
        if pa % PAGE_SIZE_2M:
            return pa
        safe = frames.alloc(PAGE_SIZE, PAGE_SIZE)
    except MemoryError:
        raise KvmError(errno.ENOMEM) from None
    frames.free(pa, PAGE_SIZE)
    return safe


def free_vmsa(vcpu: Vcpu) -> None:
    """sev_free_vcpu: the VMSA page goes back to the hypervisor before it is freed, or is leaked."""
    vm, pa = vcpu.vm, vcpu.state.vmsa_pa
    if pa is None:
        return
    vcpu.state.vmsa_pa = None
    if vm.sev.snp_active and not make_shared(vm, pa):
        return
    if vcpu.guest_state_protected:
        vm.machine.count("clflush", PAGE_LINES)
    vm.machine.frames.free(pa, PAGE_SIZE)
