# SPDX-License-Identifier: GPL-2.0-only
"""The launch digest that the firmware must arrive at, computed independently of it.

The digest's chaining is that of the PyPI package sev-snp-measure; what KVM puts into a
VMSA (sev_es_sync_vmsa and svm_set_segment, arch/x86/kvm/svm, Linux 6.12) is derived here
from the registers that userspace sets.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any, Final

from sevsnpmeasure.gctx import GCTX
from sevsnpmeasure.vmsa import SevEsSaveArea, VmcbSeg

from harness.guestimage import GuestImage
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.vm import boot, layout

SNP_ACTIVE: Final = 1
"""SEV_FEATURES bit 0; KVM sets it for every SNP VM."""

_EFER_SVME: Final = 1 << 12
_DR6: Final = 0xFFFF0FF0
_DR7: Final = 0x400
_PAT: Final = 0x0007040600070406
_MXCSR: Final = 0x1F80
_X87_CONTROL: Final = 0x37F
_GENERAL: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
)


def vmsa_page(
    regs: uapi.kvm_regs, sregs: uapi.kvm_sregs, *, vmsa_features: int = 0, host_cr4: int = 0
) -> bytes:
    """The VMSA of a vCPU that KVM_SET_REGS and KVM_SET_SREGS gave these registers.

    Not CR2: KVM puts it into the VMCB only when it enters the guest (svm_vcpu_run).
    vmsa_features: as given to KVM_SEV_INIT2; host_cr4: what KVM adds (Host.vmsa_cr4).
    """
    area: Any = SevEsSaveArea()
    for name in ("es", "cs", "ss", "ds", "fs", "gs", "tr"):
        setattr(area, name, _segment(getattr(sregs, name)))
    area.ldtr = _segment(sregs.ldt)
    area.gdtr = VmcbSeg(0, 0, sregs.gdt.limit, sregs.gdt.base)
    area.idtr = VmcbSeg(0, 0, sregs.idt.limit, sregs.idt.base)
    area.cpl = sregs.ss.dpl
    area.efer = sregs.efer | _EFER_SVME
    area.cr0, area.cr3, area.cr4 = sregs.cr0, sregs.cr3, sregs.cr4 | host_cr4
    area.dr6, area.dr7 = _DR6, _DR7
    for name in _GENERAL:
        setattr(area, name, getattr(regs, name))
    area.g_pat = _PAT
    area.sev_features = vmsa_features | SNP_ACTIVE
    area.xcr0 = 1
    area.mxcsr, area.x87_fcw = _MXCSR, _X87_CONTROL
    return bytes(area).ljust(layout.PAGE_SIZE, b"\0")


def entry_vmsa(image: GuestImage, index: int, *, vmsa_features: int = 0) -> bytes:
    """The VMSA of vCPU `index` of a guest that starts at its image's entry."""
    sregs = uapi.kvm_sregs()
    boot.set_sregs(sregs)
    return vmsa_page(boot.entry_regs(image, index), sregs, vmsa_features=vmsa_features)


def launch_digest(pages: Iterable[boot.LaunchPages], vmsas: Iterable[bytes]) -> bytes:
    """SHA-384 launch digest of these pages and then these VMSA pages, each in order."""
    context: Any = GCTX()
    for part in pages:
        update(context, part)
    for vmsa in vmsas:
        context.update_vmsa_page(vmsa)
    return bytes(context.ld())


def update(context: Any, part: boot.LaunchPages) -> None:
    """Extend a GCTX of sev-snp-measure by one LAUNCH_UPDATE."""
    size = len(part.data)
    match part.type:
        case sevapi.KVM_SEV_SNP_PAGE_TYPE_NORMAL:
            context.update_normal_pages(part.gpa, part.data)
        case sevapi.KVM_SEV_SNP_PAGE_TYPE_ZERO:
            context.update_zero_pages(part.gpa, size)
        case sevapi.KVM_SEV_SNP_PAGE_TYPE_UNMEASURED:
            context.update_unmeasured_pages(part.gpa, size)
        case sevapi.KVM_SEV_SNP_PAGE_TYPE_SECRETS:
            for offset in range(0, size, layout.PAGE_SIZE):
                context.update_secrets_page(part.gpa + offset)
        case sevapi.KVM_SEV_SNP_PAGE_TYPE_CPUID:
            for offset in range(0, size, layout.PAGE_SIZE):
                context.update_cpuid_page(part.gpa + offset)
        case _:
            raise ValueError(f"page type {part.type} cannot be launched")


def default_digest(image: GuestImage, *, vcpus: int = 1, cbit: int = 51) -> bytes:
    """The digest of a guest that `Guest.launch` starts with its defaults."""
    cpuid = bytes(layout.PAGE_SIZE)  # its content is not measured
    pages = boot.launch_pages(image, cbit=cbit, vcpus=vcpus, cpuid=cpuid)
    return launch_digest(pages, [entry_vmsa(image, index) for index in range(vcpus)])


def _segment(kvm: uapi.kvm_segment) -> ctypes.Structure:
    """Attributes as svm_set_segment packs them."""
    attributes = (
        (kvm.type & 0xF)
        | (kvm.s & 1) << 4
        | (kvm.dpl & 3) << 5
        | (kvm.present & 1 & ~kvm.unusable) << 7
        | (kvm.avl & 1) << 8
        | (kvm.l & 1) << 9
        | (kvm.db & 1) << 10
        | (kvm.g & 1) << 11
    )
    made: ctypes.Structure = VmcbSeg(kvm.selector, attributes, kvm.limit, kvm.base)
    return made
