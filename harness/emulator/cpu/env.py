# SPDX-License-Identifier: GPL-2.0-only
"""The register file inside Unicorn: CPUX86State of its QEMU, up to what a reset clears.

Layout: qemu/target/i386/cpu.h of Unicorn 2.1.4 (struct CPUX86State), x86-64 hosts.  `uc.Engine`
checks it against the public register interface before it is used.
"""

from __future__ import annotations

import ctypes

u8, u16, u32, u64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64
i32 = ctypes.c_int32

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
R11 = 11
ES, CS, SS, DS, FS, GS = range(6)

CC_OP_EFLAGS = 1
"""cc_op: all condition codes are in cc_src (enum CCOp)."""

# Hidden flags, those a TB is translated for (cpu.h, HF_*).
HF_CPL = 3 << 0
HF_INHIBIT_IRQ = 1 << 3
HF_CS32 = 1 << 4
HF_SS32 = 1 << 5
HF_ADDSEG = 1 << 6
HF_PE = 1 << 7
HF_TF = 1 << 8
HF_MP_SHIFT = 9
HF_LMA = 1 << 14
HF_CS64 = 1 << 15
HF_GUEST = 1 << 21
HF_OSFXSR = 1 << 22
HF_SMAP = 1 << 23
HF2_GIF = 1 << 0

# RFLAGS (APM vol. 2, section 3.1.6).
CC_MASK = 0x8D5
RF_CF, RF_ZF, RF_TF, RF_IF, RF_DF = 1 << 0, 1 << 6, 1 << 8, 1 << 9, 1 << 10
RF_IOPL, RF_NT, RF_RF, RF_VM, RF_AC = 3 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 18

# Descriptor attributes as `flags` holds them: the descriptor's second dword.
DESC_L, DESC_B, DESC_DPL_SHIFT = 1 << 21, 1 << 22, 13


class SegmentCache(ctypes.Structure):
    """A segment register with its hidden part."""

    _fields_ = [("selector", u32), ("base", u64), ("limit", u32), ("flags", u32)]


class FloatReg(ctypes.Structure):
    """An x87 register."""

    _fields_ = [("low", u64), ("high", u16), ("_pad", u8 * 6)]


class EnvState(ctypes.Structure):
    """struct CPUX86State."""

    _fields_ = [
        ("regs", u64 * 16),
        ("eip", u64),
        ("eflags", u64),
        ("cc_dst", u64),
        ("cc_src", u64),
        ("cc_src2", u64),
        ("cc_op", u32),
        ("df", i32),
        ("hflags", u32),
        ("hflags2", u32),
        ("segs", SegmentCache * 6),
        ("ldt", SegmentCache),
        ("tr", SegmentCache),
        ("gdt", SegmentCache),
        ("idt", SegmentCache),
        ("cr", u64 * 9),
        ("a20_mask", i32),
        ("bnd_regs", u64 * 8),
        ("bndcs_regs", u64 * 2),
        ("msr_bndcfgs", u64),
        ("efer", u64),
        ("start_init_save", i32),
        ("fpstt", u32),
        ("fpus", u16),
        ("fpuc", u16),
        ("fptags", u8 * 8),
        ("fpregs", FloatReg * 8),
        ("fpop", u16),
        ("fpcs", u16),
        ("fpds", u16),
        ("fpip", u64),
        ("fpdp", u64),
        ("fp_status", u8 * 8),
        ("ft0", FloatReg),
        ("mmx_status", u8 * 8),
        ("sse_status", u8 * 8),
        ("mxcsr", u32),
        ("xmm_regs", (u64 * 8) * 32),
        ("xmm_t0", u64 * 8),
        ("mmx_t0", u64),
        ("ymmh_regs", (u64 * 2) * 16),
        ("opmask_regs", u64 * 8),
        ("zmmh_regs", (u64 * 4) * 16),
        ("hi16_zmm_regs", (u64 * 8) * 16),
        ("sysenter_cs", u32),
        ("sysenter_esp", u64),
        ("sysenter_eip", u64),
        ("star", u64),
        ("vm_hsave", u64),
        ("lstar", u64),
        ("cstar", u64),
        ("fmask", u64),
        ("kernelgsbase", u64),
        ("tsc", u64),
        ("tsc_adjust", u64),
        ("tsc_deadline", u64),
        ("tsc_aux", u64),
        ("xcr0", u64),
        ("mcg_status", u64),
        ("msr_ia32_misc_enable", u64),
        ("msr_ia32_feature_control", u64),
        ("msr_fixed_ctr_ctrl", u64),
        ("msr_global", u64 * 3),
        ("msr_fixed_counters", u64 * 3),
        ("msr_gp_counters", u64 * 18),
        ("msr_gp_evtsel", u64 * 18),
        ("pat", u64),
        ("smbase", u32),
        ("msr_smi_count", u64),
        ("pkru", u32),
        ("tsx_ctrl", u32),
        ("spec_ctrl", u64),
        ("virt_ssbd", u64),
        ("end_init_save", i32),
        ("kvm_msrs", u64 * 6),
        ("error_code", i32),
        ("exception_is_int", i32),
        ("exception_next_eip", u64),
        ("dr", u64 * 8),
        ("breakpoints", u64 * 4),
        ("old_exception", i32),
        ("vm_vmcb", u64),
        ("tsc_offset", u64),
        ("intercept", u64),
        ("intercept_cr_read", u16),
        ("intercept_cr_write", u16),
        ("intercept_dr_read", u16),
        ("intercept_dr_write", u16),
        ("intercept_exceptions", u32),
        ("nested_cr3", u64),
        ("nested_pg_mode", u32),
        ("v_tpr", u8),
        ("retaddr", u64),
        ("end_reset_fields", i32),
    ]
