# SPDX-License-Identifier: GPL-2.0-only
"""Running a guest whose state is not protected: KVM_X86_DEFAULT_VM and KVM_X86_SW_PROTECTED_VM.

KVM sees such a guest's registers and serves its exits without a GHCB (arch/x86/kvm/svm/svm.c,
x86.c, Linux 6.12).  Emulating the instruction of an MMIO access is not modelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.emulator.cpu import exits
from harness.emulator.cpu.state import GPRS, PlainState, Segment
from harness.emulator.kvm import lapic, nae
from harness.emulator.kvm.exit import LEAVE, RESUME
from harness.uapi import kvm as uapi

if TYPE_CHECKING:
    from harness.emulator.cpu.cpu import Cpu
    from harness.emulator.kvm.vcpu import Vcpu

RAX, RCX, RDX, RBX = range(4)
GP_VECTOR = 13
WRMSR_LENGTH = 2
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")


def enter(vcpu: Vcpu, cpu: Cpu, budget: int) -> bool:
    """VMRUN once and handle the exit."""
    state, vm = vcpu.state, vcpu.vm
    if state.registers_changed:
        cpu.set_plain(_to_plain(vcpu))
        cpu.cpuid = lambda leaf, subleaf: nae.cpuid(vcpu, leaf, subleaf)
        state.registers_changed = False
    if state.tlb_generation != vm.mmu.generation:
        state.tlb_generation = vm.mmu.generation
        cpu.flush_tlb()
    resumed = _handle(vcpu, cpu, cpu.run_plain(vm.mmu, state.vmcb, budget))
    if not resumed:
        _from_plain(vcpu, cpu.get_plain())
    return resumed


def _handle(vcpu: Vcpu, cpu: Cpu, exit: exits.Exit) -> bool:
    from harness.emulator.kvm import run

    match exit:
        case exits.Npf(gpa=gpa, error_code=code):
            return run.page_fault(vcpu, gpa, code)
        case exits.Io(port=port, size=size, write=write, data=data):
            return _io(vcpu, port, size, write=write, data=data)
        case exits.Vmmcall():
            return _hypercall(vcpu, cpu)
        case exits.Msr(index=index, write=write, value=value):
            return _msr(vcpu, cpu, index, value, write=write)
        case exits.Hlt():
            return run.halt(vcpu, uapi.KVM_MP_STATE_HALTED, uapi.KVM_EXIT_HLT)
        case exits.Shutdown():
            vcpu.run.exit_reason = uapi.KVM_EXIT_SHUTDOWN
            return LEAVE
    return RESUME


def mmio(vcpu: Vcpu, gpa: int, error_code: int) -> bool:
    """An access without memory behind it: its instruction would have to be emulated."""
    return cannot_emulate(vcpu)


def cannot_emulate(vcpu: Vcpu) -> bool:
    """Leave for want of an instruction emulator."""
    vcpu.run.exit_reason = uapi.KVM_EXIT_INTERNAL_ERROR
    vcpu.run.internal.suberror = uapi.KVM_INTERNAL_ERROR_EMULATION
    vcpu.run.internal.ndata = 0
    return LEAVE


def _io(vcpu: Vcpu, port: int, size: int, *, write: bool, data: bytes) -> bool:
    nae.ask_io(vcpu, port, size, 1, is_in=not write, data=data if write else b"")

    def complete(vcpu: Vcpu) -> bool:
        if not write and vcpu.state.cpu is not None:
            vcpu.state.cpu.complete_io(nae.io_data(vcpu, size))
        return RESUME

    vcpu.state.completion = complete
    return LEAVE


def _hypercall(vcpu: Vcpu, cpu: Cpu) -> bool:
    arguments = (cpu.read_reg(RBX), cpu.read_reg(RCX), cpu.read_reg(RDX))
    result = nae.hypercall(vcpu, cpu.read_reg(RAX), arguments, cpu.get_plain().cpl)
    if result is not None:
        cpu.write_reg(RAX, result & nae.U64)
        return RESUME

    def complete(vcpu: Vcpu) -> bool:
        cpu.write_reg(RAX, vcpu.run.hypercall.ret)
        return RESUME

    vcpu.state.completion = complete
    return LEAVE


def _msr(vcpu: Vcpu, cpu: Cpu, index: int, value: int, *, write: bool) -> bool:
    known = lapic.read_msr(vcpu, index)
    if not write and known is not None:
        cpu.complete_msr(known)
    elif not write or not lapic.write_msr(vcpu, index, value):
        # The exit comes with RIP past the instruction; the fault belongs to it.
        plain = cpu.get_plain()
        plain.rip -= WRMSR_LENGTH
        cpu.set_plain(plain)
        cpu.raise_exception(GP_VECTOR, 0)
    return RESUME


# -- registers -----------------------------------------------------------------------------


def _to_plain(vcpu: Vcpu) -> PlainState:
    regs, sregs = vcpu.regs, vcpu.sregs
    names = {**{name: name for name in SEGMENTS}, "ldtr": "ldt", "tr": "tr"}
    return PlainState(
        regs=[getattr(regs, name) for name in GPRS],
        rip=regs.rip,
        rflags=regs.rflags,
        segments={name: _segment(getattr(sregs, own)) for name, own in names.items()},
        gdt=(sregs.gdt.base, sregs.gdt.limit),
        idt=(sregs.idt.base, sregs.idt.limit),
        cr0=sregs.cr0,
        cr2=sregs.cr2,
        cr3=sregs.cr3,
        cr4=sregs.cr4,
        efer=sregs.efer,
        cpl=sregs.ss.dpl,
    )


def _segment(segment: uapi.kvm_segment) -> Segment:
    """Attributes as in a VMCB: type, S, DPL, P, AVL, L, DB, G from bit 0 on."""
    fields = ((segment.type, 0), (segment.s, 4), (segment.dpl, 5), (segment.present, 7))
    more = ((segment.avl, 8), (segment.l, 9), (segment.db, 10), (segment.g, 11))
    attributes = sum(value << shift for value, shift in (*fields, *more))
    return Segment(segment.selector, segment.base, segment.limit, attributes)


def _from_plain(vcpu: Vcpu, state: PlainState) -> None:
    """Make what the guest did visible to KVM_GET_REGS and KVM_GET_SREGS."""
    for name, value in zip(GPRS, state.regs, strict=True):
        setattr(vcpu.regs, name, value)
    vcpu.regs.rip, vcpu.regs.rflags = state.rip, state.rflags
    sregs = vcpu.sregs
    sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4 = state.cr0, state.cr2, state.cr3, state.cr4
    sregs.efer = state.efer
    sregs.gdt.base, sregs.gdt.limit = state.gdt
    sregs.idt.base, sregs.idt.limit = state.idt
    for name in SEGMENTS:
        _set_segment(getattr(sregs, name), state.segments[name])
    _set_segment(sregs.ldt, state.segments["ldtr"])
    _set_segment(sregs.tr, state.segments["tr"])


def _set_segment(into: uapi.kvm_segment, segment: Segment) -> None:
    into.selector, into.base, into.limit = segment.selector, segment.base, segment.limit
    bits = segment.attrib
    into.type, into.s, into.dpl, into.present = (
        bits & 15,
        bits >> 4 & 1,
        bits >> 5 & 3,
        bits >> 7 & 1,
    )
    into.avl, into.l, into.db, into.g = bits >> 8 & 1, bits >> 9 & 1, bits >> 10 & 1, bits >> 11 & 1
