# SPDX-License-Identifier: GPL-2.0-only
"""The VM save area (VMSA) of an SEV-ES or SEV-SNP vCPU.

arch/x86/include/asm/svm.h, Linux 6.12; APM volume 2, appendix B, table B-4.
"""

from __future__ import annotations

from harness.uapi.layout import PAGE_SIZE, PackedStruct, u8, u16, u32, u64

VMSA_SIZE = PAGE_SIZE
"""Bytes the firmware measures and encrypts: the save area and zeros up to the page's end."""

INITIAL_VMSA_GPA = 0xFFFFFFFFF000
"""GPA under which LAUNCH_FINISH assigns and measures a VMSA (arch/x86/kvm/svm/sev.c, 6.12)."""

X86_CR4_MCE = 1 << 6
"""Machine checks are enabled (APM volume 2, 3.1.3)."""

# sev_features of the VMSA: arch/x86/include/asm/svm.h, 6.12; the others APM vol. 2, table B-4.
SVM_SEV_FEAT_SNP_ACTIVE = 1 << 0
SVM_SEV_FEAT_VTOM = 1 << 1
SVM_SEV_FEAT_REFLECT_VC = 1 << 2
SVM_SEV_FEAT_RESTRICTED_INJECTION = 1 << 3
SVM_SEV_FEAT_ALTERNATE_INJECTION = 1 << 4
SVM_SEV_FEAT_DEBUG_SWAP = 1 << 5
SVM_SEV_FEAT_PREVENT_HOST_IBS = 1 << 6
SVM_SEV_FEAT_BTB_ISOLATION = 1 << 7
SVM_SEV_FEAT_VMPL_SSS = 1 << 8
SVM_SEV_FEAT_SECURE_TSC = 1 << 9
SVM_SEV_FEAT_VMSA_REG_PROT = 1 << 14
SVM_SEV_FEAT_SMT_PROTECTION = 1 << 15
SVM_SEV_FEAT_INT_INJ_MODES = SVM_SEV_FEAT_RESTRICTED_INJECTION | SVM_SEV_FEAT_ALTERNATE_INJECTION

# Segment attributes as VMCB and VMSA hold them: arch/x86/include/asm/svm.h, 6.12.
SVM_SELECTOR_TYPE_MASK = 0xF
SVM_SELECTOR_S_SHIFT = 4
SVM_SELECTOR_DPL_SHIFT = 5
SVM_SELECTOR_P_SHIFT = 7
SVM_SELECTOR_AVL_SHIFT = 8
SVM_SELECTOR_L_SHIFT = 9
SVM_SELECTOR_DB_SHIFT = 10
SVM_SELECTOR_G_SHIFT = 11


class vmcb_seg(PackedStruct):
    """A segment register as VMCB and VMSA hold it."""

    _fields_ = (
        ("selector", u16),
        ("attrib", u16),
        ("limit", u32),
        ("base", u64),
    )


