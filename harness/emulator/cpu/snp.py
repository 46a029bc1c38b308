# SPDX-License-Identifier: GPL-2.0-only
"""PVALIDATE and RMPADJUST as a guest executes them (APM vol. 3; vol. 2, 15.36)."""

from __future__ import annotations

from harness.emulator.cpu.env import CC_MASK, HF_CPL, HF_CS64, RAX, RCX, RDX, RF_CF, RF_ZF
from harness.emulator.cpu.faults import GP, UD, VC, GuestFault, NestedFault
from harness.emulator.cpu.mmu import Mmu, R
from harness.emulator.cpu.uc import Engine
from harness.emulator.rmp import PageNotValidated, PageSize, Rmp, RmpCode, RmpFault
from harness.uapi.sev import PFERR_GUEST_FINAL_MASK, PFERR_PRESENT_MASK, PFERR_USER_MASK
from harness.uapi.svm import SVM_EXIT_PAGE_NOT_VALIDATED

PVALIDATE, RMPADJUST = b"\xf2\x0f\x01\xff", b"\xf3\x0f\x01\xfe"
RF_PF = 1 << 2


def pvalidate(engine: Engine, mmu: Mmu, rmp: Rmp) -> bool:
    """PVALIDATE; True where cached translations have to go."""
    _check_mode(engine, mmu)
    regs = engine.regs
    gva, size, wanted = _operand(engine), regs[RCX] & 0xFFFFFFFF, regs[RDX] & 0xFFFFFFFF
    if size > 1 or wanted > 1 or (size and gva & 0x1FF000):
        _finish(engine, RmpCode.FAIL_INPUT, False)
        return False
    gpa = _private(mmu, gva)
    spa, npt_size = mmu.lookup(gpa, True, R, PFERR_GUEST_FINAL_MASK)
    try:
        code, same = rmp.pvalidate(
            spa,
            gpa,
            mmu.asid,
            size=PageSize(size),
            validate=bool(wanted),
            npt_size=npt_size,
            current_vmpl=mmu.vmpl,
        )
    except RmpFault as fault:
        raise _nested(gpa, fault) from fault
    _finish(engine, code, same)
    # A page that was not validated cannot be in a TLB.
    return not wanted and not same


def rmpadjust(engine: Engine, mmu: Mmu, rmp: Rmp) -> bool:
    """RMPADJUST; True where cached translations have to go."""
    env = engine.env
    _check_mode(engine, mmu)
    if not env.hflags & HF_CS64:
        raise GuestFault(UD)
    gva, size, attributes = _operand(engine), engine.regs[RCX], engine.regs[RDX]
    if size > 1 or (size and gva & 0x1FF000) or attributes >> 17:
        _finish(engine, RmpCode.FAIL_INPUT, False)
        return False
    gpa = _private(mmu, gva)
    spa, npt_size = mmu.lookup(gpa, True, R, PFERR_GUEST_FINAL_MASK)
    try:
        code = rmp.rmpadjust(
            spa,
            gpa,
            mmu.asid,
            size=PageSize(size),
            target_vmpl=attributes & 0xFF,
            perms=attributes >> 8 & 0xFF,
            vmsa=bool(attributes >> 16 & 1),
            current_vmpl=mmu.vmpl,
            npt_size=npt_size,
        )
    except RmpFault as fault:
        raise _nested(gpa, fault) from fault
    except PageNotValidated as fault:
        raise GuestFault(VC, SVM_EXIT_PAGE_NOT_VALIDATED, gva) from fault
    _finish(engine, code, False)
    return code == RmpCode.SUCCESS


def _check_mode(engine: Engine, mmu: Mmu) -> None:
    if not mmu.snp:
        raise GuestFault(UD)
    if engine.env.hflags & HF_CPL:
        raise GuestFault(GP)


def _operand(engine: Engine) -> int:
    """Page of the linear address in rAX."""
    env = engine.env
    rax = int(engine.regs[RAX])
    return (rax if env.hflags & HF_CS64 else rax & 0xFFFFFFFF) & ~0xFFF


def _private(mmu: Mmu, gva: int) -> int:
    """Guest physical address; #GP where the page is not mapped private."""
    gpa, private, _allowed = mmu.walk(gva, R, False)
    if not private:
        raise GuestFault(GP)
    return gpa & ~0xFFF


def _nested(gpa: int, fault: RmpFault) -> NestedFault:
    code = PFERR_PRESENT_MASK | PFERR_USER_MASK | PFERR_GUEST_FINAL_MASK | fault.bits
    return NestedFault(gpa, code)


def _finish(engine: Engine, code: RmpCode, carry: bool) -> None:
    """Result in EAX, and flags as of a comparison of it with zero."""
    engine.regs[RAX] = int(code)
    flags = engine.flags & ~CC_MASK
    if not code:
        flags |= RF_ZF
    if not int(code).bit_count() & 1:
        flags |= RF_PF
    if carry:
        flags |= RF_CF
    engine.flags = flags
