# SPDX-License-Identifier: GPL-2.0-only
"""The VMSA that KVM builds from a vCPU's registers at the end of a launch (svm.c, sev.c, 6.12)."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from harness.emulator.kvm.errors import KvmError
from harness.uapi.vmsa import X86_CR4_MCE, seg, sev_es_save_area, vmcb_seg, vmsa_page

if TYPE_CHECKING:
    from harness.emulator.kvm.vcpu import Vcpu
    from harness.uapi.kvm import kvm_fpu, kvm_segment

EFER_SVME = 1 << 12
"""svm_set_efer adds it, since VMRUN demands it."""
CR0_CD_NW = 3 << 29
"""svm_set_cr0 takes them away (KVM_X86_QUIRK_CD_NW_CLEARED)."""
DR6_ACTIVE_LOW = 0xFFFF0FF0
DR7_FIXED_1 = 0x400
PAT_DEFAULT = 0x0007040600070406
XCR0_FP = 1

MSRS = {
    "g_pat": 0x277,
    "dbgctl": 0x1D9,
    "star": 0xC0000081,
    "lstar": 0xC0000082,
    "cstar": 0xC0000083,
    "sfmask": 0xC0000084,
    "kernel_gs_base": 0xC0000102,
    "sysenter_cs": 0x174,
    "sysenter_esp": 0x175,
    "sysenter_eip": 0x176,
}
"""MSRs that the VMCB's save area holds, by its field names."""

GPRS = (
    *("rax", "rbx", "rcx", "rdx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"),
)


def build(vcpu: Vcpu) -> bytes:
    """sev_es_sync_vmsa: the page to be measured; EINVAL for a vCPU that was measured before.

    CR2 is not among what is copied: KVM puts it into the VMCB only when it enters the guest.
    """
    if vcpu.guest_state_protected:
        raise KvmError(errno.EINVAL)
    save = sev_es_save_area()
    sregs = vcpu.sregs
    for name in ("es", "cs", "ss", "ds", "fs", "gs", "tr"):
        setattr(save, name, _segment(getattr(sregs, name)))
    save.ldtr = _segment(sregs.ldt)
    save.gdtr = seg(0, sregs.gdt.base, sregs.gdt.limit, 0)
    save.idtr = seg(0, sregs.idt.base, sregs.idt.limit, 0)
    save.cpl = sregs.ss.dpl & 3
    save.efer = sregs.efer | EFER_SVME
    save.cr0 = sregs.cr0 & ~CR0_CD_NW
    save.cr3 = sregs.cr3
    save.cr4 = sregs.cr4 | X86_CR4_MCE * vcpu.vm.machine.config.machine_checks
    save.dr6, save.dr7 = DR6_ACTIVE_LOW, DR7_FIXED_1
    save.rflags = vcpu.regs.rflags
    for name in GPRS:
        setattr(save, name, getattr(vcpu.regs, name))
    save.g_pat = PAT_DEFAULT
    for name, index in MSRS.items():
        if index in vcpu.msrs:
            setattr(save, name, vcpu.msrs[index])
    save.xcr0 = XCR0_FP
    save.sev_features = vcpu.vm.sev.vmsa_features
    _fpu(save, vcpu.fpu)
    return vmsa_page(save)


def _segment(kvm: kvm_segment) -> vmcb_seg:
    """svm_set_segment."""
    return seg(
        kvm.selector,
        kvm.base,
        kvm.limit,
        type=kvm.type,
        s=kvm.s & 1,
        dpl=kvm.dpl & 3,
        present=int(bool(kvm.present & 1 and not kvm.unusable)),
        avl=kvm.avl & 1,
        l=kvm.l & 1,
        db=kvm.db & 1,
        g=kvm.g & 1,
    )


def _fpu(save: sev_es_save_area, fpu: kvm_fpu) -> None:
    """x87 and SSE state: 8 bytes of each x87 register first, then the 2 others of each."""
    save.x87_dp, save.x87_rip = fpu.last_dp, fpu.last_ip
    save.mxcsr = fpu.mxcsr
    save.x87_ftw, save.x87_fsw, save.x87_fcw = fpu.ftwx, fpu.fsw, fpu.fcw
    save.x87_fop = fpu.last_opcode
    registers = [bytes(register) for register in fpu.fpr]
    low = b"".join(register[:8] for register in registers)
    high = b"".join(register[8:10] for register in registers)
    ctypes.memmove(save.fpreg_x87, low + high, 80)
    ctypes.memmove(save.fpreg_xmm, bytes(fpu.xmm), 256)