class sev_es_save_area(PackedStruct):
    """Register state the hardware loads on VMRUN; the rest of its page is zero."""

    _fields_ = (
        ("es", vmcb_seg),
        ("cs", vmcb_seg),
        ("ss", vmcb_seg),
        ("ds", vmcb_seg),
        ("fs", vmcb_seg),
        ("gs", vmcb_seg),
        ("gdtr", vmcb_seg),
        ("ldtr", vmcb_seg),
        ("idtr", vmcb_seg),
        ("tr", vmcb_seg),
        ("pl0_ssp", u64),
        ("pl1_ssp", u64),
        ("pl2_ssp", u64),
        ("pl3_ssp", u64),
        ("u_cet", u64),
        ("reserved_0xc8", u8 * 2),
        ("vmpl", u8),
        ("cpl", u8),
        ("reserved_0xcc", u8 * 4),
        ("efer", u64),
        ("reserved_0xd8", u8 * 104),
        ("xss", u64),
        ("cr4", u64),
        ("cr3", u64),
        ("cr0", u64),
        ("dr7", u64),
        ("dr6", u64),
        ("rflags", u64),
        ("rip", u64),
        ("dr0", u64),
        ("dr1", u64),
        ("dr2", u64),
        ("dr3", u64),
        ("dr0_addr_mask", u64),
        ("dr1_addr_mask", u64),
        ("dr2_addr_mask", u64),
        ("dr3_addr_mask", u64),
        ("reserved_0x1c0", u8 * 24),
        ("rsp", u64),
        ("s_cet", u64),
        ("ssp", u64),
        ("isst_addr", u64),
        ("rax", u64),
        ("star", u64),
        ("lstar", u64),
        ("cstar", u64),
        ("sfmask", u64),
        ("kernel_gs_base", u64),
        ("sysenter_cs", u64),
        ("sysenter_esp", u64),
        ("sysenter_eip", u64),
        ("cr2", u64),
        ("reserved_0x248", u8 * 32),
        ("g_pat", u64),
        ("dbgctl", u64),
        ("br_from", u64),
        ("br_to", u64),
        ("last_excp_from", u64),
        ("last_excp_to", u64),
        ("reserved_0x298", u8 * 80),
        ("pkru", u32),
        ("tsc_aux", u32),
        ("reserved_0x2f0", u8 * 24),
        ("rcx", u64),
        ("rdx", u64),
        ("rbx", u64),
        ("reserved_0x320", u64),
        ("rbp", u64),
        ("rsi", u64),
        ("rdi", u64),
        ("r8", u64),
        ("r9", u64),
        ("r10", u64),
        ("r11", u64),
        ("r12", u64),
        ("r13", u64),
        ("r14", u64),
        ("r15", u64),
        ("reserved_0x380", u8 * 16),
        ("guest_exit_info_1", u64),
        ("guest_exit_info_2", u64),
        ("guest_exit_int_info", u64),
        ("guest_nrip", u64),
        ("sev_features", u64),
        ("vintr_ctrl", u64),
        ("guest_exit_code", u64),
        ("virtual_tom", u64),
        ("tlb_id", u64),
        ("pcpu_id", u64),
        ("event_inj", u64),
        ("xcr0", u64),
        ("reserved_0x3f0", u8 * 16),
        ("x87_dp", u64),
        ("mxcsr", u32),
        ("x87_ftw", u16),
        ("x87_fsw", u16),
        ("x87_fcw", u16),
        ("x87_fop", u16),
        ("x87_ds", u16),
        ("x87_cs", u16),
        ("x87_rip", u64),
        ("fpreg_x87", u8 * 80),
        ("fpreg_xmm", u8 * 256),
        ("fpreg_ymm", u8 * 256),
    )


def seg(
    selector: int, base: int = 0, limit: int = 0xFFFFFFFF, attrib: int | None = None, **bits: int
) -> vmcb_seg:
    """Make a segment: `attrib` as it is, or from bits type, s, dpl, present, avl, l, db, g."""
    if attrib is None:
        attrib = (
            bits.pop("type", 0) & SVM_SELECTOR_TYPE_MASK
            | bits.pop("s", 0) << SVM_SELECTOR_S_SHIFT
            | bits.pop("dpl", 0) << SVM_SELECTOR_DPL_SHIFT
            | bits.pop("present", 0) << SVM_SELECTOR_P_SHIFT
            | bits.pop("avl", 0) << SVM_SELECTOR_AVL_SHIFT
            | bits.pop("l", 0) << SVM_SELECTOR_L_SHIFT
            | bits.pop("db", 0) << SVM_SELECTOR_DB_SHIFT
            | bits.pop("g", 0) << SVM_SELECTOR_G_SHIFT
        )
    if bits:
        raise TypeError(f"unknown segment attribute {', '.join(bits)}")
    return vmcb_seg(selector=selector, attrib=attrib, limit=limit, base=base)


def vmsa_page(vmsa: sev_es_save_area) -> bytes:
    """The page that holds a save area."""
    return bytes(vmsa).ljust(VMSA_SIZE, b"\0")
