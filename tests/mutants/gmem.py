# SPDX-License-Identifier: GPL-2.0-only
"""Breakages that the suite gmem must catch."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_KVM: Final = "harness/emulator/kvm/"
_GMEM: Final = _KVM + "gmem.py"
_MMU: Final = _KVM + "mmu.py"
_SLOTS: Final = _KVM + "slots.py"
_VM: Final = _KVM + "vm.py"
_VCPU: Final = _KVM + "vcpu.py"
_HOST_RMP: Final = _KVM + "hostrmp.py"


def _mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    nodes = tuple(f"suites/gmem/test_{test}" for test in tests)
    return Mutant(name=f"gmem: {name}", file=file, old=old, new=new, tests=nodes)


MUTANTS: Final = (
    _mutant(
        "any flag at creation",
        _GMEM,
        "    if flags:\n        raise KvmError(errno.EINVAL)",
        "    if flags < 0:\n        raise KvmError(errno.EINVAL)",
        "creation.py::test_unknown_flags",
    ),
    _mutant(
        "any size at creation",
        _GMEM,
        "if size <= 0 or size >= 1 << 63 or size % PAGE_SIZE:",
        "if size <= 0 or size >= 1 << 63:",
        "creation.py::test_bad_size",
    ),
    _mutant(
        "bindings overlap",
        _GMEM,
        "if other.gmem_index < index + slot.npages and index < other.gmem_index + other.npages:",
        "if other.gmem_index == index + slot.npages:",
        "creation.py::test_overlapping_binding",
    ),
    _mutant(
        "binding is never undone",
        _GMEM,
        "        self._bindings.remove(slot)\n",
        "",
        "creation.py::test_free_again_after_deletion",
    ),
    _mutant(
        "binding beyond the end",
        _SLOTS,
        "self._check(offset + slot.npages * PAGE_SIZE <= file.size)",
        "self._check(offset <= file.size)",
        "creation.py::test_binding_outside_the_file",
    ),
    _mutant(
        "file of any VM",
        _SLOTS,
        "        self._check(file.vm is self._vm)\n",
        "",
        "creation.py::test_file_of_another_vm",
    ),
    _mutant(
        "slots overlap",
        _SLOTS,
        "if other.base_gfn < base + npages and base < other.base_gfn + other.npages:",
        "if other.base_gfn == base + npages:",
        "creation.py::test_overlapping_slots",
    ),
    _mutant(
        "slots with guest_memfd can move",
        _SLOTS,
        "            self._check(not gmem)\n",
        "",
        "creation.py::test_slots_with_it_are_immutable",
    ),
    _mutant(
        "fallocate changes the size",
        _GMEM,
        "if not mode & FALLOC_FL_KEEP_SIZE or mode &",
        "if mode &",
        "creation.py::test_bad_fallocate",
    ),
    _mutant(
        "fallocate beyond the end",
        _GMEM,
        "        if not hole and offset + length > self.size:\n"
        "            raise KvmError(errno.EINVAL)\n",
        "",
        "creation.py::test_bad_fallocate",
    ),
    _mutant(
        "truncation",
        _GMEM,
        '        """kvm_gmem_setattr refuses every change of size."""\n'
        "        raise KvmError(errno.EINVAL)",
        '        """kvm_gmem_setattr refuses every change of size."""\n        self.size = length',
        "creation.py::test_size_is_fixed",
    ),
    _mutant(
        "the host maps it",
        _GMEM,
        "    def ftruncate(self, length: int) -> None:",
        "    def mmap(self, length: int, offset: int) -> int:\n"
        "        return self._chunk(0).pa\n\n"
        "    def ftruncate(self, length: int) -> None:",
        "creation.py::test_host_cannot_map_it",
    ),
    _mutant(
        "unknown attributes",
        _VM,
        "if wanted.flags or wanted.attributes & ~supported:",
        "if wanted.flags:",
        "attributes.py::test_bad_input",
    ),
    _mutant(
        "attributes do not unmap",
        _VM,
        "            vm.mmu.zap(start, end)\n",
        "",
        "attributes.py::test_change_unmaps_only_its_range",
        "attributes.py::test_wrong_access_goes_to_userspace",
    ),
    _mutant(
        "attributes one page too many",
        _VM,
        "    vm.private.set(start, end, private)",
        "    vm.private.set(start, end + 1, private)",
        "attributes.py::test_many_ranges",
        "attributes.py::test_change_unmaps_only_its_range",
    ),
    _mutant(
        "attributes do not matter",
        _MMU,
        "if private != (gfn in vm.private):",
        "if False:",
        "attributes.py::test_wrong_access_goes_to_userspace",
    ),
    _mutant(
        "memory fault of the other kind",
        _MMU,
        "            raise MemoryFault(gfn * PAGE_SIZE, PAGE_SIZE, private, errno.EFAULT)\n"
        "        slot = vm.slots.find(gfn)",
        "            raise MemoryFault(gfn * PAGE_SIZE, PAGE_SIZE, not private, errno.EFAULT)\n"
        "        slot = vm.slots.find(gfn)",
        "attributes.py::test_wrong_access_goes_to_userspace",
    ),
    _mutant(
        "private MMIO",
        _MMU,
        "            if private:\n                raise MemoryFault(",
        "            if False:\n                raise MemoryFault(",
        "attributes.py::test_no_slot",
    ),
    _mutant(
        "private memory of any slot",
        _MMU,
        "        if private:\n            self._map_private(slot, gfn)",
        "        if private and slot.can_be_private:\n            self._map_private(slot, gfn)",
        "attributes.py::test_private_in_a_slot_without_guest_memfd",
    ),
    _mutant(
        "2 MiB over shared pages",
        _GMEM,
        "            and self.vm.private.covers(base, base + CHUNK_PAGES)\n",
        "",
        "assign.py::test_mixed_range_is_small",
    ),
    _mutant(
        "2 MiB without alignment",
        _GMEM,
        "            and slot.index(base) == index\n",
        "",
        "assign.py::test_misaligned_slot_is_small",
    ),
    _mutant(
        "2 MiB at the GPA of the fault",
        _GMEM,
        "gpa = (gfn & ~(CHUNK_PAGES - 1)) * PAGE_SIZE",
        "gpa = gfn * PAGE_SIZE",
        "assign.py::test_touch_assigns",
    ),
    _mutant(
        "never 2 MiB",
        _GMEM,
        "if chunk.huge and not host.assigned(chunk.pa, CHUNK_PAGES):",
        "if False:",
        "faults.py::test_small_validation_of_a_large_entry",
        "assign.py::test_touch_assigns",
        "reclaim.py::test_hole_gives_the_rmp_back",
    ),
    _mutant(
        "pages of ASID 1",
        _GMEM,
        "host.make_private(chunk.pa, gpa, PageSize.PG_2M, self.vm.asid)",
        "host.make_private(chunk.pa, gpa, PageSize.PG_2M, 1)",
        "assign.py::test_two_guests_have_their_own",
    ),
    _mutant(
        "pages are not cleared",
        _GMEM,
        "        self._machine.clear(pa, count * PAGE_SIZE)\n",
        "",
        "reclaim.py::test_hole_is_empty",
        "reclaim.py::test_memory_is_empty_for_the_host",
    ),
    _mutant(
        "holes keep the RMP",
        _GMEM,
        "        freed = host.reclaim_range(chunk.pa + low * PAGE_SIZE, high - low)",
        "        freed = 0",
        "reclaim.py::test_hole_gives_the_rmp_back",
    ),
    _mutant(
        "holes are a page short",
        _HOST_RMP,
        "assigned = np.flatnonzero(self._rmp.lo[pfn : pfn + npages] & 1)",
        "assigned = np.flatnonzero(self._rmp.lo[pfn : pfn + npages - 1] & 1)",
        "reclaim.py::test_hole_gives_the_rmp_back",
    ),
    _mutant(
        "holes take everything",
        _GMEM,
        "self._free(chunk, max(start, base) - base, min(end, base + CHUNK_PAGES) - base)",
        "self._free(chunk, 0, CHUNK_PAGES)",
        "reclaim.py::test_hole_in_a_large_page",
    ),
    _mutant(
        "holes stay mapped",
        _GMEM,
        "        self._invalidate(start, end)\n        first",
        "        first",
        "reclaim.py::test_hole_is_empty",
        "faults.py::test_hole_under_a_running_guest",
    ),
    _mutant(
        "caches are not flushed",
        _GMEM,
        '        self._machine.count("clflush", freed * PAGE_LINES)\n',
        "",
        "reclaim.py::test_hole_costs_no_wbinvd",
    ),
    _mutant(
        "caches are flushed whole",
        _GMEM,
        '        self._machine.count("clflush", freed * PAGE_LINES)\n',
        '        self._machine.count("clflush", freed * PAGE_LINES)\n'
        "        self.vm.kvm.ccp.wbinvd()\n",
        "reclaim.py::test_hole_costs_no_wbinvd",
    ),
    _mutant(
        "slot deletion stays mapped",
        _SLOTS,
        "        self._vm.mmu.zap(slot.base_gfn, slot.base_gfn + slot.npages)\n",
        "",
        "reclaim.py::test_slot_deletion_unmaps",
    ),
    _mutant(
        "closed file keeps its memory",
        _GMEM,
        "        self.punch(0, -(-self.size // PAGE_SIZE))\n",
        "        self._invalidate(0, -(-self.size // PAGE_SIZE))\n",
        "reclaim.py::test_end_of_the_vm",
    ),
    _mutant(
        "RMP faults are all spurious",
        _MMU,
        "        if entry.size == PageSize.PG_4K:",
        "        if True:",
        "faults.py::test_small_validation_of_a_large_entry",
    ),
    _mutant(
        "mapping level beyond the RMP",
        _MMU,
        "return entry.size if entry.assigned else PageSize.PG_4K",
        "return PageSize.PG_2M",
        "assign.py::test_level_is_limited_by_the_rmp",
        "reclaim.py::test_hole_in_a_large_page",
        "faults.py",
    ),
    _mutant(
        "pre-fault before the launch is done",
        _VCPU,
        "        if not vm.pre_fault_allowed:",
        "        if False:",
        "faults.py::test_no_pre_fault_before_the_launch_is_done",
    ),
    _mutant(
        "pre-fault maps nothing",
        _VCPU,
        "            resolution = vm.mmu.fault(gpa, PFERR_GUEST_ENC_MASK if private else 0)",
        "            resolution = Resolution.RETRY",
        "faults.py::test_pre_fault_assigns",
        "faults.py::test_pre_fault_stops_at_the_end",
    ),
    _mutant(
        "pre-fault keeps its progress to itself",
        _VCPU,
        "    wanted.gpa += done\n    wanted.size -= done\n",
        "",
        "faults.py::test_pre_fault",
        "faults.py::test_pre_fault_stops_at_the_end",
    ),
    _mutant(
        "no flush of what was unmapped",
        _MMU,
        "        if removed:\n            self.flush()",
        "        if removed and not removed:\n            self.flush()",
        "tlb.py::test_unmapped_and_flushed",
    ),
    _mutant(
        "half a page is flushed",
        _GMEM,
        '        self._machine.count("clflush", freed * PAGE_LINES)\n',
        '        self._machine.count("clflush", freed * PAGE_LINES // 2)\n',
        "reclaim.py::test_hole_costs_no_wbinvd",
    ),
    _mutant(
        "a hole is seen by one slot",
        _GMEM,
        "                self.vm.mmu.zap(low + shift, high + shift)\n",
        "                self.vm.mmu.zap(low + shift, high + shift)\n                break\n",
        "reclaim.py::test_hole_in_two_slots",
    ),
)
