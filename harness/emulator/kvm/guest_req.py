# SPDX-License-Identifier: GPL-2.0-only
"""Guest requests and extended guest requests (arch/x86/kvm/svm/sev.c, Linux 6.12, and v12 26-29).

KVM only carries the message: it is sealed between the guest and the firmware.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from harness.emulator.kvm import ghcb as page
from harness.emulator.kvm import nae
from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.exit import LEAVE, RESUME
from harness.emulator.memory import PAGE_SIZE
from harness.uapi import ghcb as abi
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.uapi.interfaces import ExtGuestRequest, GuestRequestFailure

if TYPE_CHECKING:
    from harness.emulator.kvm.ghcb import Ghcb
    from harness.emulator.kvm.vcpu import Vcpu

MSG_TYPE_OFFSET = abi.snp_guest_msg_hdr.msg_type.offset
VMM_ERR_INVALID_LEN, VMM_ERR_BUSY, VMM_ERR_GENERIC = 1, 2, 0xFFFFFFFF
"""SNP_GUEST_VMM_ERR_* in EXITINFO2[63:32] (include/uapi/linux/sev-guest.h)."""
EMPTY_TABLE = bytes(24)
CERTIFICATE_ERRORS = {
    errno.ENOSPC: VMM_ERR_INVALID_LEN,
    errno.EAGAIN: VMM_ERR_BUSY,
    errno.EIO: VMM_ERR_GENERIC,
}
"""VMM error for what userspace may answer to KVM_EXIT_SNP_REQ_CERTS besides 0."""


def addresses_valid(vcpu: Vcpu, request: Ghcb) -> bool:
    """sev_es_validate_vmgexit: page aligned and different, where the interface checks it there."""
    if vcpu.vm.interface.guest_request_bad_address is None:
        return True
    aligned = request.info_1 % PAGE_SIZE == 0 and request.info_2 % PAGE_SIZE == 0
    return aligned and request.info_1 != request.info_2


def request(vcpu: Vcpu, request: Ghcb) -> bool:
    """SNP_GUEST_REQUEST: request in SW_EXITINFO1, response in SW_EXITINFO2."""
    vmm_error, fw_error = _carry(vcpu, request.info_1, request.info_2)
    request.set_info_2(vmm_error << 32 | fw_error)
    return RESUME


def _carry(vcpu: Vcpu, request_gpa: int, response_gpa: int) -> tuple[int, int]:
    """Have the firmware answer a message: (VMM error, firmware error) for the guest."""
    interface = vcpu.vm.interface
    to_guest = interface.guest_request_failure is GuestRequestFailure.GUEST
    fw_error = _through_firmware(vcpu, request_gpa, response_gpa)
    if fw_error is None:
        if not to_guest:
            raise KvmError(errno.EIO)
        return interface.guest_request_generic, 0
    if fw_error and to_guest:
        return interface.guest_request_generic, fw_error
    return 0, fw_error


def _through_firmware(vcpu: Vcpu, request_gpa: int, response_gpa: int) -> int | None:
    """SNP_GUEST_REQUEST through KVM's bounce buffers; None where the host could not carry it."""
    vm, sev = vcpu.vm, vcpu.vm.sev
    memory = vm.machine.memory
    if vm.interface.guest_request_bad_address is None and (
        request_gpa % PAGE_SIZE or response_gpa % PAGE_SIZE or request_gpa == response_gpa
    ):
        return None
    message = nae.read_guest(vcpu, request_gpa, PAGE_SIZE)
    if message is None or sev.guest_req_buffer is None or sev.guest_resp_buffer is None:
        return None
    if nae.user_address(vcpu, response_gpa) is None and (
        vm.interface.guest_request_failure is GuestRequestFailure.GUEST
    ):
        return None
    memory.write(sev.guest_req_buffer, message)
    command = sevapi.sev_data_snp_guest_request(
        gctx_paddr=sev.snp_context,
        req_paddr=sev.guest_req_buffer,
        res_paddr=sev.guest_resp_buffer,
    )
    fw_error = vm.kvm.ccp.do_cmd(sevapi.SEV_CMD_SNP_GUEST_REQUEST, command)
    answer = memory.read(sev.guest_resp_buffer, PAGE_SIZE)
    if not nae.write_guest(vcpu, response_gpa, answer):
        return None
    return int(fw_error)


