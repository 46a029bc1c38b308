# SPDX-License-Identifier: GPL-2.0-only
"""What KVM intercepts (init_vmcb and sev_es_init_vmcb, arch/x86/kvm/svm, Linux 6.12)."""

from __future__ import annotations

import ctypes

from harness.emulator.cpu.env import HF_GUEST
from harness.emulator.cpu.uc import CONTROL_SIZE, MSRPM_OFFSET, Engine
from harness.uapi import svm

MSR_EFER = 0xC0000080
MSR_AMD64_SEV_ES_GHCB = 0xC0010130
MSR_AMD64_SEV = 0xC0010131

PASSTHROUGH = (
    0x174, 0x175, 0x176,  # SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP
    0x277,  # PAT: not a secret of the host's for an SEV-ES guest
    0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084,  # STAR, LSTAR, CSTAR, SYSCALL_MASK
    0xC0000100, 0xC0000101, 0xC0000102,  # FS_BASE, GS_BASE, KERNEL_GS_BASE
    0xC0000103,  # TSC_AUX, virtualised by hardware
)  # fmt: skip
"""MSRs that a guest reads and writes without an exit (direct_access_msrs)."""

_INSTRUCTIONS = (
    svm.SVM_EXIT_RDPMC,
    svm.SVM_EXIT_CPUID,
    svm.SVM_EXIT_INVD,
    svm.SVM_EXIT_HLT,
    svm.SVM_EXIT_INVLPGA,
    svm.SVM_EXIT_MSR,
    svm.SVM_EXIT_WBINVD,
    svm.SVM_EXIT_MONITOR,
    svm.SVM_EXIT_MWAIT,
)

LENGTH = {
    svm.SVM_EXIT_CPUID: 2,
    svm.SVM_EXIT_MSR: 2,
    svm.SVM_EXIT_HLT: 1,
    svm.SVM_EXIT_WBINVD: 2,
    svm.SVM_EXIT_INVD: 2,
    svm.SVM_EXIT_RDPMC: 2,
    svm.SVM_EXIT_MONITOR: 3,
    svm.SVM_EXIT_MWAIT: 3,
}
"""Bytes of an instruction without prefixes."""

_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3" + bytes(range(0x40, 0x50)))


def prefixes(code: bytes) -> int:
    """How many prefix bytes an instruction (64-bit mode) begins with."""
    count = 0
    while count < len(code) and code[count] in _PREFIXES:
        count += 1
    return count


def arm(engine: Engine, protected: bool) -> None:
    """Set the intercepts of a guest.

    Exceptions all come to us, but #UD, which Unicorn reports by itself.
    """
    env = engine.env
    env.hflags |= HF_GUEST
    env.intercept = 0
    for code in _INSTRUCTIONS:
        env.intercept |= 1 << code - svm.SVM_EXIT_INTR
    env.intercept_exceptions = 0xFFFFFFFF & ~(1 << 6)
    # CR0, CR4 and CR8 have write traps; DR7 stays intercepted without DebugSwap.
    env.intercept_cr_write = 0x111 if protected else 0
    env.intercept_cr_read = 0x100 if protected else 0
    env.intercept_dr_read = env.intercept_dr_write = 1 << 7 if protected else 0
    control = engine.control
    base = engine.control_base
    control[0x48:0x50] = list((base + MSRPM_OFFSET).to_bytes(8, "little"))
    through = _PERMISSIONS_PROTECTED if protected else _PERMISSIONS_PLAIN
    ctypes.memmove(ctypes.addressof(control) + MSRPM_OFFSET, through, len(through))


def _permissions(passed_through: tuple[int, ...]) -> bytes:
    """The MSR permission map: two bits an MSR, set where it is intercepted."""
    bitmap = bytearray(b"\xff" * (CONTROL_SIZE - MSRPM_OFFSET))
    for msr in passed_through:
        bit = 2 * ((msr & 0x1FFF) + (8192 if msr >= 0xC0000000 else 0))
        bitmap[bit // 8] &= ~(3 << bit % 8)
    return bytes(bitmap)


_PERMISSIONS_PROTECTED = _permissions(PASSTHROUGH)
_PERMISSIONS_PLAIN = _permissions((*PASSTHROUGH, MSR_EFER))
