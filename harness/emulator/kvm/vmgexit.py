# SPDX-License-Identifier: GPL-2.0-only
"""VMGEXIT: the GHCB MSR protocol and the dispatch of NAE events (sev_handle_vmgexit, 6.12)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.emulator.kvm import ap, guest_req, nae, psc
from harness.emulator.kvm import ghcb as page
from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.exit import LEAVE, RESUME
from harness.emulator.kvm.ghcb import Ghcb
from harness.emulator.memory import PAGE_SIZE
from harness.uapi import ghcb as abi
from harness.uapi import kvm as uapi
from harness.uapi.interfaces import PscExit

if TYPE_CHECKING:
    from harness.emulator.kvm.vcpu import Vcpu

U32 = 0xFFFFFFFF


def inside(vcpu: Vcpu) -> bool:
    """Handle a VMGEXIT without leaving the processor's loop; True where the guest goes on."""
    state = vcpu.state
    try:
        resumed = handle(vcpu)
    except KvmError as error:
        state.error = error.errno
        resumed = LEAVE
    state.leave = not resumed
    if not resumed or vcpu.mp_state != uapi.KVM_MP_STATE_RUNNABLE or state.update_pending:
        return False
    if state.ghcb is not None:
        state.ghcb.sync()
        state.ghcb = None
    return state.tlb_generation == vcpu.vm.mmu.generation


def handle(vcpu: Vcpu) -> bool:
    """sev_handle_vmgexit; RESUME or LEAVE, KvmError where KVM_RUN is to fail."""
    gpa = vcpu.state.vmcb.ghcb_gpa
    if gpa & abi.GHCB_MSR_INFO_MASK:
        return msr_protocol(vcpu, gpa)
    if not gpa:
        _unimplemented(vcpu, "vmgexit: GHCB gpa is not set")
        return RESUME
    address = nae.user_address(vcpu, gpa)
    if address is None:
        _unimplemented(vcpu, f"vmgexit: error mapping GHCB [0x{gpa:x}] from guest")
        return RESUME
    memory = vcpu.vm.machine.memory
    pa = vcpu.vm.kvm.process.memory.translate(address, PAGE_SIZE)
    request = vcpu.state.ghcb = Ghcb(memory.view(pa, PAGE_SIZE))
    if request.xcr0 is not None:
        vcpu.state.xcr0 = request.xcr0
    if vcpu.vm.sev_snp and vcpu.state.registered_ghcb != gpa:
        _unimplemented(vcpu, f"vmgexit: GHCB GPA [0x{gpa:x}] is not registered.")
        unregistered = vcpu.vm.interface.unregistered_ghcb
        if unregistered is None:
            raise KvmError(errno.EINVAL)
        request.malformed(unregistered)
        return RESUME
    reason = validate(vcpu, request)
    if reason:
        request.malformed(reason)
        return RESUME
    request.set_info(0, 0)
    return EVENTS[request.exit_code](vcpu, request)


def validate(vcpu: Vcpu, request: Ghcb) -> int:
    """sev_es_validate_vmgexit: 0, or why the request is malformed."""
    if request.usage:
        _unimplemented(vcpu, f"vmgexit: ghcb usage {request.usage:#x} is not valid")
        return int(abi.GHCB_ERR_INVALID_USAGE)
    valid = request.valid
    code = request.exit_code
    complete = valid(page.EXIT_CODE) and valid(page.EXIT_INFO_1) and valid(page.EXIT_INFO_2)
    if complete and code not in EVENTS:
        _unimplemented(vcpu, f"vmgexit: exit code {code:#x} is not valid")
        return int(abi.GHCB_ERR_INVALID_EVENT)
    if complete and _inputs_present(vcpu, request):
        if code in MESSAGES and not guest_req.addresses_valid(vcpu, request):
            return vcpu.vm.interface.guest_request_bad_address or 0
        return 0
    _unimplemented(vcpu, f"vmgexit: exit code {code:#x} input is not valid")
    return int(abi.GHCB_ERR_MISSING_INPUT)


