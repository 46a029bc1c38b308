# SPDX-License-Identifier: GPL-2.0-only
"""Address translation of a guest: its own page tables, nested page tables, RMP.

Private memory is not really encrypted: the C-bit decides which checks an access gets.  As on
hardware, tables of the guest and instruction fetches are private whatever the C-bit says (APM
vol. 2, 15.34.5), so a shared page cannot be executed.
"""

from __future__ import annotations

import ctypes
from typing import Protocol

from harness.emulator.cpu.env import HF_CPL, RF_AC, EnvState
from harness.emulator.cpu.faults import GP, PF, VC, GuestFault, NestedFault
from harness.emulator.memory import PhysicalMemory
from harness.emulator.rmp import PageNotValidated, PageSize, Rmp, RmpFault
from harness.uapi.sev import (
    PFERR_FETCH_MASK,
    PFERR_GUEST_FINAL_MASK,
    PFERR_GUEST_PAGE_MASK,
    PFERR_PRESENT_MASK,
    PFERR_RSVD_MASK,
    PFERR_USER_MASK,
    PFERR_WRITE_MASK,
)
from harness.uapi.svm import SVM_EXIT_PAGE_NOT_VALIDATED

CR0_PE, CR0_WP, CR0_PG = 1 << 0, 1 << 16, 1 << 31
CR4_LA57, CR4_SMEP, CR4_SMAP = 1 << 12, 1 << 20, 1 << 21
EFER_LMA, EFER_NXE = 1 << 10, 1 << 11

PTE_P, PTE_W, PTE_U, PTE_A, PTE_D, PTE_PS, PTE_NX = 1, 2, 4, 1 << 5, 1 << 6, 1 << 7, 1 << 63
ADDRESS = ((1 << 52) - 1) & ~0xFFF
PAGE = 0xFFF

R, W, X = 1, 2, 4
"""Accesses; the values are Unicorn's UC_PROT_*."""
XU = 8
"""Execution in user mode, which VMPL permissions tell apart from that in supervisor mode."""


class NestedPageTable(Protocol):
    """What KVM's MMU offers to the processor's walker."""

    def lookup(self, gfn: int) -> tuple[int, bool, PageSize] | None:
        """Physical address of the frame's 4 KiB page, writable, size of the NPT entry."""
        ...


class UnmodelledModeError(RuntimeError):
    """The guest pages in a mode that is not modelled (32-bit and PAE paging)."""


