# SPDX-License-Identifier: GPL-2.0-only
"""The Reverse Map Table: RMPUPDATE, PSMASH, PVALIDATE, RMPADJUST, RMPREAD, RMPQUERY.

Semantics are those of the AMD64 Architecture Programmer's Manual: vol. 2, 15.36 (tables 15-34
to 15-40) and the instructions' pages in vol. 3.  The checks of ordinary memory accesses are in
`rmp_access`.  One thread runs the whole machine, so every instruction is atomic.
"""

from __future__ import annotations

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.rmp_access import RmpAccess
from harness.emulator.rmp_bulk import REGION
from harness.emulator.rmp_entry import (
    ASID_MASK,
    ASID_SHIFT,
    ASSIGNED,
    GPA_LIMIT,
    GPA_MASK,
    HEAD_2M,
    IMMUTABLE,
    PERM_ALL,
    SIZE_2M,
    VALIDATED,
    VMPLS,
    VMSA,
    PageNotValidated,
    PageSize,
    PageState,
    RmpCode,
    RmpEntry,
    RmpFault,
)

__all__ = [
    "PageNotValidated",
    "PageSize",
    "PageState",
    "Rmp",
    "RmpCode",
    "RmpEntry",
    "RmpFault",
]

# Looking a member up in its enumeration costs more than all checks of a page together.
SUCCESS, FAIL_INPUT, FAIL_PERMISSION = RmpCode.SUCCESS, RmpCode.FAIL_INPUT, RmpCode.FAIL_PERMISSION
FAIL_INUSE, FAIL_OVERLAP = RmpCode.FAIL_INUSE, RmpCode.FAIL_OVERLAP
FAIL_SIZEMISMATCH = RmpCode.FAIL_SIZEMISMATCH
PG_4K, PG_2M = PageSize.PG_4K, PageSize.PG_2M

ADDRESS_2M = (REGION - 1) << 12
"""Address bits that are zero in a 2 MiB aligned page address."""