def _inputs_present(vcpu: Vcpu, request: Ghcb) -> bool:
    """Whether the fields that an event needs are marked valid."""
    code = request.exit_code
    needed = INPUTS.get(code, ())
    if code == abi.SVM_EXIT_CPUID and request.valid(page.RAX) and request.rax & U32 == 0xD:
        needed = (*needed, page.XCR0)
    elif code == abi.SVM_EXIT_IOIO:
        needed = nae.io_inputs(request)
    elif code == abi.SVM_EXIT_MSR and request.info_1:
        needed = (*needed, page.RAX, page.RDX)
    elif code == abi.SVM_VMGEXIT_AP_CREATION:
        needed = () if request.info_1 & U32 == abi.SVM_VMGEXIT_AP_DESTROY else (page.RAX,)
    elif code == abi.SVM_VMGEXIT_PSC and vcpu.vm.interface.psc_exit is PscExit.HYPERCALL:
        needed = (page.SCRATCH,)
    return all(request.valid(offset) for offset in needed)


def msr_protocol(vcpu: Vcpu, value: int) -> bool:
    """sev_handle_vmgexit_msr_protocol: the request is in the GHCB MSR, and so is the answer."""
    vmcb, vm = vcpu.state.vmcb, vcpu.vm
    match value & abi.GHCB_MSR_INFO_MASK:
        case abi.GHCB_MSR_SEV_INFO_REQ:
            version = vm.sev.ghcb_version
            vmcb.ghcb_gpa = (
                version << 48
                | abi.GHCB_PROTOCOL_MIN << 32
                | vm.machine.config.cbit << 24
                | abi.GHCB_MSR_SEV_INFO_RESP
            )
        case abi.GHCB_MSR_CPUID_REQ:
            registers = nae.cpuid(vcpu, value >> 32, 0)
            register = registers[value >> abi.GHCB_MSR_CPUID_REG_POS & 3]
            low = value & U32 & ~abi.GHCB_MSR_INFO_MASK
            vmcb.ghcb_gpa = register << 32 | low | abi.GHCB_MSR_CPUID_RESP
        case abi.GHCB_MSR_AP_RESET_HOLD_REQ:
            vmcb.ghcb_gpa = abi.GHCB_MSR_AP_RESET_HOLD_RESP
            return ap.reset_hold(vcpu, abi.AP_RESET_HOLD_MSR_PROTO)
        case abi.GHCB_MSR_HV_FT_REQ:
            features = abi.GHCB_HV_FT_SUPPORTED << abi.GHCB_MSR_HV_FT_POS
            vmcb.ghcb_gpa = features | abi.GHCB_MSR_HV_FT_RESP
        case abi.GHCB_MSR_PREF_GPA_REQ if vm.sev_snp:
            none = abi.GHCB_MSR_PREF_GPA_NONE << abi.GHCB_MSR_GPA_VALUE_POS
            vmcb.ghcb_gpa = none | abi.GHCB_MSR_PREF_GPA_RESP
        case abi.GHCB_MSR_REG_GPA_REQ if vm.sev_snp:
            gpa = value & ~abi.GHCB_MSR_INFO_MASK
            vcpu.state.registered_ghcb = gpa
            vmcb.ghcb_gpa = gpa | abi.GHCB_MSR_REG_GPA_RESP
        case abi.GHCB_MSR_PSC_REQ if vm.sev_snp:
            return psc.begin_msr(vcpu, value)
        case abi.GHCB_MSR_TERM_REQ:
            reason = f"{value >> 12 & 0xF:#x}:{value >> 16 & 0xFF:#x}"
            vm.machine.printk(f"SEV-ES guest requested termination: {reason}")
            return terminate(vcpu)
        case abi.GHCB_MSR_PREF_GPA_REQ | abi.GHCB_MSR_REG_GPA_REQ | abi.GHCB_MSR_PSC_REQ:
            return terminate(vcpu)
        case _:
            pass  # the MSR keeps its value, which tells the guest that nothing happened
    return RESUME


def terminate(vcpu: Vcpu) -> bool:
    """KVM_SYSTEM_EVENT_SEV_TERM with the GHCB MSR's value."""
    vcpu.run.exit_reason = uapi.KVM_EXIT_SYSTEM_EVENT
    vcpu.run.system_event.type = uapi.KVM_SYSTEM_EVENT_SEV_TERM
    vcpu.run.system_event.ndata = 1
    vcpu.run.system_event.data[0] = vcpu.state.vmcb.ghcb_gpa
    return LEAVE


