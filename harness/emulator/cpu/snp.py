# SPDX-License-Identifier: GPL-2.0-only
"""PVALIDATE, RMPADJUST and RMPQUERY as a guest executes them (APM vol. 3; vol. 2, 15.36)."""

from __future__ import annotations

from harness.emulator.cpu.env import CC_MASK, HF_CPL, HF_CS64, RAX, RCX, RDX, RF_CF, RF_ZF
from harness.emulator.cpu.faults import GP, UD, VC, GuestFault, NestedFault
from harness.emulator.cpu.mmu import Mmu, R
from harness.emulator.cpu.uc import Engine
from harness.emulator.rmp import PageNotValidated, PageSize, Rmp, RmpCode, RmpFault
from harness.emulator.rmp_entry import PERM_ALL, VMPLS
from harness.uapi.sev import PFERR_GUEST_FINAL_MASK, PFERR_PRESENT_MASK, PFERR_USER_MASK
from harness.uapi.svm import SVM_EXIT_PAGE_NOT_VALIDATED

PVALIDATE, RMPADJUST = b"\xf2\x0f\x01\xff", b"\xf3\x0f\x01\xfe"
RMPQUERY = b"\xf3\x0f\x01\xfd"
RF_PF = 1 << 2


def pvalidate(engine: Engine, mmu: Mmu, rmp: Rmp) -> bool:
    """PVALIDATE; True where cached translations have to go."""
    _check_mode(engine, mmu)
    regs = engine.regs
    gva, size, wanted = _operand(engine), _flag(regs[RCX]), _flag(regs[RDX])
    if size and gva & 0x1FF000:
        _finish(engine, RmpCode.FAIL_INPUT, False)
        return False
    gpa, spa, npt_size = _private(mmu, gva)
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
    gva, size, attributes = _operand(engine), _flag(engine.regs[RCX]), engine.regs[RDX]
    vmpl, perms = attributes & 0xFF, attributes >> 8 & 0xFF
    reserved = attributes >> 17 or vmpl >= VMPLS or perms & ~PERM_ALL
    if (size and gva & 0x1FF000) or reserved:
        _finish(engine, RmpCode.FAIL_INPUT, False)
        return False
    gpa, spa, npt_size = _private(mmu, gva)
    try:
        code = rmp.rmpadjust(
            spa,
            gpa,
            mmu.asid,
            size=PageSize(size),
            target_vmpl=vmpl,
            perms=perms,
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


def rmpquery(engine: Engine, mmu: Mmu, rmp: Rmp) -> None:
    """RMPQUERY: VMPL, its permissions and the VMSA bit in RDX, the entry's size in RCX."""
    _check_mode(engine, mmu)
    if not engine.env.hflags & HF_CS64:
        raise GuestFault(UD)
    gva, vmpl = _operand(engine), engine.regs[RDX] & 0xFF
    if vmpl >= VMPLS:
        _finish(engine, RmpCode.FAIL_INPUT, False)
        return
    gpa, spa, _ = _private(mmu, gva)
    try:
        code, perms, size = rmp.rmpquery(
            spa, gpa, mmu.asid, current_vmpl=mmu.vmpl, target_vmpl=vmpl
        )
    except RmpFault as fault:
        raise _nested(gpa, fault) from fault
    except PageNotValidated as fault:
        raise GuestFault(VC, SVM_EXIT_PAGE_NOT_VALIDATED, gva) from fault
    if code == RmpCode.SUCCESS:
        engine.regs[RCX] = int(size)
        engine.regs[RDX] = vmpl | perms << 8 | rmp.effective(spa).vmsa << 16
    _finish(engine, code, False)


def _check_mode(engine: Engine, mmu: Mmu) -> None:
    if not mmu.snp:
        raise GuestFault(UD)
    if engine.env.hflags & HF_CPL:
        raise GuestFault(GP)


def _flag(register: int) -> int:
    """Bit 0 of an operand, the only one of it that counts.

    Linux passes a bool there, and above bit 7 what the compiler left in the register.
    """
    return int(register) & 1


def _operand(engine: Engine) -> int:
    """Page of the linear address in rAX."""
    env = engine.env
    rax = int(engine.regs[RAX])
    return (rax if env.hflags & HF_CS64 else rax & 0xFFFFFFFF) & ~0xFFF


def _private(mmu: Mmu, gva: int) -> tuple[int, int, PageSize]:
    """Guest and system physical address and the nested page's size, of a whole translation.

    #GP where the page is not mapped private, but only behind what the translation raises.
    """
    at, private, _allowed = mmu.walk(gva, R, False)
    gpa = at & ~0xFFF
    spa, npt_size = mmu.lookup(gpa, private, R, PFERR_GUEST_FINAL_MASK)
    if not private:
        raise GuestFault(GP)
    return gpa, spa, npt_size


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