class Mmu:
    """The walker of one processor, with a cache of nested translations."""

    def __init__(self, memory: PhysicalMemory, rmp: Rmp, cbit: int, env: EnvState) -> None:
        self._memory = memory
        self._words = memory.view(0, memory.size).cast("Q")
        self._rmp = rmp
        self._cbit = 1 << cbit
        self._env = env
        self._cr = env.cr  # ctypes makes a new array object at each env.cr
        self._nested: dict[int, tuple[int, int]] = {}
        self.npt: NestedPageTable | None = None
        self.asid = 0
        self.vmpl = 0
        self.snp = False

    def close(self) -> None:
        """Let go of physical memory."""
        self._words.release()

    def use(self, npt: NestedPageTable, asid: int, vmpl: int, snp: bool) -> None:
        """Translate for another guest, or another context of it."""
        self.npt, self.asid, self.vmpl, self.snp = npt, asid, vmpl, snp
        self._nested.clear()

    def flush(self) -> None:
        """Forget nested translations."""
        self._nested.clear()

    # -- nested ----------------------------------------------------------------------------

    def nested(self, gpa: int, private: bool, access: int, user: bool, stage: int) -> int:
        """Physical address of a guest physical one, checked for one access (R, W or X)."""
        key = gpa >> 12 << 1 | private
        need = XU if access == X and user else access
        cached = self._nested.get(key)
        if cached is not None and cached[1] & need:
            return cached[0] | gpa & PAGE
        spa, size = self.lookup(gpa, private, access, stage)
        write, fetch = access == W, access == X
        if self.snp:
            try:
                self._rmp.check_guest(
                    spa,
                    gpa,
                    self.asid,
                    private=private,
                    write=write,
                    execute=fetch,
                    user=user,
                    vmpl=self.vmpl,
                    npt_size=size,
                )
            except RmpFault as fault:
                code = self._error(private, access, stage) | PFERR_PRESENT_MASK | fault.bits
                raise NestedFault(gpa, code) from fault
            except PageNotValidated as fault:
                raise GuestFault(VC, SVM_EXIT_PAGE_NOT_VALIDATED) from fault
        elif write and not self._rmp.check_host_write(spa, size):
            code = self._error(private, access, stage) | PFERR_PRESENT_MASK | RmpFault.RMP
            raise NestedFault(gpa, code)
        self._nested[key] = (spa & ~PAGE, need | (cached[1] if cached is not None else 0))
        return spa

    def lookup(self, gpa: int, private: bool, access: int, stage: int) -> tuple[int, PageSize]:
        """The nested page tables alone; NestedFault where they do not allow the access."""
        assert self.npt is not None
        mapping = self.npt.lookup(gpa >> 12)
        if mapping is None:
            raise NestedFault(gpa, self._error(private, access, stage))
        spa, writable, size = mapping
        if access == W and not writable:
            raise NestedFault(gpa, self._error(private, access, stage) | PFERR_PRESENT_MASK)
        return spa | gpa & PAGE, size

    def _error(self, private: bool, access: int, stage: int) -> int:
        """Nested accesses always count as user accesses (APM vol. 2, 15.25.6)."""
        code = PFERR_USER_MASK | stage
        if access == W:
            code |= PFERR_WRITE_MASK
        elif access == X:
            code |= PFERR_FETCH_MASK
        return code | RmpFault.ENC if private and self.snp else code

    # -- guest -----------------------------------------------------------------------------

    def fill(self, va: int, access: int) -> tuple[int, int]:
        """Physical page and permissions for a TLB entry."""
        user = self._env.hflags & HF_CPL == 3
        gpa, private, allowed = self.walk(va, access, user)
        spa = self.nested(gpa, private, access, user, PFERR_GUEST_FINAL_MASK)
        if self.snp and access == X:
            shared = not allowed & _C
            return spa, X if shared else X | R | self._more(gpa, True, allowed, user, W)
        grant = access | R
        grant |= self._more(gpa, private, allowed, user, W | X if private or not self.snp else W)
        return spa, grant

    def _more(self, gpa: int, private: bool, allowed: int, user: bool, wanted: int) -> int:
        """What else a TLB entry may grant: only what was checked before and changes nothing."""
        _spa, checked = self._nested.get(gpa >> 12 << 1 | private, (0, 0))
        grant = checked & allowed & wanted & W
        if allowed & wanted & X and checked & (XU if user else X):
            grant |= X
        return grant

    def translate(self, va: int, access: int, user: bool = False) -> int:
        """Physical address of a virtual one, checked like an access by the guest."""
        gpa, private, _allowed = self.walk(va, access, user)
        return self.nested(gpa, private, access, user, PFERR_GUEST_FINAL_MASK)

    def walk(self, va: int, access: int, user: bool) -> tuple[int, bool, int]:
        """Walk the guest's tables: guest physical address, private, further permissions.

        The permissions say what may be granted without another walk: W where the page is
        writable and dirty, X where it is executable; with the C-bit's state in _C.
        """
        cr = self._cr
        cr0, cr4, efer = cr[0], cr[4], self._env.efer
        if not cr0 & CR0_PG:
            return va & 0xFFFFFFFF, self.snp, W | X | _C
        if not efer & EFER_LMA:
            raise UnmodelledModeError("guests page in long mode here, or not at all")
        level = 4 if cr4 & CR4_LA57 else 3
        top = va >> (12 + 9 * level + 8)
        if top != 0 and top != (1 << (64 - 20 - 9 * level)) - 1:
            raise GuestFault(GP)
        code = (PFERR_WRITE_MASK if access == W else 0) | (PFERR_USER_MASK if user else 0)
        if access == X and (efer & EFER_NXE or cr4 & CR4_SMEP):
            code |= PFERR_FETCH_MASK
        words, cbit, snp = self._words, self._cbit if self.snp else 0, self.snp
        mask = ADDRESS & ~cbit
        table = cr[3] & mask
        rights, noexec = PTE_W | PTE_U, 0
        nested = self._nested
        fresh = []  # entries whose Accessed bit is to be set
        while True:
            at = table | (va >> (12 + 9 * level) & 0x1FF) << 3
            cached = nested.get(table >> 12 << 1 | snp)
            if cached is not None and cached[1] & W:
                index = (cached[0] | at & PAGE) >> 3
            else:
                index = self.nested(at, snp, W, True, PFERR_GUEST_PAGE_MASK) >> 3
            pte = words[index]
            if not pte & PTE_P:
                raise GuestFault(PF, code, va)
            if (pte & PTE_NX and not efer & EFER_NXE) or (level >= 3 and pte & PTE_PS):
                raise GuestFault(PF, code | PFERR_PRESENT_MASK | PFERR_RSVD_MASK, va)
            rights &= pte
            noexec |= pte & PTE_NX
            if not pte & PTE_A:
                fresh.append(index)
            if level == 0 or pte & PTE_PS:
                break
            table = pte & mask
            level -= 1
        if rights != PTE_W | PTE_U or user or noexec or cr4 & (CR4_SMEP | CR4_SMAP):
            self._check(access, user, rights, noexec, va, code)
        for entry in fresh:
            words[entry] |= PTE_A
        if access == W and not pte & PTE_D:
            words[index] |= PTE_D
        span = (1 << 12 + 9 * level) - 1
        gpa = pte & mask & ~span | va & span
        allowed = 0 if noexec else X
        writable = rights & PTE_W or not (cr0 & CR0_WP or user)
        if writable and (pte & PTE_D or access == W):
            allowed |= W
        if self._smep(user, rights, cr4):
            allowed &= ~X
        encrypted = bool(pte & cbit)
        if encrypted:
            allowed |= _C
        return gpa, snp and (encrypted or access == X), allowed

    @staticmethod
    def _smep(user: bool, rights: int, cr4: int) -> bool:
        return bool(not user and rights & PTE_U and cr4 & CR4_SMEP)

    def _check(self, access: int, user: bool, rights: int, noexec: int, va: int, code: int) -> None:
        cr4 = self._cr[4]
        ok = rights & PTE_U or not user
        if access == W:
            ok = ok and (rights & PTE_W or not (user or self._cr[0] & CR0_WP))
        elif access == X:
            ok = ok and not noexec and not self._smep(user, rights, cr4)
        if access != X and not user and rights & PTE_U and cr4 & CR4_SMAP:
            ok = ok and self._env.eflags & RF_AC
        if not ok:
            raise GuestFault(PF, code | PFERR_PRESENT_MASK, va)

    # -- accesses by the processor itself ----------------------------------------------------

    def read(self, va: int, length: int) -> bytes:
        """Read as supervisor."""
        first = min(length, 0x1000 - (va & PAGE))
        data = self._memory.read(self.translate(va, R), first)
        if first < length:
            data += self._memory.read(self.translate(va + first, R), length - first)
        return data

    def write(self, va: int, data: bytes) -> None:
        """Write as supervisor; nothing is written where a part faults."""
        first = min(len(data), 0x1000 - (va & PAGE))
        spa = self.translate(va, W)
        if first < len(data):
            self._memory.write(self.translate(va + first, W), data[first:])
        self._memory.write(spa, data[:first])

    def fetch(self, va: int, length: int) -> bytes:
        """Read instruction bytes, as far as they can be fetched."""
        user = self._env.hflags & HF_CPL == 3
        first = min(length, 0x1000 - (va & PAGE))
        data = self._memory.read(self.translate(va, X, user), first)
        if first < length:
            try:
                data += self._memory.read(self.translate(va + first, X, user), length - first)
            except (GuestFault, NestedFault):
                return data
        return data

    def page(self, spa: int) -> bytes:
        """The content of a page of physical memory."""
        return ctypes.string_at(self._memory.address + (spa & ~PAGE), 0x1000)


_C = 16
"""Among a walk's permissions: the C-bit is set."""
