# SPDX-License-Identifier: GPL-2.0-only
"""Register state: VMSA or PlainState to and from the processor's register file."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

from harness.emulator.cpu.env import (
    CS,
    DESC_B,
    DESC_L,
    DS,
    ES,
    HF_ADDSEG,
    HF_CPL,
    HF_CS32,
    HF_CS64,
    HF_GUEST,
    HF_LMA,
    HF_MP_SHIFT,
    HF_OSFXSR,
    HF_PE,
    HF_SMAP,
    HF_SS32,
    RF_VM,
    SS,
    EnvState,
)
from harness.emulator.cpu.uc import Engine
from harness.uapi.vmsa import sev_es_save_area

GPRS = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
MSRS = (
    ("star", "star"),
    ("lstar", "lstar"),
    ("cstar", "cstar"),
    ("sfmask", "fmask"),
    ("kernel_gs_base", "kernelgsbase"),
    ("sysenter_cs", "sysenter_cs"),
    ("sysenter_esp", "sysenter_esp"),
    ("sysenter_eip", "sysenter_eip"),
    ("g_pat", "pat"),
    ("pkru", "pkru"),
    ("tsc_aux", "tsc_aux"),
    ("xcr0", "xcr0"),
)
"""Registers of the VMSA and what the register file calls them."""

CR0_PE, CR0_NW, CR0_CD, CR0_PG = 1 << 0, 1 << 29, 1 << 30, 1 << 31
CR4_PAE, CR4_OSFXSR, CR4_SMAP = 1 << 5, 1 << 9, 1 << 21
EFER_SCE, EFER_LME, EFER_LMA, EFER_SVME = 1 << 0, 1 << 8, 1 << 10, 1 << 12
EFER_VALID = 0x3F_FD01
"""SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR, TCE, MCOMMIT, INTWB, UAIE, AIBRSE (APM 3.1.7)."""
ATTRIB_L, ATTRIB_DB = 1 << 9, 1 << 10
SEV_FEATURES_KNOWN = 0xC3FF
SNP_ACTIVE = 1


def attributes(attrib: int) -> int:
    """Segment attributes of a VMSA as the register file holds them (a descriptor's dword)."""
    return (attrib & 0xFF) << 8 | (attrib & 0xF00) << 12


def attrib(flags: int) -> int:
    """The reverse of `attributes`."""
    return flags >> 8 & 0xFF | flags >> 12 & 0xF00


def update_hflags(env: EnvState, cpl: int) -> None:
    """Derive the hidden flags from registers (x86_update_hflags of QEMU)."""
    cr0, cr4 = env.cr[0], env.cr[4]
    flags = env.hflags & HF_GUEST | cpl & HF_CPL
    if cr0 & CR0_PE:
        flags |= HF_PE
    flags |= cr0 << (HF_MP_SHIFT - 1) & 7 << HF_MP_SHIFT
    if cr4 & CR4_OSFXSR:
        flags |= HF_OSFXSR
    if cr4 & CR4_SMAP:
        flags |= HF_SMAP
    code, long = env.segs[CS].flags, env.efer & EFER_LMA
    if long:
        flags |= HF_LMA
    if long and code & DESC_L:
        flags |= HF_CS32 | HF_SS32 | HF_CS64
    else:
        if code & DESC_B:
            flags |= HF_CS32
        if env.segs[SS].flags & DESC_B:
            flags |= HF_SS32
        flat = not (env.segs[DS].base | env.segs[ES].base | env.segs[SS].base)
        if not cr0 & CR0_PE or env.eflags & RF_VM or not flags & HF_CS32 or not flat:
            flags |= HF_ADDSEG
    env.hflags = flags


def vmsa_defect(vmsa: sev_es_save_area) -> str | None:
    """Why VMRUN refuses a state (APM vol. 2, 15.5.1), None where it takes it."""
    cr0, efer, features = vmsa.cr0, vmsa.efer, vmsa.sev_features
    long = efer & EFER_LME and cr0 & CR0_PG
    checks = (
        (not efer & EFER_SVME, "EFER.SVME is clear"),
        (efer & ~EFER_VALID, "reserved bits of EFER are set"),
        (cr0 >> 32, "CR0[63:32] is not zero"),
        (cr0 & CR0_NW and not cr0 & CR0_CD, "CR0.CD is clear and CR0.NW is set"),
        (vmsa.dr6 >> 32, "DR6[63:32] is not zero"),
        (vmsa.dr7 >> 32, "DR7[63:32] is not zero"),
        (vmsa.cr4 >> 32, "CR4[63:32] is not zero"),
        (long and not vmsa.cr4 & CR4_PAE, "long mode without CR4.PAE"),
        (long and not cr0 & CR0_PE, "long mode without CR0.PE"),
        (
            long and vmsa.cs.attrib & ATTRIB_L and vmsa.cs.attrib & ATTRIB_DB,
            "CS.L and CS.D are both set in long mode",
        ),
        (not features & SNP_ACTIVE, "SEV_FEATURES[SNPActive] is clear"),
        (features & ~SEV_FEATURES_KNOWN, "reserved bits of SEV_FEATURES are set"),
        (vmsa.vmpl > 3, "VMPL is above 3"),
    )
    return next((reason for bad, reason in checks if bad), None)


def load_vmsa(engine: Engine, vmsa: sev_es_save_area) -> None:
    """All that VMRUN of an SEV-ES guest loads."""
    env = engine.env
    for number, name in enumerate(GPRS):
        env.regs[number] = getattr(vmsa, name)
    env.eip = vmsa.rip
    for number, name in enumerate(SEGMENTS):
        _load_segment(env.segs[number], getattr(vmsa, name))
    _load_segment(env.ldt, vmsa.ldtr)
    _load_segment(env.tr, vmsa.tr)
    _load_segment(env.gdt, vmsa.gdtr)
    _load_segment(env.idt, vmsa.idtr)
    for name, own in MSRS:
        setattr(env, own, getattr(vmsa, name))
    for number, value in ((0, vmsa.cr0), (2, vmsa.cr2), (3, vmsa.cr3), (4, vmsa.cr4)):
        env.cr[number] = value
    for number in range(4):
        env.dr[number] = getattr(vmsa, f"dr{number}")
    env.dr[6], env.dr[7] = vmsa.dr6, vmsa.dr7
    env.efer = vmsa.efer
    engine.flags = vmsa.rflags
    update_hflags(env, vmsa.cpl)
    engine.set_mxcsr(vmsa.mxcsr)
    engine.set_fpcw(vmsa.x87_fcw)
    env.fpstt = vmsa.x87_fsw >> 11 & 7
    env.fpus = vmsa.x87_fsw & ~0x3800
    env.fpop, env.fpds, env.fpcs = vmsa.x87_fop, vmsa.x87_ds, vmsa.x87_cs
    env.fpip, env.fpdp = vmsa.x87_rip, vmsa.x87_dp
    raw = bytes(vmsa.fpreg_x87)
    for number in range(8):
        # Mantissas first, then exponents; by stack position, while fpregs is by register.
        register = env.fpregs[env.fpstt + number & 7]
        register.low = int.from_bytes(raw[8 * number : 8 * number + 8], "little")
        register.high = int.from_bytes(raw[64 + 2 * number : 66 + 2 * number], "little")
        env.fptags[number] = not vmsa.x87_ftw >> number & 1
    for number in range(16):
        ctypes.memmove(env.xmm_regs[number], bytes(vmsa.fpreg_xmm)[16 * number :], 16)
        high = bytes(vmsa.fpreg_ymm)[16 * number : 16 * number + 16]
        ctypes.memmove(ctypes.addressof(env.xmm_regs[number]) + 16, high, 16)


def save_vmsa(engine: Engine, vmsa: sev_es_save_area) -> None:
    """All that a #VMEXIT of an SEV-ES guest saves."""
    env = engine.env
    for number, name in enumerate(GPRS):
        setattr(vmsa, name, env.regs[number])
    vmsa.rip = env.eip
    for number, name in enumerate(SEGMENTS):
        _save_segment(env.segs[number], getattr(vmsa, name))
    _save_segment(env.ldt, vmsa.ldtr)
    _save_segment(env.tr, vmsa.tr)
    for table, own in ((vmsa.gdtr, env.gdt), (vmsa.idtr, env.idt)):
        table.base, table.limit = own.base, own.limit
    for name, msr in MSRS:
        setattr(vmsa, name, getattr(env, msr))
    vmsa.cr0, vmsa.cr2, vmsa.cr3, vmsa.cr4 = env.cr[0], env.cr[2], env.cr[3], env.cr[4]
    for number in range(4):
        setattr(vmsa, f"dr{number}", env.dr[number])
    vmsa.dr6, vmsa.dr7 = env.dr[6], env.dr[7]
    vmsa.efer = env.efer
    vmsa.rflags = engine.flags
    vmsa.cpl = env.hflags & HF_CPL
    vmsa.mxcsr = engine.mxcsr
    vmsa.x87_fcw = env.fpuc
    vmsa.x87_fsw = env.fpus & ~0x3800 | (env.fpstt & 7) << 11
    vmsa.x87_fop, vmsa.x87_ds, vmsa.x87_cs = env.fpop, env.fpds, env.fpcs
    vmsa.x87_rip, vmsa.x87_dp = env.fpip, env.fpdp
    mantissas, exponents, tags = b"", b"", 0
    for number in range(8):
        register = env.fpregs[env.fpstt + number & 7]
        mantissas += int(register.low).to_bytes(8, "little")
        exponents += int(register.high).to_bytes(2, "little")
        tags |= (not env.fptags[number]) << number
    ctypes.memmove(vmsa.fpreg_x87, mantissas + exponents, 80)
    vmsa.x87_ftw = tags
    rows = [bytes(env.xmm_regs[number]) for number in range(16)]
    ctypes.memmove(vmsa.fpreg_xmm, b"".join(row[:16] for row in rows), 256)
    ctypes.memmove(vmsa.fpreg_ymm, b"".join(row[16:32] for row in rows), 256)


def _load_segment(own: ctypes.Structure, seg: ctypes.Structure) -> None:
    own.selector, own.base, own.limit = seg.selector, seg.base, seg.limit
    own.flags = attributes(seg.attrib)


def _save_segment(own: ctypes.Structure, seg: ctypes.Structure) -> None:
    seg.selector, seg.base, seg.limit = own.selector, own.base, own.limit
    seg.attrib = attrib(own.flags)


@dataclass(slots=True)
class Segment:
    """A segment register; `attrib` as the VMSA holds it."""

    selector: int = 0
    base: int = 0
    limit: int = 0xFFFFFFFF
    attrib: int = 0


@dataclass(slots=True)
class PlainState:
    """The registers of a guest whose state is not protected."""

    regs: list[int] = field(default_factory=lambda: [0] * 16)
    """By encoding: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 ... R15 (see GPRS)."""
    rip: int = 0xFFF0
    rflags: int = 2
    segments: dict[str, Segment] = field(
        default_factory=lambda: {name: Segment() for name in (*SEGMENTS, "ldtr", "tr")}
    )
    gdt: tuple[int, int] = (0, 0xFFFF)
    """Base and limit."""
    idt: tuple[int, int] = (0, 0xFFFF)
    cr0: int = 0x60000010
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    cpl: int = 0


def load_plain(engine: Engine, state: PlainState) -> None:
    """Take the registers of a plain guest."""
    env = engine.env
    env.regs[:] = state.regs
    env.eip = state.rip
    for number, name in enumerate(SEGMENTS):
        _load_plain_segment(env.segs[number], state.segments[name])
    _load_plain_segment(env.ldt, state.segments["ldtr"])
    _load_plain_segment(env.tr, state.segments["tr"])
    (env.gdt.base, env.gdt.limit), (env.idt.base, env.idt.limit) = state.gdt, state.idt
    env.cr[0], env.cr[2], env.cr[3], env.cr[4] = state.cr0, state.cr2, state.cr3, state.cr4
    env.efer = state.efer
    engine.flags = state.rflags
    update_hflags(env, state.cpl)


def save_plain(engine: Engine) -> PlainState:
    """Give out the registers of a plain guest."""
    env = engine.env
    names = (*SEGMENTS, "ldtr", "tr")
    own = (*env.segs, env.ldt, env.tr)
    return PlainState(
        regs=list(env.regs),
        rip=env.eip,
        rflags=engine.flags,
        segments={
            name: Segment(seg.selector, seg.base, seg.limit, attrib(seg.flags))
            for name, seg in zip(names, own, strict=True)
        },
        gdt=(env.gdt.base, env.gdt.limit),
        idt=(env.idt.base, env.idt.limit),
        cr0=env.cr[0],
        cr2=env.cr[2],
        cr3=env.cr[3],
        cr4=env.cr[4],
        efer=env.efer,
        cpl=env.hflags & HF_CPL,
    )


def _load_plain_segment(own: ctypes.Structure, seg: Segment) -> None:
    own.selector, own.base, own.limit = seg.selector, seg.base, seg.limit
    own.flags = attributes(seg.attrib)