def _unimplemented(vcpu: Vcpu, line: str) -> None:
    """vcpu_unimpl: a rate-limited line at debug level; not a splat."""
    vcpu.vm.machine.debug(f"kvm: vcpu{vcpu.index}, {line}")


def _hv_features(vcpu: Vcpu, request: Ghcb) -> bool:
    request.set_info_2(abi.GHCB_HV_FT_SUPPORTED)
    return RESUME


def _terminate(vcpu: Vcpu, request: Ghcb) -> bool:
    vcpu.vm.machine.printk(
        f"SEV-ES guest requested termination: reason {request.info_1:#x} info {request.info_2:#x}"
    )
    return terminate(vcpu)


def _reset_hold(vcpu: Vcpu, request: Ghcb) -> bool:
    return ap.reset_hold(vcpu, abi.AP_RESET_HOLD_NAE_EVENT)


def _unsupported_event(vcpu: Vcpu, request: Ghcb) -> bool:
    _unimplemented(vcpu, f"vmgexit: unsupported event - exit_info_1={request.info_1:#x}")
    raise KvmError(errno.EINVAL)


def _nothing(vcpu: Vcpu, request: Ghcb) -> bool:
    return RESUME


MESSAGES = (abi.SVM_VMGEXIT_GUEST_REQUEST, abi.SVM_VMGEXIT_EXT_GUEST_REQUEST)

INPUTS: dict[int, tuple[int, ...]] = {
    abi.SVM_EXIT_WRITE_DR7: (page.RAX,),
    abi.SVM_EXIT_RDPMC: (page.RCX,),
    abi.SVM_EXIT_CPUID: (page.RAX, page.RCX),
    abi.SVM_EXIT_MSR: (page.RCX,),
    abi.SVM_EXIT_VMMCALL: (page.RAX, page.CPL),
    abi.SVM_EXIT_MONITOR: (page.RAX, page.RCX, page.RDX),
    abi.SVM_EXIT_MWAIT: (page.RAX, page.RCX),
    abi.SVM_VMGEXIT_MMIO_READ: (page.SCRATCH,),
    abi.SVM_VMGEXIT_MMIO_WRITE: (page.SCRATCH,),
}
"""Fields that must be valid, by exit code."""

EVENTS: dict[int, Callable[[Vcpu, Ghcb], bool]] = {
    abi.SVM_EXIT_READ_DR7: _nothing,
    abi.SVM_EXIT_WRITE_DR7: _nothing,
    abi.SVM_EXIT_RDTSC: nae.rdtsc,
    abi.SVM_EXIT_RDPMC: nae.rdpmc,
    abi.SVM_EXIT_CPUID: nae.cpuid_event,
    abi.SVM_EXIT_INVD: _nothing,
    abi.SVM_EXIT_IOIO: nae.io,
    abi.SVM_EXIT_MSR: nae.msr,
    abi.SVM_EXIT_VMMCALL: nae.vmmcall,
    abi.SVM_EXIT_RDTSCP: nae.rdtsc,
    abi.SVM_EXIT_WBINVD: nae.wbinvd,
    abi.SVM_EXIT_MONITOR: _nothing,
    abi.SVM_EXIT_MWAIT: _nothing,
    abi.SVM_VMGEXIT_MMIO_READ: nae.mmio_read,
    abi.SVM_VMGEXIT_MMIO_WRITE: nae.mmio_write,
    abi.SVM_VMGEXIT_NMI_COMPLETE: _nothing,
    abi.SVM_VMGEXIT_AP_HLT_LOOP: _reset_hold,
    abi.SVM_VMGEXIT_AP_JUMP_TABLE: ap.jump_table,
    abi.SVM_VMGEXIT_PSC: psc.begin,
    abi.SVM_VMGEXIT_GUEST_REQUEST: guest_req.request,
    abi.SVM_VMGEXIT_EXT_GUEST_REQUEST: guest_req.extended,
    abi.SVM_VMGEXIT_AP_CREATION: ap.creation,
    abi.SVM_VMGEXIT_HV_FEATURES: _hv_features,
    abi.SVM_VMGEXIT_TERM_REQUEST: _terminate,
    abi.SVM_VMGEXIT_UNSUPPORTED_EVENT: _unsupported_event,
}
"""The NAE events that KVM serves."""
