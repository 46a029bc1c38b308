# SPDX-License-Identifier: GPL-2.0-only
"""The CPUID table that a launch or a guest message hands in: checked, and corrected.

The firmware compares each function with what the processor has.  This model has no processor;
it knows the size of an XSAVE area, which leaves exist at all, and the bits that hosts have to
hide from SNP guests because the firmware refuses them (target/i386/sev.c of QEMU 9.1 lists
those bits).  Functions of neither range, those of hypervisors (0x40000000 and up) among them,
are nothing that the firmware knows, and pass as they are: QEMU puts them in, and Linux guests
read them there (cpuid_hyp_range_max in arch/x86/coco/sev/shared.c of 6.12).
"""

from __future__ import annotations

from harness.emulator.cpu.xstate import xsave_size
from harness.uapi.guest_message import SNP_CPUID_COUNT_MAX, snp_cpuid_fn, snp_cpuid_table

STANDARD = range(0x10000)
EXTENDED = range(0x80000000, 0x80010000)

_TSC_DEADLINE = 1 << 24
_TSC_ADJUST = 1 << 1
_LEAF7_EDX = 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 31
_VIRT_SSBD = 1 << 25

REFUSED_BITS: dict[tuple[int, int], dict[str, int]] = {
    (0x00000001, 0): {"ecx": _TSC_DEADLINE},
    (0x00000007, 0): {"ebx": _TSC_ADJUST, "edx": _LEAF7_EDX},
    (0x80000008, 0): {"ebx": _VIRT_SSBD},
}
"""Feature bits by (leaf, subleaf) that may not be set."""

_SUBLEAVES = frozenset({0x4, 0x7, 0xB, 0xD, 0xF, 0x10, 0x8000001D, 0x80000020, 0x80000026})
"""Leaves that look at ECX; for all others ECX is taken for zero."""


def correct(page: memoryview | bytearray) -> bool:
    """Check a CPUID page and correct it in place; True when it was right as it was."""
    table = snp_cpuid_table.from_buffer(page)
    good = True
    if table.count > SNP_CPUID_COUNT_MAX:
        table.count, good = SNP_CPUID_COUNT_MAX, False
    if table.__reserved1 or table.__reserved2:
        table.__reserved1 = table.__reserved2 = 0
        good = False
    for index in range(table.count):
        good &= _correct_function(table.fn[index])
    return good


def _correct_function(fn: snp_cpuid_fn) -> bool:
    """Correct one function; tell whether it was right."""
    leaf, subleaf = fn.eax_in, fn.ecx_in if fn.eax_in in _SUBLEAVES else 0
    if leaf not in STANDARD and leaf not in EXTENDED:
        return True
    before = bytes(fn)
    fn.__reserved = 0
    for register, bits in REFUSED_BITS.get((leaf, subleaf), {}).items():
        setattr(fn, register, getattr(fn, register) & ~bits)
    if leaf == 0xD and subleaf == 0 and fn.xcr0_in:
        fn.ebx = xsave_size(fn.xcr0_in, compact=False)
    if leaf == 0xD and subleaf == 1 and fn.xcr0_in:
        fn.ebx = xsave_size(fn.xcr0_in | fn.xss_in, compact=True)
    return before == bytes(fn)