def extended(vcpu: Vcpu, request: Ghcb) -> bool:
    """SNP_EXT_GUEST_REQUEST: the same, with certificates beside the report."""
    if vcpu.vm.interface.ext_guest_request is ExtGuestRequest.VMGEXIT:
        return _ask_userspace(vcpu, request)
    kind = nae.read_guest(vcpu, request.info_1 + MSG_TYPE_OFFSET, 1)
    if kind is None:
        raise KvmError(errno.EIO)
    if kind[0] == abi.SNP_MSG_REPORT_REQ:
        known = request.valid(page.RAX) and request.valid(page.RBX)
        if not known or request.rax % PAGE_SIZE:
            request.malformed(abi.GHCB_ERR_INVALID_INPUT)
            return RESUME
        if vcpu.vm.sev.certificates:
            return _request_certificates(vcpu, request)
        if request.rbx and not nae.write_guest(vcpu, request.rax, EMPTY_TABLE):
            raise KvmError(errno.EIO)
    vmm_error, fw_error = _carry(vcpu, request.info_1, request.info_2)
    request.set_info_2(vmm_error << 32 | fw_error)
    return RESUME


def _request_certificates(vcpu: Vcpu, request: Ghcb) -> bool:
    """KVM_EXIT_SNP_REQ_CERTS (7.3): userspace writes the certificates, or says what is wrong."""
    run = vcpu.run
    run.exit_reason = uapi.KVM_EXIT_SNP_REQ_CERTS
    run.snp_req_certs.gpa = request.rax
    run.snp_req_certs.npages = request.rbx
    run.snp_req_certs.ret = 0

    def complete(vcpu: Vcpu) -> bool:
        """snp_complete_req_certs."""
        result = run.snp_req_certs.ret
        if result and result not in CERTIFICATE_ERRORS:
            raise KvmError(errno.EINVAL)
        if result == errno.ENOSPC:
            request.rbx = run.snp_req_certs.npages
        if result:
            request.set_info_2(CERTIFICATE_ERRORS[result] << 32)
            return RESUME
        vmm_error, fw_error = _carry(vcpu, request.info_1, request.info_2)
        request.set_info_2(vmm_error << 32 | fw_error)
        return RESUME

    vcpu.state.completion = complete
    return LEAVE


def _ask_userspace(vcpu: Vcpu, request: Ghcb) -> bool:
    """snp_begin_ext_guest_req of v12: userspace writes the certificates first."""
    attestation = vcpu.vm.kvm.ccp.attestation
    if request.rax % PAGE_SIZE:
        request.set_info_2(vcpu.vm.interface.guest_request_generic << 32)
        return RESUME
    transaction = attestation.transaction_id
    if attestation.is_stale(transaction):
        request.set_info_2(VMM_ERR_BUSY << 32)
        return RESUME
    run = vcpu.run
    run.exit_reason = uapi.KVM_EXIT_VMGEXIT
    run.vmgexit.type = uapi.KVM_USER_VMGEXIT_EXT_GUEST_REQ
    run.vmgexit.ext_guest_req.data_gpa = request.rax
    run.vmgexit.ext_guest_req.data_npages = request.rbx
    run.vmgexit.ext_guest_req.ret = 0

    def complete(vcpu: Vcpu) -> bool:
        vmm_error, fw_error = run.vmgexit.ext_guest_req.ret, 0
        if vmm_error == VMM_ERR_INVALID_LEN:
            request.rbx = run.vmgexit.ext_guest_req.data_npages
        if not vmm_error:
            vmm_error, fw_error = _carry(vcpu, request.info_1, request.info_2)
            if attestation.is_stale(transaction):
                vmm_error = VMM_ERR_BUSY
        request.set_info_2(vmm_error << 32 | fw_error)
        return RESUME

    vcpu.state.completion = complete
    return LEAVE
