# SPDX-License-Identifier: GPL-2.0-only
"""KVM_RUN: the loop around VMRUN, and what a vCPU keeps between calls.

arch/x86/kvm/x86.c and svm/svm.c, Linux 6.12.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.emulator.cpu import exits
from harness.emulator.cpu.cpu import Cpu, Vmcb
from harness.emulator.cpu.mmu import UnmodelledModeError
from harness.emulator.kvm import ap, plain, sev, vmgexit
from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.exit import LEAVE, RESUME
from harness.emulator.kvm.mmu import MemoryFault, Resolution
from harness.emulator.kvm.sched import Blocked, Steps
from harness.emulator.kvm.vmsa import XCR0_FP
from harness.uapi import kvm as uapi
from harness.uapi.svm import SVM_EXIT_NPF

if TYPE_CHECKING:
    from harness.emulator.kvm.files import Call
    from harness.emulator.kvm.ghcb import Ghcb
    from harness.emulator.kvm.vcpu import Vcpu


VMEXIT_INVALID = (1 << 32) - 1

Completion = Callable[["Vcpu"], bool]
"""Finishes what userspace was asked for, at the next KVM_RUN; answers RESUME or LEAVE."""


@dataclass(slots=True)
class VcpuState:
    """What KVM_RUN keeps about a vCPU (struct vcpu_sev_es_state and struct kvm_vcpu_arch)."""

    vmcb: Vmcb = field(default_factory=Vmcb)
    cpu: Cpu | None = None
    vmsa_pa: int | None = None
    """VMSA page that KVM made, measured at LAUNCH_FINISH; freed with the vCPU."""
    guest_vmsa_pa: int | None = None
    """VMSA page of the guest's own (AP creation); valid when `has_guest_vmsa`."""
    has_guest_vmsa: bool = False
    registered_ghcb: int | None = None
    xcr0: int = XCR0_FP
    """As the guest gave it last; CPUID 0xD depends on it."""
    ghcb: Ghcb | None = None
    """The request under way; None while the guest runs."""
    completion: Completion | None = None
    registers_changed: bool = True
    update_pending: bool = False
    """KVM_REQ_UPDATE_PROTECTED_GUEST_STATE."""
    waiting_for_reset: bool = False
    pending_vmsa_gpa: int | None = None
    ap_reset_hold: int = 0
    received_first_sipi: bool = False
    init_pending: bool = False
    sipi_pending: bool = False
    tlb_generation: int = -1
    error: int = 0
    """errno with which a handler wants KVM_RUN to fail."""
    leave: bool = False
    """A VMGEXIT handled inside the CPU asked to return to userspace."""


def run(vcpu: Vcpu, call: Call) -> Steps:
    """kvm_arch_vcpu_ioctl_run: complete what is pending, then run until an exit."""
    state = vcpu.state
    immediate = bool(vcpu.run.immediate_exit)
    if vcpu.mp_state == uapi.KVM_MP_STATE_UNINITIALIZED:
        return (yield from _wait_for_init(vcpu, call, immediate))
    if state.completion is not None:
        completion, state.completion = state.completion, None
        if completion(vcpu) == LEAVE:
            return _left(vcpu)
    if immediate:
        raise KvmError(errno.EINTR)
    if vcpu.vm.sev.need_init:
        raise KvmError(errno.EINVAL)
    vcpu.run.exit_reason = uapi.KVM_EXIT_UNKNOWN
    while True:
        if call.task.signal_pending:
            vcpu.run.exit_reason = uapi.KVM_EXIT_INTR
            raise KvmError(errno.EINTR)
        if vcpu.mp_state != uapi.KVM_MP_STATE_RUNNABLE:
            yield from _block(vcpu, call)
            continue
        try:
            if _accept_events(vcpu) and _enter(vcpu, call) == LEAVE:
                return _left(vcpu)
        except UnmodelledModeError as error:  # a limit of ours, and said so
            vcpu.vm.machine.debug(f"vcpu{vcpu.id}: {error}")
            plain.cannot_emulate(vcpu)
            return _left(vcpu)
        yield None


def _left(vcpu: Vcpu) -> int:
    if vcpu.state.error:
        code, vcpu.state.error = vcpu.state.error, 0
        raise KvmError(code)
    return 0


def _wait_for_init(vcpu: Vcpu, call: Call, immediate: bool) -> Steps:
    """Only an INIT leads out of UNINITIALIZED; any other wake-up is EAGAIN."""
    if immediate:
        raise KvmError(errno.EINTR)
    if not _has_events(vcpu):
        yield Blocked(lambda: _has_events(vcpu), f"vCPU {vcpu.id} to get an INIT")
    ap.accept_init(vcpu)
    if call.task.signal_pending:
        vcpu.run.exit_reason = uapi.KVM_EXIT_INTR
        raise KvmError(errno.EINTR)
    raise KvmError(errno.EAGAIN)


def _has_events(vcpu: Vcpu) -> bool:
    """kvm_vcpu_has_events, as far as the model has them."""
    state = vcpu.state
    return state.update_pending or state.init_pending or state.sipi_pending


