# SPDX-License-Identifier: GPL-2.0-only
"""CPUID as KVM offers it to guests on EPYC Milan (arch/x86/kvm/cpuid.c, Linux 6.12)."""

from __future__ import annotations

import struct

from harness.uapi.kvm import KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2

VENDOR = "AuthenticAMD"
BRAND = "AMD EPYC 7763 64-Core Processor"
FAMILY_19H_MODEL_01H = 0x00A00F11
XCR0 = 0x207
"""x87, SSE, AVX, PKRU."""
XSAVE_SIZE = 0x988
CBIT = 51
SEV_ASIDS = 509
MIN_SEV_ASID = 100

FEATURES_1_ECX = 0x76FA3203  # X2APIC is KVM's own; OSXSAVE follows the guest's CR4
FEATURES_1_EDX = 0x178BFBFF
FEATURES_7_EBX = 0x219C07A9
FEATURES_7_ECX = 0x0040060C  # OSPKE follows the guest's CR4
FEATURES_7_EDX = 0x00000010
FEATURES_80000001_ECX = 0x004003F3  # no SVM, no extended APIC space
FEATURES_80000001_EDX = 0x2FD3FBFF
FEATURES_80000008_EBX = 0x111ED205
FEATURES_8000001F_EAX = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 10
"""SEV, SEV-ES, SEV-SNP, SME_COHERENT (sev_set_cpu_caps)."""
FEATURES_80000021_EAX = 1 << 0 | 1 << 2 | 1 << 6
"""NO_NESTED_DATA_BP, LFENCE_RDTSC, NULL_SEL_CLR_BASE."""


def _words(text: str, length: int) -> tuple[int, ...]:
    return struct.unpack(f"<{length}I", text.encode().ljust(4 * length, b"\0"))


def _leaf(
    function: int,
    eax: int = 0,
    ebx: int = 0,
    ecx: int = 0,
    edx: int = 0,
    *,
    index: int | None = None,
) -> kvm_cpuid_entry2:
    return kvm_cpuid_entry2(
        function=function,
        index=index or 0,
        flags=0 if index is None else KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax=eax,
        ebx=ebx,
        ecx=ecx,
        edx=edx,
    )


def _sev_features(sev: bool, sev_es: bool, sev_snp: bool) -> int:
    """sev_set_cpu_caps: what of it the module's parameters leave."""
    off = 0 if sev_snp else 1 << 4
    off |= 0 if sev_es else 1 << 3
    return FEATURES_8000001F_EAX & ~off if sev else 0


def supported(
    *,
    cbit: int = CBIT,
    asids: int = SEV_ASIDS,
    min_sev_asid: int = MIN_SEV_ASID,
    sev: bool = True,
    sev_es: bool = True,
    sev_snp: bool = True,
) -> list[kvm_cpuid_entry2]:
    """KVM_GET_SUPPORTED_CPUID; without SEV the leaf about it is all zero."""
    sev_leaf = (_sev_features(sev, sev_es, sev_snp), cbit, asids, min_sev_asid) if sev else ()
    low, middle, high = _words(VENDOR, 3)
    brand = _words(BRAND, 12)
    return [
        _leaf(0x0, 0x10, low, high, middle),
        _leaf(0x1, FAMILY_19H_MODEL_01H, 0x00010800, FEATURES_1_ECX, FEATURES_1_EDX),
        _leaf(0x7, 0, FEATURES_7_EBX, FEATURES_7_ECX, FEATURES_7_EDX, index=0),
        _leaf(0xB, 0, 1, 0x100, 0, index=0),
        _leaf(0xB, 7, 1, 0x201, 0, index=1),
        _leaf(0xD, XCR0, XSAVE_SIZE, XSAVE_SIZE, 0, index=0),
        _leaf(0xD, 0xF, 0x240, 0, 0, index=1),
        _leaf(0xD, 0x100, 0x240, 0, 0, index=2),
        _leaf(0xD, 8, 0x980, 0, 0, index=9),
        _leaf(0x40000000, 0x40000001, *_words("KVMKVMKVM", 3)),
        _leaf(0x40000001, 0x01007EFB),
        _leaf(0x80000000, 0x80000021, low, high, middle),
        _leaf(
            0x80000001,
            FAMILY_19H_MODEL_01H,
            0x40000000,
            FEATURES_80000001_ECX,
            FEATURES_80000001_EDX,
        ),
        *(_leaf(0x80000002 + n, *brand[4 * n : 4 * n + 4]) for n in range(3)),
        _leaf(0x80000005, 0xFF40FF40, 0xFF40FF40, 0x20080140, 0x20080140),
        _leaf(0x80000006, 0x48002200, 0x68004200, 0x02006140, 0x08009140),
        _leaf(0x80000007, 0, 0, 0, 1 << 8),
        _leaf(0x80000008, 0x00003030, FEATURES_80000008_EBX, 0x00007007, 0),
        _leaf(0x8000001D, 0x00004121, 0x01C0003F, 0x0000003F, 0, index=0),
        _leaf(0x8000001D, 0x00004122, 0x01C0003F, 0x0000003F, 0, index=1),
        _leaf(0x8000001D, 0x00004143, 0x01C0003F, 0x000003FF, 0x2, index=2),
        _leaf(0x8000001D, 0x0001C163, 0x03C0003F, 0x00007FFF, 0x1, index=3),
        _leaf(0x8000001E, 0, 0x100, 0, 0),
        _leaf(0x8000001F, *sev_leaf),
        _leaf(0x80000021, FEATURES_80000021_EAX),
    ]
