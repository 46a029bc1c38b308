# SPDX-License-Identifier: GPL-2.0-only
"""RMP checks of memory accesses by guests and by the host (APM vol. 2, 15.36.10, table 15-39)."""

from __future__ import annotations

from harness.emulator.rmp_bulk import REGION
from harness.emulator.rmp_entry import (
    ASID_SHIFT,
    ASSIGNED,
    GPA_LIMIT,
    GPA_MASK,
    OWNER,
    PERM_EXECUTE_SUPERVISOR,
    PERM_EXECUTE_USER,
    PERM_READ,
    PERM_WRITE,
    SIZE_2M,
    VALIDATED,
    PageNotValidated,
    PageSize,
    RmpFault,
)
from harness.emulator.rmp_table import RmpTable

PG_4K, PG_2M = PageSize.PG_4K, PageSize.PG_2M
PRIVATE_FAULT = RmpFault.RMP | RmpFault.ENC
PLAIN = OWNER | SIZE_2M | VALIDATED


class RmpAccess(RmpTable):
    """The table together with the rules for using the pages it describes."""

    def check_guest(
        self,
        spa: int,
        gpa: int,
        asid: int,
        *,
        private: bool,
        write: bool,
        execute: bool,
        user: bool,
        vmpl: int = 0,
        npt_size: PageSize = PG_4K,
    ) -> None:
        """Check an access by an SNP guest; raises RmpFault or PageNotValidated.

        Instruction fetches and page table walks are private whatever the C-bit says: the
        caller passes that in `private`.
        """
        if not private:
            if write and not self.check_host_write(spa, npt_size):
                raise RmpFault(RmpFault.RMP, spa, gpa, "shared write to an assigned page")
            return
        pfn = spa >> 12
        if 0 <= pfn < self.pages and not (vmpl or npt_size) and gpa < GPA_LIMIT:
            # What nearly every access is: VMPL0, 4 KiB, and nothing wrong with it.
            expected = ASSIGNED | VALIDATED | gpa & GPA_MASK | asid << ASID_SHIFT
            if self._words[2 * pfn] & PLAIN == expected and asid > 0:
                return
        ruler = self._owned(spa, gpa, asid)
        lo = self._words[2 * ruler]
        if bool(lo & SIZE_2M) != (npt_size == PG_2M):
            raise RmpFault(PRIVATE_FAULT, spa, gpa, "RMP and nested page size differ")
        if not lo & VALIDATED:
            raise PageNotValidated(gpa)
        if vmpl:
            self._check_vmpl(spa, gpa, ruler, write, execute, user, vmpl)

    def _check_vmpl(
        self, spa: int, gpa: int, ruler: int, write: bool, execute: bool, user: bool, vmpl: int
    ) -> None:
        """VMPL0 may do everything; it is not asked."""
        if execute:
            need = PERM_EXECUTE_USER if user else PERM_EXECUTE_SUPERVISOR
        else:
            # Write without Read is an illegal mask that refuses every data access.
            need = PERM_READ | PERM_WRITE if write else PERM_READ
        perms = self._words[2 * ruler + 1] >> 8 * vmpl & 0xFF
        illegal = not execute and perms & (PERM_READ | PERM_WRITE) == PERM_WRITE
        if illegal or perms & need != need:
            raise RmpFault(PRIVATE_FAULT | RmpFault.VMPL, spa, gpa, f"VMPL{vmpl} may not")

    def _owned(self, spa: int, gpa: int, asid: int) -> int:
        """Number of the entry that rules a page of this guest.

        RMP-Covered, Guest-Owned, Reverse-Map and Mutable, which all fail with the same bits.
        """
        pfn = spa >> 12
        if not 0 <= pfn < self.pages or not 0 <= gpa < GPA_LIMIT or asid <= 0:
            raise RmpFault(PRIVATE_FAULT, spa, gpa, "the page cannot belong to a guest")
        lo = self._words[2 * pfn]
        expected = ASSIGNED | gpa & GPA_MASK | asid << ASID_SHIFT
        if lo & (OWNER | SIZE_2M) == expected:
            return pfn
        head = pfn & ~(REGION - 1)
        lo = self._words[2 * head]
        if (
            lo & (OWNER | SIZE_2M) == (expected & ~((REGION - 1) << 12)) | SIZE_2M
            and (gpa >> 12) % REGION == pfn - head
        ):
            return head
        raise RmpFault(PRIVATE_FAULT, spa, gpa, "ASID or GPA differ, or the page is immutable")

    def check_host_write(self, spa: int, size: PageSize = PG_4K) -> bool:
        """Whether software outside of guests may write: the Hypervisor-Owned check.

        A 2 MiB mapping needs all 512 pages; reads are never checked.
        """
        pfn = spa >> 12
        if size == PG_2M:
            pfn &= ~(REGION - 1)
            if pfn < self._own.stop and pfn + REGION > self._own.start:
                return False
            return not (self.lo[pfn : pfn + REGION] & ASSIGNED).any()
        if pfn in self._own:
            return False
        return not (0 <= pfn < self.pages and self._words[2 * pfn] & ASSIGNED)
