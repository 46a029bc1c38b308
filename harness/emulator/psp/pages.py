# SPDX-License-Identifier: GPL-2.0-only
"""Pages in the firmware's eyes: which state it demands of them, and which it leaves them in.

The states and their transitions are those of firmware ABI 56860, chapter 5 (page management).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.emulator.memory import PAGE_SIZE, PAGE_SIZE_2M, PhysicalMemory
from harness.emulator.psp.status import Refused, require
from harness.emulator.rmp import PageSize, PageState, Rmp, RmpEntry
from harness.emulator.rmp_entry import ASSIGNED, IMMUTABLE, SIZE_2M
from harness.uapi.errors import SevFwError
from harness.uapi.psp import sev_data_range

FIRMWARE_PAGE = RmpEntry(assigned=True, immutable=True)
CONTEXT_PAGE = RmpEntry(assigned=True, immutable=True, vmsa=True)
RECLAIM_PAGE = RmpEntry(assigned=True)
HV_FIXED_PAGE = RmpEntry(immutable=True)

MAX_RANGES = (PAGE_SIZE - 8) // 16
"""Ranges in a RANGE_LIST, which is one page (56860, SNP_INIT_EX)."""

_LENGTH = {PageSize.PG_4K: PAGE_SIZE, PageSize.PG_2M: PAGE_SIZE_2M}


class Pages:
    """Checked access to memory on behalf of commands."""

    def __init__(self, memory: PhysicalMemory, rmp: Rmp, cbit: int) -> None:
        self.memory, self.rmp = memory, rmp
        self._strip = ~(1 << cbit)
        self.enforce = False
        """Whether the RMP counts: once SNP is initialised."""

    # -- addresses -------------------------------------------------------------------------

    def address(self, pa: int, length: int = PAGE_SIZE, align: int = PAGE_SIZE) -> int:
        """A physical address without the C-bit that the host may have set in it."""
        pa &= self._strip
        if pa % align or not self.memory.contains(pa, length):
            raise Refused(SevFwError.INVALID_ADDRESS, f"0x{pa:x}")
        return pa

    def read(self, pa: int, length: int, align: int = 1) -> bytes:
        """Copy an input buffer."""
        return self.memory.read(self.address(pa, length, align), length)

    def output(self, pa: int, length: int, align: int = PAGE_SIZE) -> int:
        """Address of a buffer that the firmware may write: Firmware pages under SNP.

        A page that the RMP does not cover has no state to check (Default).
        """
        pa = self.address(pa, length, align)
        if pa < self.rmp.end and pa + length > self.rmp.base:
            raise Refused(SevFwError.INVALID_ADDRESS, "output into the RMP")
        if self.enforce:
            for page in range(pa & -PAGE_SIZE, pa + length, PAGE_SIZE):
                if self.rmp.covers(page):
                    self.expect(page, PageState.FIRMWARE)
        return pa

    # -- states ----------------------------------------------------------------------------

    def expect(self, pa: int, *states: PageState, size: PageSize = PageSize.PG_4K) -> RmpEntry:
        """The page's entry, which must have this size and be in one of these states.

        The table's own pages are not for use in any command, whatever their entries say.
        """
        if self.rmp.is_own(pa):
            raise Refused(SevFwError.INVALID_ADDRESS, f"0x{pa:x} is a page of the RMP")
        entry = self.rmp.effective(pa)
        if PageState.of(entry) not in states:
            raise Refused(SevFwError.INVALID_PAGE_STATE, f"0x{pa:x} is {PageState.of(entry).value}")
        if entry.size != size:
            raise Refused(SevFwError.INVALID_PAGE_SIZE, f"0x{pa:x}")
        return entry

    def owned(self, pa: int, asid: int, *states: PageState) -> RmpEntry:
        """The entry of a 4 KiB page that must belong to this guest."""
        entry = self.expect(pa, *states)
        require(entry.asid == asid, SevFwError.INVALID_PAGE_OWNER, f"0x{pa:x}")
        return entry

    def reclaim(self, paddr: int) -> None:
        """SNP_PAGE_RECLAIM: bit 0 of the address asks for 2 MiB."""
        size = PageSize(paddr & 1)
        pa = self.address(paddr & ~1, _LENGTH[size], _LENGTH[size])
        entry = self.expect(
            pa,
            PageState.METADATA,
            PageState.FIRMWARE,
            PageState.PRE_GUEST,
            PageState.PRE_SWAP,
            size=size,
        )
        if entry.asid:
            self.rmp.write_entry(pa, replace(entry, immutable=False))
        else:
            self.rmp.write_entry(pa, replace(RECLAIM_PAGE, size=size))

    def unsmash(self, paddr: int) -> None:
        """SNP_PAGE_UNSMASH: 512 uniform, contiguous entries become one of 2 MiB."""
        pa = self.address(paddr & ~1, PAGE_SIZE_2M, PAGE_SIZE_2M)
        first = self.rmp.effective(pa)
        require(
            PageState.of(first) in (PageState.PRE_GUEST, PageState.PRE_SWAP),
            SevFwError.INVALID_PAGE_STATE,
            f"0x{pa:x}",
        )
        require(first.size == PageSize.PG_4K, SevFwError.INVALID_PAGE_SIZE, f"0x{pa:x}")
        require(first.gpa % PAGE_SIZE_2M == 0, SevFwError.INVALID_PARAM, "GPA of the first page")
        for offset in range(PAGE_SIZE, PAGE_SIZE_2M, PAGE_SIZE):
            expected = replace(first, gpa=first.gpa + offset)
            if self.rmp.entry(pa + offset) != expected:
                raise Refused(SevFwError.INVALID_PAGE_STATE, f"0x{pa + offset:x} differs")
        self.rmp.write_entry(pa, replace(first, size=PageSize.PG_2M))

    # -- ranges ----------------------------------------------------------------------------

    def range_list(self, pa: int) -> list[tuple[int, int]]:
        """First physical address and number of pages of each range of a RANGE_LIST."""
        pa = self.address(pa, PAGE_SIZE, 8)
        count = self.memory.read_u32(pa)
        require(count <= MAX_RANGES, SevFwError.INVALID_PARAM, f"{count} ranges")
        found = []
        for index in range(count):
            item = sev_data_range.from_bytes(self.memory.read(pa + 8 + 16 * index, 16))
            require(item.base % PAGE_SIZE == 0, SevFwError.INVALID_ADDRESS, f"0x{item.base:x}")
            require(item.rsvd == 0, SevFwError.INVALID_PARAM, "reserved bits of a range")
            found.append((item.base & self._strip, item.page_count))
        return found

    def fix(self, ranges: list[tuple[int, int]]) -> None:
        """Make pages HV-Fixed; what the RMP does not cover needs nothing.

        Linux lists all that e820 calls reserved, the RMP included: its own pages stay as they
        are, the firmware's.
        """
        covered = []
        for pa, count in ranges:
            first = min(pa // PAGE_SIZE, self.rmp.pages)
            last = min(first + count, self.rmp.pages)
            words = self.rmp.lo[first:last]
            taken = words & (ASSIGNED | SIZE_2M)
            firmware = (words == ASSIGNED | IMMUTABLE) if taken.any() else None
            if firmware is not None and not (firmware | (taken == 0)).all():
                raise Refused(SevFwError.INVALID_PAGE_STATE, f"range at 0x{pa:x}")
            covered.append((first * PAGE_SIZE, last - first))
        for pa, count in covered:
            self._fill_around_table(pa, count)

    def _fill_around_table(self, pa: int, count: int) -> None:
        first, own = pa // PAGE_SIZE, self.rmp.own_pages
        before = range(first, min(first + count, own.start))
        after = range(max(first, own.stop), first + count)
        for part in (before, after):
            if part:
                self.rmp.fill_range(part.start * PAGE_SIZE, len(part), HV_FIXED_PAGE)

    # -- the IOMMU's buffers ---------------------------------------------------------------

    def claim(self, ranges: list[tuple[int, int]]) -> list[range]:
        """Make pages of the host the firmware's; returns the numbers of those with entries."""
        claimed = []
        for pa, count in ranges:
            first = min(pa // PAGE_SIZE, self.rmp.pages)
            pages = range(first, min(first + count, self.rmp.pages))
            words, own = self.rmp.lo[pages.start : pages.stop], self.rmp.own_pages
            taken = np.isin(words, (0, ASSIGNED, ASSIGNED | IMMUTABLE), invert=True).any()
            overlap = pages.start < own.stop and own.start < pages.stop
            if taken or overlap:
                raise Refused(SevFwError.INVALID_PAGE_STATE, f"IOMMU buffer at 0x{pa:x}")
            claimed.append(pages)
        for pages in claimed:
            self.rmp.fill_range(pages.start * PAGE_SIZE, len(pages), FIRMWARE_PAGE)
        return claimed

    def release(self, claimed: list[range]) -> None:
        """Make those that still are Firmware pages Reclaim pages, for the host to take back."""
        for pages in claimed:
            for pfn in pages:
                if self.rmp.state_of(pfn * PAGE_SIZE) == PageState.FIRMWARE:
                    self.rmp.write_entry(pfn * PAGE_SIZE, RECLAIM_PAGE)
