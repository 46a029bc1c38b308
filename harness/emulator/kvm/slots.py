# SPDX-License-Identifier: GPL-2.0-only
"""Memory slots: KVM_SET_USER_MEMORY_REGION and its second version (virt/kvm/kvm_main.c, 6.12)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.usermem import TASK_SIZE
from harness.emulator.memory import PAGE_SIZE
from harness.uapi import kvm as uapi

if TYPE_CHECKING:
    from harness.emulator.kvm.files import Call
    from harness.emulator.kvm.gmem import GmemFile
    from harness.emulator.kvm.vm import Vm

KVM_USER_MEM_SLOTS = 32764
"""KVM_MEM_SLOTS_NUM less the internal ones (x86: SHRT_MAX - 3)."""
KVM_MEM_MAX_NR_PAGES = (1 << 31) - 1


@dataclass(eq=False, slots=True)
class Slot:
    """One memory slot; `gmem` is None once its file was closed."""

    id: int
    base_gfn: int
    npages: int
    flags: int
    userspace_addr: int
    gmem: GmemFile | None = None
    gmem_index: int = 0

    @property
    def can_be_private(self) -> bool:
        """kvm_slot_can_be_private: the slot was made with a guest_memfd."""
        return bool(self.flags & uapi.KVM_MEM_GUEST_MEMFD)

    def covers(self, gfn: int) -> bool:
        """Whether the frame lies in the slot."""
        return self.base_gfn <= gfn < self.base_gfn + self.npages

    def index(self, gfn: int) -> int:
        """Page index in the guest_memfd of a frame of this slot."""
        return gfn - self.base_gfn + self.gmem_index


class Slots:
    """The memory slots of one VM."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._by_id: dict[int, Slot] = {}

    def find(self, gfn: int) -> Slot | None:
        """gfn_to_memslot."""
        for slot in self._by_id.values():
            if slot.covers(gfn):
                return slot
        return None

    def set_region(self, call: Call, region: uapi.kvm_userspace_memory_region2) -> int:
        """__kvm_set_memory_region, checks in the kernel's order."""
        valid = uapi.KVM_MEM_LOG_DIRTY_PAGES
        if self._vm.has_private_memory:
            valid |= uapi.KVM_MEM_GUEST_MEMFD
        gmem = bool(region.flags & uapi.KVM_MEM_GUEST_MEMFD)
        if gmem:
            valid &= ~uapi.KVM_MEM_LOG_DIRTY_PAGES
        elif self._vm.interface.protected_readonly_slots or not self._vm.has_protected_state:
            valid |= uapi.KVM_MEM_READONLY
        self._check(not region.flags & ~valid)
        self._check(region.memory_size % PAGE_SIZE == 0)
        self._check(region.guest_phys_addr % PAGE_SIZE == 0)
        self._check(region.userspace_addr % PAGE_SIZE == 0)
        self._check(region.userspace_addr + region.memory_size <= TASK_SIZE)
        if gmem:
            self._check(region.guest_memfd_offset % PAGE_SIZE == 0)
            self._check(region.guest_memfd_offset + region.memory_size < 1 << 64)
        self._check(region.slot < KVM_USER_MEM_SLOTS)
        self._check(region.guest_phys_addr + region.memory_size < 1 << 64)
        self._check(region.memory_size // PAGE_SIZE <= KVM_MEM_MAX_NR_PAGES)
        old = self._by_id.get(region.slot)
        if region.memory_size == 0:
            self._check(old is not None)
            assert old is not None
            self._delete(old)
            return 0
        base, npages = region.guest_phys_addr // PAGE_SIZE, region.memory_size // PAGE_SIZE
        new = Slot(region.slot, base, npages, region.flags, region.userspace_addr)
        if old is not None:
            self._check(not gmem)
            self._check(old.userspace_addr == new.userspace_addr and old.npages == npages)
            fixed = uapi.KVM_MEM_READONLY | uapi.KVM_MEM_GUEST_MEMFD
            self._check(not (old.flags ^ new.flags) & fixed)
            if old.base_gfn == base and old.flags == new.flags:
                return 0
        for other in self._by_id.values():
            if other is old:
                continue
            if other.base_gfn < base + npages and base < other.base_gfn + other.npages:
                raise KvmError(errno.EEXIST)
        if gmem:
            self._bind(call, new, region.guest_memfd, region.guest_memfd_offset)
        if old is not None:
            self._delete(old)
        self._by_id[new.id] = new
        return 0

    def _bind(self, call: Call, slot: Slot, fd: int, offset: int) -> None:
        """kvm_gmem_bind."""
        from harness.emulator.kvm.gmem import GmemFile

        file = call.process.files.get(fd)
        self._check(isinstance(file, GmemFile))
        assert isinstance(file, GmemFile)
        self._check(file.vm is self._vm)
        self._check(offset + slot.npages * PAGE_SIZE <= file.size)
        file.bind(slot, offset // PAGE_SIZE)

    def _delete(self, slot: Slot) -> None:
        self._vm.mmu.zap(slot.base_gfn, slot.base_gfn + slot.npages)
        if slot.gmem is not None:
            slot.gmem.unbind(slot)
        del self._by_id[slot.id]

    @staticmethod
    def _check(condition: bool) -> None:
        if not condition:
            raise KvmError(errno.EINVAL)
