# SPDX-License-Identifier: GPL-2.0-only
"""Register structures of KVM on x86 (arch/x86/include/uapi/asm/kvm.h, Linux 6.12)."""

from __future__ import annotations

from harness.uapi.layout import Struct, u8, u16, u32, u64

KVM_NR_INTERRUPTS = 256
KVM_APIC_REG_SIZE = 0x400
KVM_MAX_XCRS = 16

KVM_SREGS2_FLAGS_PDPTRS_VALID = 1


class kvm_regs(Struct):
    _fields_ = (
        ("rax", u64),
        ("rbx", u64),
        ("rcx", u64),
        ("rdx", u64),
        ("rsi", u64),
        ("rdi", u64),
        ("rsp", u64),
        ("rbp", u64),
        ("r8", u64),
        ("r9", u64),
        ("r10", u64),
        ("r11", u64),
        ("r12", u64),
        ("r13", u64),
        ("r14", u64),
        ("r15", u64),
        ("rip", u64),
        ("rflags", u64),
    )


class kvm_lapic_state(Struct):
    _fields_ = (("regs", u8 * KVM_APIC_REG_SIZE),)


class kvm_segment(Struct):
    _fields_ = (
        ("base", u64),
        ("limit", u32),
        ("selector", u16),
        ("type", u8),
        ("present", u8),
        ("dpl", u8),
        ("db", u8),
        ("s", u8),
        ("l", u8),
        ("g", u8),
        ("avl", u8),
        ("unusable", u8),
        ("padding", u8),
    )


class kvm_dtable(Struct):
    _fields_ = (
        ("base", u64),
        ("limit", u16),
        ("padding", u16 * 3),
    )


class kvm_sregs(Struct):
    _fields_ = (
        ("cs", kvm_segment),
        ("ds", kvm_segment),
        ("es", kvm_segment),
        ("fs", kvm_segment),
        ("gs", kvm_segment),
        ("ss", kvm_segment),
        ("tr", kvm_segment),
        ("ldt", kvm_segment),
        ("gdt", kvm_dtable),
        ("idt", kvm_dtable),
        ("cr0", u64),
        ("cr2", u64),
        ("cr3", u64),
        ("cr4", u64),
        ("cr8", u64),
        ("efer", u64),
        ("apic_base", u64),
        ("interrupt_bitmap", u64 * ((KVM_NR_INTERRUPTS + 63) // 64)),
    )


class kvm_sregs2(Struct):
    _fields_ = (
        ("cs", kvm_segment),
        ("ds", kvm_segment),
        ("es", kvm_segment),
        ("fs", kvm_segment),
        ("gs", kvm_segment),
        ("ss", kvm_segment),
        ("tr", kvm_segment),
        ("ldt", kvm_segment),
        ("gdt", kvm_dtable),
        ("idt", kvm_dtable),
        ("cr0", u64),
        ("cr2", u64),
        ("cr3", u64),
        ("cr4", u64),
        ("cr8", u64),
        ("efer", u64),
        ("apic_base", u64),
        ("flags", u64),
        ("pdptrs", u64 * 4),
    )


class kvm_fpu(Struct):
    _fields_ = (
        ("fpr", (u8 * 16) * 8),
        ("fcw", u16),
        ("fsw", u16),
        ("ftwx", u8),
        ("pad1", u8),
        ("last_opcode", u16),
        ("last_ip", u64),
        ("last_dp", u64),
        ("xmm", (u8 * 16) * 16),
        ("mxcsr", u32),
        ("pad2", u32),
    )


class kvm_msr_entry(Struct):
    _fields_ = (
        ("index", u32),
        ("reserved", u32),
        ("data", u64),
    )


class kvm_cpuid_entry2(Struct):
    _fields_ = (
        ("function", u32),
        ("index", u32),
        ("flags", u32),
        ("eax", u32),
        ("ebx", u32),
        ("ecx", u32),
        ("edx", u32),
        ("padding", u32 * 3),
    )


class kvm_debug_exit_arch(Struct):
    _fields_ = (
        ("exception", u32),
        ("pad", u32),
        ("pc", u64),
        ("dr6", u64),
        ("dr7", u64),
    )


class kvm_guest_debug_arch(Struct):
    _fields_ = (("debugreg", u64 * 8),)


class kvm_debugregs(Struct):
    _fields_ = (
        ("db", u64 * 4),
        ("dr6", u64),
        ("dr7", u64),
        ("flags", u64),
        ("reserved", u64 * 9),
    )


class kvm_xcr(Struct):
    _fields_ = (
        ("xcr", u32),
        ("reserved", u32),
        ("value", u64),
    )


class kvm_xcrs(Struct):
    _fields_ = (
        ("nr_xcrs", u32),
        ("flags", u32),
        ("xcrs", kvm_xcr * KVM_MAX_XCRS),
        ("padding", u64 * 16),
    )


class kvm_vcpu_events_exception(Struct):
    _fields_ = (
        ("injected", u8),
        ("nr", u8),
        ("has_error_code", u8),
        ("pending", u8),
        ("error_code", u32),
    )


class kvm_vcpu_events_interrupt(Struct):
    _fields_ = (("injected", u8), ("nr", u8), ("soft", u8), ("shadow", u8))


class kvm_vcpu_events_nmi(Struct):
    _fields_ = (("injected", u8), ("pending", u8), ("masked", u8), ("pad", u8))


class kvm_vcpu_events_smi(Struct):
    _fields_ = (("smm", u8), ("pending", u8), ("smm_inside_nmi", u8), ("latched_init", u8))


class kvm_vcpu_events_triple_fault(Struct):
    _fields_ = (("pending", u8),)


class kvm_vcpu_events(Struct):
    _fields_ = (
        ("exception", kvm_vcpu_events_exception),
        ("interrupt", kvm_vcpu_events_interrupt),
        ("nmi", kvm_vcpu_events_nmi),
        ("sipi_vector", u32),
        ("flags", u32),
        ("smi", kvm_vcpu_events_smi),
        ("triple_fault", kvm_vcpu_events_triple_fault),
        ("reserved", u8 * 26),
        ("exception_has_payload", u8),
        ("exception_payload", u64),
    )


class kvm_sync_regs(Struct):
    _fields_ = (("regs", kvm_regs), ("sregs", kvm_sregs), ("events", kvm_vcpu_events))
