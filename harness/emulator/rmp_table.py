# SPDX-License-Identifier: GPL-2.0-only
"""The RMP as a table in physical memory: what lies where, and access to entries as data.

Nothing here checks whether a change is allowed: it serves the instructions (`rmp`) and the
firmware, which may write any entry.
"""

from __future__ import annotations

from harness.emulator.memory import PAGE_SIZE, PhysicalMemory
from harness.emulator.rmp_bulk import REGION, Bulk, Words
from harness.emulator.rmp_entry import (
    ASSIGNED,
    GPA_LIMIT,
    HEAD_2M,
    PageSize,
    PageState,
    RmpEntry,
)
from harness.emulator.rmp_fast import bulk

ENTRY_SIZE = 16
HYPERVISOR_PAGE = RmpEntry()


class RmpTable:
    """The entries for physical pages [0, pages), behind 16 KiB of bookkeeping at `base`.

    Pages beyond the table are the hypervisor's for ever (APM vol. 2, 15.36.5).
    """

    BOOKKEEPING = 0x4000
    """RMPTABLE_CPU_BOOKKEEPING_SZ, arch/x86/virt/svm/sev.c (Linux 6.12)."""

    def __init__(self, memory: PhysicalMemory, base: int, pages: int) -> None:
        if base % 0x2000:
            raise ValueError(f"RMP base 0x{base:x} is not aligned to 8 KiB (APM vol. 2, 15.36.4)")
        self.memory, self.base, self.pages = memory, base, pages
        self.first = base + self.BOOKKEEPING
        """Physical address of entry 0."""
        self.end = self.first + pages * ENTRY_SIZE
        self.table: Words = memory.array(self.first, pages * 2, "u8")
        self.lo: Words = self.table[0::2]
        self.hi: Words = self.table[1::2]
        # Indexing a memoryview gives a Python int in a third of numpy's time.
        self._words: memoryview = memory.view(self.first, pages * ENTRY_SIZE).cast("Q")
        self._own = range(base // PAGE_SIZE, -(-self.end // PAGE_SIZE))
        self.bulk: Bulk = bulk(self.table)
        self.in_use: set[int] = set()
        """Page numbers that hardware uses: VMSAs of running vCPUs (APM vol. 2, 15.36.12)."""

    # -- reading ---------------------------------------------------------------------------

    def covers(self, spa: int) -> bool:
        """Whether the page has an entry."""
        return 0 <= spa >> 12 < self.pages

    def entry(self, spa: int) -> RmpEntry:
        """The entry of the 4 KiB page, as it is in the table."""
        pfn = spa >> 12
        if not 0 <= pfn < self.pages:
            return HYPERVISOR_PAGE
        lo, hi = self._words[2 * pfn], self._words[2 * pfn + 1]
        return RmpEntry.decode(lo, hi) if lo or hi else HYPERVISOR_PAGE

    def is_assigned(self, spa: int) -> bool:
        """Whether the page is a guest's or the firmware's; cheaper than its entry."""
        pfn = spa >> 12
        return 0 <= pfn < self.pages and bool(self._words[2 * pfn] & ASSIGNED)

    def effective(self, spa: int) -> RmpEntry:
        """The entry that rules the page: that of the 2 MiB page it lies in, if there is one."""
        return self.entry(self._ruler(spa >> 12) << 12)

    def _ruler(self, pfn: int) -> int:
        """Page number of the entry that rules a page."""
        head = pfn & ~(REGION - 1)
        if head < self.pages and self._words[2 * head] & HEAD_2M == HEAD_2M:
            return head
        return pfn

    def state_of(self, spa: int) -> PageState:
        """The page's state in the firmware's eyes."""
        return PageState.of(self.effective(spa))

    def assigned_pages(self, asid: int | None = None) -> int:
        """4 KiB pages assigned to a guest (by default to any); ASID 0 counts the firmware's."""
        entries = pages = 0
        for start, end in self.memory.touched(self.first, self.pages * ENTRY_SIZE):
            first = (start - self.first) // ENTRY_SIZE
            count = -(-(end - self.first) // ENTRY_SIZE) - first
            found = self.bulk.count(first, count, asid or 0)
            entries, pages = entries + found[0], pages + found[1]
        return entries - pages if asid == 0 else pages

    def is_own(self, spa: int) -> bool:
        """Whether the page holds a part of the table."""
        return spa >> 12 in self._own

    @property
    def own_pages(self) -> range:
        """Numbers of the pages that hold the table and have entries in it themselves."""
        return range(min(self._own.start, self.pages), min(self._own.stop, self.pages))

    # -- writing without checks ------------------------------------------------------------

    def write_entry(self, spa: int, entry: RmpEntry) -> None:
        """Write an entry, and for 2 MiB the 511 behind it, as the firmware may."""
        if entry.size == PageSize.PG_2M:
            if spa & 0x1FF000:
                raise ValueError(f"2 MiB entry at 0x{spa:x}")
            self._store_2m(spa >> 12, *entry.encode())
        else:
            self._store(spa >> 12, *entry.encode())

    def fill_range(self, spa: int, npages: int, entry: RmpEntry) -> None:
        """Write 4 KiB entries; the GPA of an assigned guest page rises with the address."""
        if entry.size != PageSize.PG_4K:
            raise ValueError("ranges are filled with 4 KiB entries")
        pfn = spa >> 12
        own = pfn < self._own.stop and pfn + npages > self._own.start
        if own or not 0 <= pfn <= pfn + npages <= self.pages:
            raise ValueError(f"0x{spa:x}: not all of {npages} pages have entries to be written")
        lo, hi = entry.encode()
        step = PAGE_SIZE if entry.assigned and entry.asid else 0
        if entry.gpa + npages * step > GPA_LIMIT:
            raise ValueError(f"GPA 0x{entry.gpa:x} and {npages} pages do not fit RMP entries")
        self.bulk.fill(pfn, npages, lo, step, hi)

    def fill_own(self, entry: RmpEntry) -> None:
        """Write the entries of the table's own pages, which nothing else may change."""
        own = self.own_pages
        if entry.size != PageSize.PG_4K or entry.asid:
            raise ValueError("the table's own pages are the firmware's, 4 KiB each")
        lo, hi = entry.encode()
        self.bulk.fill(own.start, len(own), lo, 0, hi)

    def reset(self) -> None:
        """All pages to the hypervisor: what the firmware finds or leaves at SNP_INIT."""
        self.memory.zero(self.base, self.end - self.base)

    def _store(self, pfn: int, lo: int, hi: int) -> None:
        if not 0 <= pfn < self.pages or pfn in self._own:
            raise ValueError(f"page 0x{pfn:x} has no RMP entry that may be written")
        self._words[2 * pfn] = lo
        self._words[2 * pfn + 1] = hi

    def _store_2m(self, pfn: int, lo: int, hi: int) -> None:
        """The entries behind the head keep nothing but the Assigned bit (APM vol. 3, RMPUPDATE)."""
        if not 0 <= pfn <= self.pages - REGION:
            raise ValueError(f"2 MiB page 0x{pfn:x} is not covered by the RMP")
        self.lo[pfn + 1 : pfn + REGION] = lo & ASSIGNED
        self.hi[pfn + 1 : pfn + REGION] = 0
        self._store(pfn, lo, hi)