class Rmp(RmpAccess):
    """The table and the instructions on it.

    Addresses are system physical (`spa`) and guest physical (`gpa`); their low 12 bits are
    ignored, as the instructions do.
    """

    # -- the hypervisor's instructions -----------------------------------------------------

    def rmpupdate(
        self,
        spa: int,
        *,
        assigned: bool,
        gpa: int = 0,
        asid: int = 0,
        size: PageSize = PG_4K,
        immutable: bool = False,
    ) -> RmpCode:
        """RMPUPDATE: give a page to a guest (ASID > 0), to the firmware, or take it back.

        The new entry is never validated, and its permissions are all for VMPL0 and none for
        the others.
        """
        pfn = spa >> 12
        huge = size == PG_2M
        if self._bad_update(pfn, REGION if huge else 1, gpa, asid, assigned, immutable):
            return FAIL_INPUT
        if huge and (pfn % REGION or gpa & ADDRESS_2M):
            return FAIL_INPUT
        code = self._changeable(pfn, REGION if huge else 1)
        if code == SUCCESS:
            code = self._overlap_2m(pfn) if huge else self._overlap_4k(pfn)
        if code != SUCCESS:
            return code
        lo, hi = _new_entry(assigned, gpa, asid, immutable)
        if huge:
            self._store_2m(pfn, lo | SIZE_2M if assigned else 0, hi)
        else:
            self._store(pfn, lo, hi)
        return SUCCESS

    def rmpupdate_range(
        self,
        spa: int,
        npages: int,
        *,
        assigned: bool,
        gpa: int = 0,
        asid: int = 0,
        immutable: bool = False,
    ) -> tuple[RmpCode, int]:
        """RMPUPDATE of consecutive 4 KiB pages; a GPA rises with the address.

        Returns the first code that is not SUCCESS and the number of pages done before it.
        """
        pfn, done = spa >> 12, 0
        step = PAGE_SIZE if assigned and asid else 0
        if not self._bad_update(pfn, 1, gpa, asid, assigned, immutable):
            limit = min(npages, self.pages - pfn, self._until_special(pfn, npages))
            if step:
                limit = min(limit, (GPA_LIMIT - (gpa & GPA_MASK)) // PAGE_SIZE)
            lo, hi = _new_entry(assigned, gpa, asid, immutable)
            done = self.bulk.update(pfn, limit, lo, step, hi)
        while done < npages:
            code = self.rmpupdate(
                spa + done * PAGE_SIZE,
                assigned=assigned,
                gpa=gpa + done * step,
                asid=asid,
                immutable=immutable,
            )
            if code != SUCCESS:
                return code, done
            done += 1
        return SUCCESS, done

    def psmash(self, spa: int) -> RmpCode:
        """PSMASH: split a 2 MiB entry into 512 that keep all but size and GPA."""
        pfn = spa >> 12
        if pfn % REGION or not 0 <= pfn <= self.pages - REGION:
            return FAIL_INPUT
        lo, hi = self._words[2 * pfn], self._words[2 * pfn + 1]
        if lo & HEAD_2M != HEAD_2M:
            return FAIL_INPUT
        code = self._changeable(pfn, REGION)
        if code == SUCCESS:
            self._smash(pfn, lo & ~SIZE_2M, hi)
        return code

    def rmpread(self, spa: int) -> RmpEntry:
        """RMPREAD: the page's own entry."""
        return self.entry(spa)

    # -- the guest's instructions ----------------------------------------------------------

    def pvalidate(
        self,
        spa: int,
        gpa: int,
        asid: int,
        *,
        size: PageSize,
        validate: bool,
        npt_size: PageSize = PG_4K,
        current_vmpl: int = 0,
    ) -> tuple[RmpCode, bool]:
        """PVALIDATE: set or clear Validated.  Returns the code and the carry flag (no change).

        Raises RmpFault where the page is not the guest's, or larger than asked for.
        """
        if size == PG_2M and gpa & ADDRESS_2M:
            return FAIL_INPUT, False
        if current_vmpl:
            return FAIL_PERMISSION, False
        ruler = self._owned(spa, gpa, asid)
        if self._size_mismatch(ruler, spa, gpa, size, npt_size):
            return FAIL_SIZEMISMATCH, False
        lo = self._words[2 * ruler]
        if bool(lo & VALIDATED) == validate:
            return SUCCESS, True
        self._words[2 * ruler] = lo ^ VALIDATED
        return SUCCESS, False

    def pvalidate_range(
        self, spa: int, npages: int, gpa: int, asid: int, *, validate: bool
    ) -> tuple[RmpCode, int, int]:
        """PVALIDATE of consecutive 4 KiB pages.  Returns code, pages done and pages changed.

        A page that faults raises RmpFault, whose `spa` says how far it went.
        """
        pfn, done, changed = spa >> 12, 0, 0
        if 0 <= pfn < self.pages and 0 < asid <= ASID_MASK and 0 <= gpa < GPA_LIMIT:
            limit = min(npages, self.pages - pfn, (GPA_LIMIT - (gpa & GPA_MASK)) // PAGE_SIZE)
            lo = ASSIGNED | gpa & GPA_MASK | asid << ASID_SHIFT
            done, changed = self.bulk.validate(pfn, limit, lo, validate)
        while done < npages:
            offset = done * PAGE_SIZE
            code, same = self.pvalidate(
                spa + offset, gpa + offset, asid, size=PG_4K, validate=validate
            )
            if code != SUCCESS:
                return code, done, changed
            done, changed = done + 1, changed + (not same)
        return SUCCESS, done, changed

    def rmpadjust(
        self,
        spa: int,
        gpa: int,
        asid: int,
        *,
        size: PageSize,
        target_vmpl: int,
        perms: int,
        vmsa: bool,
        current_vmpl: int,
        npt_size: PageSize = PG_4K,
    ) -> RmpCode:
        """RMPADJUST: set the permissions of a less privileged VMPL, and at VMPL0 the VMSA bit.

        Raises RmpFault as PVALIDATE does, and PageNotValidated.
        """
        if not 0 <= target_vmpl < VMPLS or perms & ~PERM_ALL:
            return FAIL_INPUT
        if size == PG_2M and gpa & ADDRESS_2M:
            return FAIL_INPUT
        ruler = self._owned(spa, gpa, asid)
        if self._size_mismatch(ruler, spa, gpa, size, npt_size):
            return FAIL_SIZEMISMATCH
        lo, hi = self._words[2 * ruler], self._words[2 * ruler + 1]
        if not lo & VALIDATED:
            raise PageNotValidated(gpa)
        if target_vmpl <= current_vmpl or perms & ~(hi >> 8 * current_vmpl):
            return FAIL_PERMISSION
        if self.in_use and any(pfn in self.in_use for pfn in _pages(ruler, lo)):
            return FAIL_INUSE
        if not current_vmpl:
            lo = lo | VMSA if vmsa else lo & ~VMSA
        shift = 8 * target_vmpl
        self._store(ruler, lo, hi & ~(0xFF << shift) | perms << shift)
        return SUCCESS

    def rmpquery(
        self,
        spa: int,
        gpa: int,
        asid: int,
        *,
        current_vmpl: int,
        target_vmpl: int,
    ) -> tuple[RmpCode, int, PageSize]:
        """RMPQUERY: the permissions of a less privileged VMPL, and the entry's size.

        Raises RmpFault where the page is not the guest's, and PageNotValidated.
        """
        if not 0 <= target_vmpl < VMPLS:
            return FAIL_INPUT, 0, PG_4K
        ruler = self._owned(spa, gpa, asid)
        lo, hi = self._words[2 * ruler], self._words[2 * ruler + 1]
        if not lo & VALIDATED:
            raise PageNotValidated(gpa)
        if target_vmpl <= current_vmpl:
            return FAIL_PERMISSION, 0, PG_4K
        size = PG_2M if lo & SIZE_2M else PG_4K
        return SUCCESS, hi >> 8 * target_vmpl & 0xFF, size

    # -- checks of RMPUPDATE and PSMASH ----------------------------------------------------

    def _bad_update(
        self, pfn: int, count: int, gpa: int, asid: int, assigned: bool, immutable: bool
    ) -> bool:
        """Input that no state of the table makes right."""
        return (
            not 0 <= pfn <= self.pages - count
            or not 0 <= gpa < GPA_LIMIT
            or not 0 <= asid <= ASID_MASK
            or (not assigned and (immutable or asid != 0))
        )

    def _changeable(self, pfn: int, count: int) -> RmpCode:
        """Neither the table's own memory, nor in use by hardware, nor immutable."""
        if pfn < self._own.stop and pfn + count > self._own.start:
            return FAIL_PERMISSION
        if self.in_use and any(page in self.in_use for page in range(pfn, pfn + count)):
            return FAIL_INUSE
        if count == 1:
            immutable = bool(self._words[2 * pfn] & IMMUTABLE)
        else:
            immutable = bool((self.lo[pfn : pfn + count] & IMMUTABLE).any())
        return FAIL_PERMISSION if immutable else SUCCESS

    def _overlap_4k(self, pfn: int) -> RmpCode:
        """A 4 KiB page may not lie in an assigned 2 MiB page."""
        head = self._words[2 * (pfn & ~(REGION - 1))]
        return FAIL_OVERLAP if head & HEAD_2M == HEAD_2M else SUCCESS

    def _overlap_2m(self, pfn: int) -> RmpCode:
        """A 2 MiB page may not lie over assigned 4 KiB pages."""
        if self._words[2 * pfn] & HEAD_2M == HEAD_2M:
            return SUCCESS
        assigned = (self.lo[pfn : pfn + REGION] & ASSIGNED).any()
        return FAIL_OVERLAP if assigned else SUCCESS

    def _until_special(self, pfn: int, npages: int) -> int:
        """Pages from `pfn` before the first that is in use or the table's own."""
        special = [page for page in self.in_use if pfn <= page < pfn + npages]
        if pfn < self._own.stop and pfn + npages > self._own.start:
            special.append(max(pfn, self._own.start))
        return min(special) - pfn if special else npages

    # -- checks of PVALIDATE and RMPADJUST -------------------------------------------------

    @staticmethod
    def _fault_size(spa: int, gpa: int) -> RmpFault:
        bits = RmpFault.RMP | RmpFault.ENC | RmpFault.SIZEM
        return RmpFault(bits, spa, gpa, "the page is 2 MiB, 4 KiB were asked for")

    def _size_mismatch(
        self, ruler: int, spa: int, gpa: int, size: PageSize, npt_size: PageSize
    ) -> bool:
        """Asked for more than the page has: the guest retries with 4 KiB.

        Asked for less, the host has to smash the page first: RmpFault (APM vol. 2, table
        15-40, and 15.36.6 for what nested page tables map).
        """
        huge = bool(self._words[2 * ruler] & SIZE_2M)
        if size == PG_2M:
            return not huge or npt_size == PG_4K
        if huge or npt_size == PG_2M:
            raise self._fault_size(spa, gpa)
        return False

    def _smash(self, pfn: int, lo: int, hi: int) -> None:
        self.bulk.fill(pfn, REGION, lo, PAGE_SIZE, hi)


def _new_entry(assigned: bool, gpa: int, asid: int, immutable: bool) -> tuple[int, int]:
    """The words that RMPUPDATE writes."""
    if not assigned:
        return 0, 0
    lo = ASSIGNED | gpa & GPA_MASK | asid << ASID_SHIFT | (IMMUTABLE if immutable else 0)
    return lo, PERM_ALL if asid else 0


def _pages(ruler: int, lo: int) -> range:
    return range(ruler, ruler + (REGION if lo & SIZE_2M else 1))