def _block(vcpu: Vcpu, call: Call) -> Steps:
    """vcpu_block: sleep until an event, then leave the halted state."""
    if not _has_events(vcpu):
        yield Blocked(lambda: _has_events(vcpu), f"vCPU {vcpu.id} to be woken")
        if not _has_events(vcpu):
            return 0  # a signal
    ap.accept_init(vcpu)
    if vcpu.mp_state in (uapi.KVM_MP_STATE_HALTED, uapi.KVM_MP_STATE_AP_RESET_HOLD):
        vcpu.mp_state = uapi.KVM_MP_STATE_RUNNABLE
    return 0


def _accept_events(vcpu: Vcpu) -> bool:
    """The requests that vcpu_enter_guest serves first; False where the vCPU may not run then."""
    state = vcpu.state
    if state.update_pending:
        state.update_pending = False
        ap.reset(vcpu)
        if vcpu.mp_state != uapi.KVM_MP_STATE_RUNNABLE:
            return False
    ap.accept_init(vcpu)
    return bool(vcpu.mp_state == uapi.KVM_MP_STATE_RUNNABLE)


def cpu(vcpu: Vcpu) -> Cpu:
    """The processor that the vCPU runs on."""
    state = vcpu.state
    if state.cpu is None:
        machine = vcpu.vm.machine
        state.cpu = Cpu(machine.memory, machine.rmp, cbit=machine.config.cbit)
        if vcpu.vm.has_protected_state:
            state.cpu.on_vmgexit = lambda vmcb: vmgexit.inside(vcpu)
    return state.cpu


def _enter(vcpu: Vcpu, call: Call) -> bool:
    """vcpu_enter_guest: VMRUN once, and handle the exit."""
    state, vm = vcpu.state, vcpu.vm
    if not vm.has_protected_state:
        return plain.enter(vcpu, cpu(vcpu), call.process.scheduler.budget())
    if state.ghcb is not None:
        state.ghcb.sync()
        state.ghcb = None
        state.ap_reset_hold = 0
    vmsa = state.guest_vmsa_pa if state.has_guest_vmsa else state.vmsa_pa
    processor = cpu(vcpu)
    if state.tlb_generation != vm.mmu.generation:
        state.tlb_generation = vm.mmu.generation
        processor.flush_tlb()
    if vmsa is None:
        return _fail_entry(vcpu)
    state.leave = False
    budget = call.process.scheduler.budget()
    exit = processor.vmrun(vmsa, vm.asid, vm.mmu, state.vmcb, budget)
    match exit:
        case exits.VmgExit():
            return LEAVE if state.leave else RESUME
        case exits.Npf(gpa=gpa, error_code=code):
            return page_fault(vcpu, gpa, code)
        case exits.Intr():
            return RESUME
        case exits.Hlt():
            return halt(vcpu, uapi.KVM_MP_STATE_HALTED, uapi.KVM_EXIT_HLT)
        case exits.Shutdown():
            vcpu.run.exit_reason = uapi.KVM_EXIT_SHUTDOWN
            return LEAVE
        case exits.Invalid():
            return _fail_entry(vcpu)
        case _:
            return RESUME


def _fail_entry(vcpu: Vcpu) -> bool:
    """VMRUN refused the VMSA (VMEXIT_INVALID)."""
    vcpu.run.exit_reason = uapi.KVM_EXIT_FAIL_ENTRY
    vcpu.run.fail_entry.hardware_entry_failure_reason = VMEXIT_INVALID
    vcpu.run.fail_entry.cpu = 0
    return LEAVE


def page_fault(vcpu: Vcpu, gpa: int, error_code: int) -> bool:
    """npf_interception."""
    vm = vcpu.vm
    try:
        resolution = vm.mmu.fault(gpa, error_code)
    except MemoryFault as fault:
        vcpu.run.exit_reason = uapi.KVM_EXIT_MEMORY_FAULT
        vcpu.run.memory_fault.flags = uapi.KVM_MEMORY_EXIT_FLAG_PRIVATE if fault.private else 0
        vcpu.run.memory_fault.gpa = fault.gpa
        vcpu.run.memory_fault.size = fault.size
        vcpu.state.error = fault.errno
        return LEAVE
    except KvmError as error:
        vcpu.state.error = error.errno
        return LEAVE
    if resolution is Resolution.MMIO:
        if vm.has_protected_state:
            # The reserved bit in the nested page table makes hardware raise #VC in the guest.
            cpu(vcpu).raise_vc(SVM_EXIT_NPF)
            return RESUME
        return plain.mmio(vcpu, gpa, error_code)
    return RESUME


def halt(vcpu: Vcpu, mp_state: int, reason: int) -> bool:
    """__kvm_emulate_halt: sleep in the kernel with a local APIC there, else tell userspace."""
    if vcpu.vm.lapic:
        if not _has_events(vcpu):
            vcpu.mp_state = mp_state
        return RESUME
    vcpu.run.exit_reason = reason
    return LEAVE


def destroy(vcpu: Vcpu) -> None:
    """kvm_arch_vcpu_destroy: give back the processor and the VMSA page."""
    if vcpu.state.cpu is not None:
        vcpu.state.cpu.close()
        vcpu.state.cpu = None
    sev.free_vmsa(vcpu)
