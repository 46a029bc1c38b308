# SPDX-License-Identifier: GPL-2.0-only
"""KVM's MMU: nested page tables, nested page faults, RMP faults.

arch/x86/kvm/mmu and svm/sev.c, Linux 6.12.
"""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING

from harness.emulator.kvm.errors import KvmError
from harness.emulator.memory import PAGE_SIZE
from harness.emulator.rmp import PageSize
from harness.uapi import kvm as uapi
from harness.uapi.sev import PFERR_GUEST_ENC_MASK, PFERR_GUEST_RMP_MASK, PFERR_WRITE_MASK

if TYPE_CHECKING:
    from harness.emulator.kvm.slots import Slot
    from harness.emulator.kvm.vm import Vm

HUGE_PAGES = 512


class MemoryFault(Exception):
    """A fault for userspace: KVM_EXIT_MEMORY_FAULT, and KVM_RUN fails with `errno`."""

    def __init__(self, gpa: int, size: int, private: bool, errno: int) -> None:
        super().__init__(f"memory fault at {gpa:#x}")
        self.gpa = gpa
        self.size = size
        self.private = private
        self.errno = errno


class Resolution(enum.Enum):
    """How a nested page fault ended."""

    RETRY = enum.auto()
    MMIO = enum.auto()


class Mmu:
    """The nested page table of one VM and what changes it."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._small: dict[int, tuple[int, bool, PageSize]] = {}
        self._huge: dict[int, tuple[int, bool, PageSize]] = {}
        self.generation = 0
        """Counts flushes: a vCPU whose TLB is older must flush before it runs on."""
        self.faults: dict[str, int] = {}

    # -- what the hardware walks -----------------------------------------------------------

    def lookup(self, gfn: int) -> tuple[int, bool, PageSize] | None:
        """The mapping of a frame: (physical address of its 4 KiB page, writable, NPT page size)."""
        entry = self._small.get(gfn)
        if entry is not None:
            return entry
        huge = self._huge.get(gfn // HUGE_PAGES)
        if huge is None:
            return None
        return huge[0] + gfn % HUGE_PAGES * PAGE_SIZE, huge[1], huge[2]

    def zap(self, start: int, end: int) -> None:
        """Unmap the frames [start, end) and flush every TLB that may hold them."""
        removed = _remove(self._small, start, end)
        removed |= _remove(self._huge, start // HUGE_PAGES, -(-end // HUGE_PAGES))
        if removed:
            self.flush()

    def flush(self) -> None:
        """kvm_flush_remote_tlbs."""
        self.generation += 1
        self._vm.machine.count("tlb_flush")

    # -- faults ----------------------------------------------------------------------------

    def fault(self, gpa: int, error_code: int) -> Resolution:
        """Resolve a nested page fault (npf_interception); raises MemoryFault or KvmError."""
        vm = self._vm
        private = bool(error_code & PFERR_GUEST_ENC_MASK) if vm.sev_snp else gpa >> 12 in vm.private
        self._count("private" if private else "shared")
        resolution = self._map(gpa >> 12, private, bool(error_code & PFERR_WRITE_MASK))
        if vm.sev_snp and error_code & PFERR_GUEST_RMP_MASK:
            self._count("rmp")
            self.rmp_fault(gpa)
        return resolution

    def _count(self, kind: str) -> None:
        self._vm.machine.count(f"npf_{kind}")

    def _map(self, gfn: int, private: bool, write: bool) -> Resolution:
        """kvm_tdp_page_fault down to the mapping."""
        vm = self._vm
        if private != (gfn in vm.private):
            raise MemoryFault(gfn * PAGE_SIZE, PAGE_SIZE, private, errno.EFAULT)
        slot = vm.slots.find(gfn)
        if slot is None:
            if private:
                raise MemoryFault(gfn * PAGE_SIZE, PAGE_SIZE, private, errno.EFAULT)
            return Resolution.MMIO
        if private:
            self._map_private(slot, gfn)
        elif write and slot.flags & uapi.KVM_MEM_READONLY:
            return Resolution.MMIO
        else:
            self._map_shared(slot, gfn)
        return Resolution.RETRY

    def _map_shared(self, slot: Slot, gfn: int) -> None:
        address = slot.userspace_addr + (gfn - slot.base_gfn) * PAGE_SIZE
        pa = self._vm.kvm.process.memory.translate(address, PAGE_SIZE)
        writable = not slot.flags & uapi.KVM_MEM_READONLY
        self._small[gfn] = (pa, writable, PageSize.PG_4K)

    def _map_private(self, slot: Slot, gfn: int) -> None:
        """kvm_mmu_faultin_pfn_private; the level is what the RMP says."""
        if not slot.can_be_private:
            raise MemoryFault(gfn * PAGE_SIZE, PAGE_SIZE, True, errno.EFAULT)
        if slot.gmem is None:
            raise MemoryFault(gfn * PAGE_SIZE, PAGE_SIZE, True, errno.EFAULT)
        try:
            pa, huge = slot.gmem.get_pfn(slot, gfn)
        except KvmError as error:
            raise MemoryFault(gfn * PAGE_SIZE, PAGE_SIZE, True, error.errno) from error
        base = gfn - gfn % HUGE_PAGES
        if (
            huge
            and self._level(pa) == PageSize.PG_2M
            and self._vm.private.covers(base, base + HUGE_PAGES)
        ):
            self._huge[gfn // HUGE_PAGES] = (
                pa - gfn % HUGE_PAGES * PAGE_SIZE,
                True,
                PageSize.PG_2M,
            )
        else:
            self._small[gfn] = (pa, True, PageSize.PG_4K)

    def _level(self, pa: int) -> PageSize:
        """sev_private_max_mapping_level: 2 MiB only where the RMP entry is."""
        if not self._vm.sev_snp:
            return PageSize.PG_2M
        entry = self._vm.machine.rmp.effective(pa)
        return entry.size if entry.assigned else PageSize.PG_4K

    def rmp_fault(self, gpa: int) -> None:
        """sev_handle_rmp_fault: split a 2 MiB RMP entry, or take the fault for spurious."""
        vm, gfn = self._vm, gpa >> 12
        slot = vm.slots.find(gfn)
        if gfn not in vm.private:
            self._warn(f"SEV: Unexpected RMP fault for non-private GPA 0x{gpa:x}")
            return
        if slot is None or not slot.can_be_private:
            self._warn(f"SEV: Unexpected RMP fault, non-private slot for GPA 0x{gpa:x}")
            return
        try:
            pa = slot.gmem.get_pfn(slot, gfn)[0] if slot.gmem else None
        except KvmError:
            pa = None
        if pa is None:
            self._warn(f"SEV: Unexpected RMP fault, no backing page for private GPA 0x{gpa:x}")
            return
        entry = vm.machine.rmp.effective(pa)
        if not entry.assigned:
            self._warn(f"SEV: Unexpected RMP fault, no assigned RMP entry found for GPA 0x{gpa:x}")
            return
        if entry.size == PageSize.PG_4K:
            self._count("rmp_spurious")
            return
        try:
            vm.kvm.host_rmp.psmash(pa)
        except KvmError:
            self._warn(f"SEV: Unable to split RMP entry for GPA 0x{gpa:x}")
        self.zap(gfn & ~(HUGE_PAGES - 1), (gfn & ~(HUGE_PAGES - 1)) + HUGE_PAGES)

    def _warn(self, line: str) -> None:
        self._vm.machine.printk(line)


def _remove(entries: dict[int, tuple[int, bool, PageSize]], start: int, end: int) -> bool:
    """Drop the keys in [start, end); returns whether there were any."""
    if end - start < len(entries):
        keys = [key for key in range(start, end) if key in entries]
    else:
        keys = [key for key in entries if start <= key < end]
    for key in keys:
        del entries[key]
    return bool(keys)
