# SPDX-License-Identifier: GPL-2.0-only
"""guest_memfd: the memory that only a guest can reach (virt/kvm/guest_memfd.c, 6.12).

A file is backed by 2 MiB physical chunks taken at first use.  Inside a chunk every 4 KiB
page is a folio of its own, unless the whole chunk is populated at once as one 2 MiB folio
(what Linux 6.12 cannot do yet: it always reports order 0).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.files import File
from harness.emulator.kvm.sched import Mutex, Steps, Task
from harness.emulator.memory import PAGE_LINES, PAGE_SIZE, PAGE_SIZE_2M
from harness.emulator.rmp import PageSize
from harness.operations import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

if TYPE_CHECKING:
    from harness.emulator.kvm.slots import Slot
    from harness.emulator.kvm.vm import Vm

CHUNK_PAGES = PAGE_SIZE_2M // PAGE_SIZE
ABSENT, PRESENT, PREPARED = 0, 1, 2


@dataclass(slots=True)
class Chunk:
    """2 MiB of a file: where it is, and the state of each of its pages."""

    pa: int
    state: bytearray = field(default_factory=lambda: bytearray(CHUNK_PAGES))
    huge: bool = False


class GmemFile(File):
    """An open guest_memfd."""

    def __init__(self, vm: Vm, size: int) -> None:
        self.vm = vm
        self.size = size
        self._machine = vm.machine
        self._chunks: dict[int, Chunk] = {}
        self._bindings: list[Slot] = []
        self.invalidate_lock = Mutex("mapping.invalidate_lock")
        """LAUNCH_UPDATE has it for all its pages: a hole comes before them or after."""
        vm.get()

    # -- bindings --------------------------------------------------------------------------

    def bind(self, slot: Slot, index: int) -> None:
        """Bind a slot to [index, index + slot.npages); refused where another is bound."""
        for other in self._bindings:
            if other.gmem_index < index + slot.npages and index < other.gmem_index + other.npages:
                raise KvmError(self.vm.interface.gmem_bound_errnos[0])
        slot.gmem = self
        slot.gmem_index = index
        self._bindings.append(slot)

    def unbind(self, slot: Slot) -> None:
        """Undo bind(); the memory stays with the file."""
        self._bindings.remove(slot)
        slot.gmem = None

    # -- folios ----------------------------------------------------------------------------

    def _chunk(self, index: int) -> Chunk:
        number = index // CHUNK_PAGES
        chunk = self._chunks.get(number)
        if chunk is None:
            try:
                pa = self._machine.frames.alloc(PAGE_SIZE_2M, PAGE_SIZE_2M)
            except MemoryError:
                raise KvmError(errno.ENOMEM) from None
            chunk = self._chunks[number] = Chunk(pa)
        return chunk

    def page(self, index: int) -> int | None:
        """Physical address of a page of the file, None where it has none."""
        chunk = self._chunks.get(index // CHUNK_PAGES)
        at = index % CHUNK_PAGES
        if chunk is None or chunk.state[at] == ABSENT:
            return None
        return chunk.pa + at * PAGE_SIZE

    def get_pfn(self, slot: Slot, gfn: int) -> tuple[int, bool]:
        """kvm_gmem_get_pfn: (physical address, whether it is part of a 2 MiB folio), prepared."""
        index = slot.index(gfn)
        chunk = self._chunk(index)
        at = index % CHUNK_PAGES
        if chunk.state[at] == ABSENT and self._can_be_huge(slot, gfn, chunk):
            chunk.huge = True
            chunk.state[:] = bytes([PRESENT]) * CHUNK_PAGES
        if chunk.state[at] == ABSENT:
            chunk.state[at] = PRESENT
        if chunk.state[at] != PREPARED:
            self._prepare(chunk, at, gfn)
        return chunk.pa + at * PAGE_SIZE, chunk.huge

    def _can_be_huge(self, slot: Slot, gfn: int, chunk: Chunk) -> bool:
        """Whether a fault may populate the whole chunk as one folio."""
        if self._machine.config.gmem_max_order < 9 or any(chunk.state):
            return False
        base = gfn & ~(CHUNK_PAGES - 1)
        index = slot.index(gfn) & ~(CHUNK_PAGES - 1)
        return (
            slot.base_gfn <= base
            and base + CHUNK_PAGES <= slot.base_gfn + slot.npages
            and slot.index(base) == index
            and self.vm.private.covers(base, base + CHUNK_PAGES)
        )

    def _prepare(self, chunk: Chunk, at: int, gfn: int) -> None:
        """kvm_gmem_prepare_folio: clear the folio, then sev_gmem_prepare."""
        first, count = (0, CHUNK_PAGES) if chunk.huge else (at, 1)
        pa = chunk.pa + first * PAGE_SIZE
        self._machine.clear(pa, count * PAGE_SIZE)
        if self.vm.sev_snp:
            self._assign(chunk, at, gfn)
        chunk.state[first : first + count] = bytes([PREPARED]) * count

    def _assign(self, chunk: Chunk, at: int, gfn: int) -> None:
        """sev_gmem_prepare: give the page, or the whole 2 MiB, to the guest."""
        rmp, host = self._machine.rmp, self.vm.kvm.host_rmp
        pa = chunk.pa + at * PAGE_SIZE
        if rmp.is_assigned(pa):
            return
        try:
            if chunk.huge and not host.assigned(chunk.pa, CHUNK_PAGES):
                gpa = (gfn & ~(CHUNK_PAGES - 1)) * PAGE_SIZE
                host.make_private(chunk.pa, gpa, PageSize.PG_2M, self.vm.asid)
            else:
                host.make_private(pa, gfn * PAGE_SIZE, PageSize.PG_4K, self.vm.asid)
        except KvmError:
            self._machine.printk(f"SEV: Failed to update RMP entry: GFN {gfn:x} PFN {pa >> 12:x}")
            raise KvmError(errno.EINVAL) from None

    def populate_page(self, slot: Slot, gfn: int) -> int:
        """First half of kvm_gmem_populate for one page: its physical address, not yet prepared.

        EEXIST where the page was prepared before.  `mark_prepared` is the second half.
        """
        index = slot.index(gfn)
        chunk = self._chunk(index)
        at = index % CHUNK_PAGES
        if chunk.state[at] == PREPARED:
            raise KvmError(errno.EEXIST)
        chunk.state[at] = PRESENT
        return chunk.pa + at * PAGE_SIZE

    def mark_prepared(self, slot: Slot, gfn: int) -> None:
        """kvm_gmem_mark_prepared."""
        index = slot.index(gfn)
        self._chunk(index).state[index % CHUNK_PAGES] = PREPARED

    # -- fallocate -------------------------------------------------------------------------

    def fallocate(self, task: Task, mode: int, offset: int, length: int) -> Steps:
        """kvm_gmem_fallocate: allocate pages, or punch a hole."""
        if offset < 0 or length <= 0:
            raise KvmError(errno.EINVAL)
        if not mode & FALLOC_FL_KEEP_SIZE or mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE):
            raise KvmError(errno.EOPNOTSUPP)
        if offset + length >= 1 << 63:
            raise KvmError(errno.EFBIG)
        if offset % PAGE_SIZE or length % PAGE_SIZE:
            raise KvmError(errno.EINVAL)
        start, end = offset // PAGE_SIZE, (offset + length) // PAGE_SIZE
        hole = bool(mode & FALLOC_FL_PUNCH_HOLE)
        if not hole and offset + length > self.size:
            raise KvmError(errno.EINVAL)
        yield from self.invalidate_lock.lock(task)
        try:
            (self.punch if hole else self._allocate)(start, end)
        finally:
            self.invalidate_lock.unlock()
        return 0

    def _allocate(self, start: int, end: int) -> None:
        for index in range(start, end):
            chunk = self._chunk(index)
            if chunk.state[index % CHUNK_PAGES] == ABSENT:
                chunk.state[index % CHUNK_PAGES] = PRESENT

    def punch(self, start: int, end: int) -> None:
        """kvm_gmem_punch_hole: unmap [start, end) from the guest, then free its pages."""
        self._invalidate(start, end)
        first, last = start // CHUNK_PAGES, -(-end // CHUNK_PAGES)
        if last - first > len(self._chunks):
            numbers = sorted(number for number in self._chunks if first <= number < last)
        else:
            numbers = [number for number in range(first, last) if number in self._chunks]
        for number in numbers:
            base = number * CHUNK_PAGES
            chunk = self._chunks[number]
            self._free(chunk, max(start, base) - base, min(end, base + CHUNK_PAGES) - base)
            if not any(chunk.state):
                del self._chunks[number]
                kept = self.vm.kvm.host_rmp.assigned(chunk.pa, CHUNK_PAGES)
                # What a guest still owns is never handed out again.
                self.vm.kvm.host_rmp.leaked_pages += kept
                if not kept:
                    self._machine.frames.free(chunk.pa, PAGE_SIZE_2M)

    def _invalidate(self, start: int, end: int) -> None:
        """kvm_gmem_invalidate_begin: drop what the guest has mapped of [start, end)."""
        for slot in self._bindings:
            low = max(start, slot.gmem_index)
            high = min(end, slot.gmem_index + slot.npages)
            if low < high:
                shift = slot.base_gfn - slot.gmem_index
                self.vm.mmu.zap(low + shift, high + shift)

    def _free(self, chunk: Chunk, low: int, high: int) -> None:
        """Free the pages [low, high) of a chunk (kvm_gmem_free_folio, sev_gmem_invalidate)."""
        host = self.vm.kvm.host_rmp
        head = self._machine.rmp.effective(chunk.pa)
        whole = (low, high) == (0, CHUNK_PAGES)
        if head.assigned and head.size == PageSize.PG_2M:
            try:
                if whole:
                    host.make_shared(chunk.pa, PageSize.PG_2M)
                    self._machine.count("clflush", CHUNK_PAGES * PAGE_LINES)
                else:
                    host.psmash(chunk.pa)
            except KvmError:
                # The kernel warns and goes on; freeing memory has no errno to give.
                host.warn_invalidate(chunk.pa)
                chunk.state[low:high] = bytes(high - low)
                return
        chunk.huge = chunk.huge and whole
        freed = host.reclaim_range(chunk.pa + low * PAGE_SIZE, high - low)
        self._machine.count("clflush", freed * PAGE_LINES)
        chunk.state[low:high] = bytes(high - low)

    def release(self) -> None:
        """kvm_gmem_release: unbind every slot, free everything."""
        self.punch(0, -(-self.size // PAGE_SIZE))
        for slot in self._bindings:
            slot.gmem = None
        self._bindings.clear()
        self.vm.put()

    def ftruncate(self, length: int) -> None:
        """kvm_gmem_setattr refuses every change of size."""
        raise KvmError(errno.EINVAL)


def create(vm: Vm, size: int, flags: int) -> GmemFile:
    """kvm_gmem_create: no flags are known in 6.12; the size is a positive number of pages."""
    if flags:
        raise KvmError(errno.EINVAL)
    if size <= 0 or size >= 1 << 63 or size % PAGE_SIZE:
        raise KvmError(errno.EINVAL)
    return GmemFile(vm, size)
