# SPDX-License-Identifier: GPL-2.0-only
"""AP creation, INIT and SIPI, AP reset hold (sev_snp_ap_creation and its neighbours, 6.12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.exit import RESUME
from harness.emulator.memory import PAGE_SIZE, PAGE_SIZE_2M
from harness.uapi import ghcb as abi
from harness.uapi import kvm as uapi
from harness.uapi.vmsa import SVM_SEV_FEAT_INT_INJ_MODES

if TYPE_CHECKING:
    from harness.emulator.kvm.ghcb import Ghcb
    from harness.emulator.kvm.vcpu import Vcpu

U32 = 0xFFFFFFFF
ALL_FEATURES = (1 << 64) - 1


def creation(vcpu: Vcpu, request: Ghcb) -> bool:
    """The NAE event AP_CREATION; whatever is wrong with it is INVALID_INPUT."""
    if not _create(vcpu, request):
        request.malformed(abi.GHCB_ERR_INVALID_INPUT)
    return RESUME


def _create(vcpu: Vcpu, request: Ghcb) -> bool:
    """sev_snp_ap_creation: record the VMSA for the target, and kick it unless it waits for INIT."""
    vm = vcpu.vm
    operation, apic_id = request.info_1 & U32, request.info_1 >> 32
    target = vm.vcpu_by_id(apic_id)
    if target is None:
        _say(vcpu, f"vmgexit: invalid AP APIC ID [{apic_id:#x}] from guest")
        return False
    pending = target.state.update_pending  # a request made before stays, whatever this one is
    if vm.interface.ap_creation_error_stops_target:
        target.state.pending_vmsa_gpa = None
        target.state.waiting_for_reset = True
        target.state.update_pending = True
    if operation < abi.SVM_VMGEXIT_AP_DESTROY:
        changed = request.rax ^ vm.sev.vmsa_features
        fixed = ALL_FEATURES if vm.interface.ap_features_exact else SVM_SEV_FEAT_INT_INJ_MODES
        if changed & fixed:
            _say(vcpu, f"vmgexit: invalid AP injection mode [{request.rax:#x}] from guest")
            return False
    state = target.state
    if operation in (abi.SVM_VMGEXIT_AP_CREATE_ON_INIT, abi.SVM_VMGEXIT_AP_CREATE):
        gpa = request.info_2
        if gpa % PAGE_SIZE or gpa >> 52:
            _say(vcpu, f"vmgexit: invalid AP VMSA address [{gpa:#x}] from guest")
            return False
        if gpa % PAGE_SIZE_2M == 0:
            _say(vcpu, f"vmgexit: AP VMSA address [{gpa:x}] from guest is unsafe (2M aligned)")
            return False
        state.pending_vmsa_gpa = gpa
    elif operation == abi.SVM_VMGEXIT_AP_DESTROY:
        state.pending_vmsa_gpa = None
    else:
        _say(vcpu, f"vmgexit: invalid AP creation request [{operation:#x}] from guest")
        return False
    state.waiting_for_reset = True
    state.update_pending = pending or operation != abi.SVM_VMGEXIT_AP_CREATE_ON_INIT
    return True


def reset(vcpu: Vcpu) -> None:
    """sev_snp_init_protected_guest_state, run by the target: swap in the VMSA it was given."""
    state = vcpu.state
    if not vcpu.vm.sev_snp or not state.waiting_for_reset:
        return
    state.waiting_for_reset = False
    vcpu.mp_state = uapi.KVM_MP_STATE_HALTED
    gpa, state.pending_vmsa_gpa = state.pending_vmsa_gpa, None
    if state.cpu is not None:
        state.cpu.save()
    state.guest_vmsa_pa = None
    if gpa is None:
        return
    state.guest_vmsa_pa = _vmsa_page(vcpu, gpa)
    if state.guest_vmsa_pa is not None:
        state.has_guest_vmsa = True
    vcpu.mp_state = uapi.KVM_MP_STATE_RUNNABLE


def _vmsa_page(vcpu: Vcpu, gpa: int) -> int | None:
    """sev_snp_reload_vmsa: the private page behind the address, None where there is none."""
    gfn = gpa >> 12
    slot = vcpu.vm.slots.find(gfn)
    if slot is None or slot.gmem is None:
        return None
    try:
        return slot.gmem.get_pfn(slot, gfn)[0]
    except KvmError:
        return None


def accept_init(vcpu: Vcpu) -> None:
    """kvm_apic_accept_events: an INIT resets, a SIPI starts."""
    state = vcpu.state
    if state.init_pending:
        state.init_pending = False
        reset(vcpu)
        vcpu.mp_state = (
            uapi.KVM_MP_STATE_RUNNABLE
            if vcpu.id == vcpu.vm.bsp_id
            else uapi.KVM_MP_STATE_INIT_RECEIVED
        )
    if state.sipi_pending:
        state.sipi_pending = False
        if vcpu.mp_state == uapi.KVM_MP_STATE_INIT_RECEIVED:
            _deliver_sipi(vcpu)
            vcpu.mp_state = uapi.KVM_MP_STATE_RUNNABLE


def _deliver_sipi(vcpu: Vcpu) -> None:
    """sev_vcpu_deliver_sipi_vector: the first SIPI starts from the VMSA, later ones end a hold."""
    state = vcpu.state
    if not state.received_first_sipi:
        state.received_first_sipi = True
    elif state.ap_reset_hold == abi.AP_RESET_HOLD_NAE_EVENT and state.ghcb is not None:
        state.ghcb.set_info_2(1)
    elif state.ap_reset_hold == abi.AP_RESET_HOLD_MSR_PROTO:
        state.vmcb.ghcb_gpa = 1 << abi.GHCB_DATA_LOW | abi.GHCB_MSR_AP_RESET_HOLD_RESP


def reset_hold(vcpu: Vcpu, kind: int) -> bool:
    """kvm_emulate_ap_reset_hold: wait for INIT and SIPI."""
    from harness.emulator.kvm import run

    vcpu.state.ap_reset_hold = kind
    return run.halt(vcpu, uapi.KVM_MP_STATE_AP_RESET_HOLD, uapi.KVM_EXIT_AP_RESET_HOLD)


def jump_table(vcpu: Vcpu, request: Ghcb) -> bool:
    """AP jump table: 0 sets its address, 1 gets it."""
    if request.info_1 == 0:
        vcpu.vm.sev.ap_jump_table = request.info_2
    elif request.info_1 == 1:
        request.set_info_2(vcpu.vm.sev.ap_jump_table)
    else:
        request.malformed(abi.GHCB_ERR_INVALID_INPUT)
    return RESUME


def _say(vcpu: Vcpu, line: str) -> None:
    vcpu.vm.machine.debug(f"kvm: vcpu{vcpu.index}, {line}")
