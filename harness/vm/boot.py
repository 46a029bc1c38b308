# SPDX-License-Identifier: GPL-2.0-only
"""How a guest starts: page tables, initial registers, and the pages of its launch.

Everything here is computed; `harness.vm.guest` carries it out and
`harness.vm.launch_digest` says what the firmware must measure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from harness.guestimage import GuestImage
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.vm import layout

CR0: Final = 0x80000033
"""PG NE ET MP PE."""

CR4: Final = 0x660
"""OSXMMEXCPT OSFXSR MCE PAE.  With MCE the digest is the same on every host (Host.vmsa_cr4)."""

EFER: Final = 0x500
"""LMA LME; KVM adds SVME in the VMSA (svm_set_efer, 6.12)."""

_PRESENT_WRITE: Final = 0x3
_LARGE: Final = 0x80
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class LaunchPages:
    """Pages of one type, in the order in which they are measured."""

    gpa: int
    data: bytes
    type: int
    """KVM_SEV_SNP_PAGE_TYPE_*."""


def page_tables(cbit: int | None) -> bytes:
    """Three pages at `layout.PAGE_TABLES_GPA`: private view, shared view, in 1 GiB pages.

    cbit: position of the C-bit, None for a plain guest.
    """
    encrypted = 0 if cbit is None else 1 << cbit
    tables = [layout.PAGE_TABLES_GPA + number * layout.PAGE_SIZE for number in range(3)]
    root = [0] * 512
    root[0] = tables[1] | encrypted | _PRESENT_WRITE
    root[layout.SHARED_VIEW >> 39] = tables[2] | encrypted | _PRESENT_WRITE
    private = [gib * _GIB | encrypted | _PRESENT_WRITE | _LARGE for gib in range(512)]
    shared = [gib * _GIB | _PRESENT_WRITE | _LARGE for gib in range(512)]
    return struct.pack("<1536Q", *root, *private, *shared)


def launch_pages(
    image: GuestImage,
    *,
    cbit: int | None,
    vcpus: int,
    cpuid: bytes | None = None,
    secrets: bool = True,
) -> list[LaunchPages]:
    """What LAUNCH_UPDATE is called for, in order.

    vcpus: how many vCPUs there will ever be, those made by AP creation included.
    cpuid: content of the CPUID page, None for a guest without one.
    """
    pages = [
        LaunchPages(layout.IMAGE_GPA, image.data, sevapi.KVM_SEV_SNP_PAGE_TYPE_NORMAL),
        LaunchPages(
            layout.CPU_GPA, bytes(vcpus * layout.PAGE_SIZE), sevapi.KVM_SEV_SNP_PAGE_TYPE_ZERO
        ),
        LaunchPages(layout.PAGE_TABLES_GPA, page_tables(cbit), sevapi.KVM_SEV_SNP_PAGE_TYPE_NORMAL),
    ]
    if secrets:
        empty = bytes(layout.PAGE_SIZE)
        pages.append(LaunchPages(layout.SECRETS_GPA, empty, sevapi.KVM_SEV_SNP_PAGE_TYPE_SECRETS))
    if cpuid is not None:
        pages.append(LaunchPages(layout.CPUID_GPA, cpuid, sevapi.KVM_SEV_SNP_PAGE_TYPE_CPUID))
    return pages


def cpuid_page(entries: Iterable[uapi.kvm_cpuid_entry2]) -> bytes:
    """A CPUID page (56860, CPUID page; struct snp_cpuid_table of Linux) with these leaves."""
    functions = [
        struct.pack(
            "<IIQQIIIIQ",
            *(entry.function, entry.index, int(entry.function == 0xD), 0),
            *(entry.eax, entry.ebx, entry.ecx, entry.edx, 0),
        )
        for entry in entries
    ]
    if len(functions) > 64:
        raise ValueError(f"a CPUID page holds 64 leaves, not {len(functions)}")
    table = struct.pack("<IIQ", len(functions), 0, 0) + b"".join(functions)
    return table.ljust(layout.PAGE_SIZE, b"\0")


def vcpu_cpuid(
    entries: Sequence[uapi.kvm_cpuid_entry2], apic_id: int
) -> list[uapi.kvm_cpuid_entry2]:
    """The host's supported leaves, made those of the vCPU with this APIC id."""
    own = []
    for entry in entries:
        copied = uapi.kvm_cpuid_entry2.from_buffer_copy(entry)
        if copied.function == 1:
            copied.ebx = (copied.ebx & 0x00FFFFFF) | (apic_id & 0xFF) << 24
        elif copied.function == 0xB:
            copied.edx = apic_id
        own.append(copied)
    return own


def segment(
    selector: int, type: int, *, limit: int = 0xFFFFFFFF, s: int = 1, g: int = 1, **bits: int
) -> uapi.kvm_segment:
    """A present segment with base 0."""
    return uapi.kvm_segment(selector=selector, type=type, limit=limit, s=s, g=g, present=1, **bits)


def set_sregs(sregs: uapi.kvm_sregs) -> None:
    """Make these the system registers of a vCPU at the guest's entry; the APIC base stays.

    CR3 carries no C-bit: the page walk is always encrypted (APM volume 2, 15.34.5), and KVM
    takes a C-bit in CR3 only after KVM_SET_CPUID2.
    """
    sregs.cs = segment(layout.CODE_SELECTOR, 0xB, l=1)
    sregs.ds = sregs.es = sregs.ss = segment(layout.DATA_SELECTOR, 0x3, db=1)
    sregs.fs = sregs.gs = segment(0, 0x3, limit=0xFFFF, g=0)
    sregs.tr = segment(layout.TSS_SELECTOR, 0xB, limit=0x67, s=0, g=0)
    sregs.ldt = segment(0, 0x2, limit=0xFFFF, s=0, g=0)
    sregs.gdt = uapi.kvm_dtable(base=0, limit=0)
    sregs.idt = uapi.kvm_dtable(base=0, limit=0)
    sregs.cr0, sregs.cr3, sregs.cr4 = CR0, layout.PAGE_TABLES_GPA, CR4
    sregs.cr2 = sregs.cr8 = 0
    sregs.efer = EFER


def entry_regs(image: GuestImage, index: int) -> uapi.kvm_regs:
    """General registers of vCPU `index` at the guest's entry."""
    return uapi.kvm_regs(rip=image.entry, rsp=layout.stack_top(index), rdi=index, rflags=2)
