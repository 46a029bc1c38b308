# SPDX-License-Identifier: GPL-2.0-only
"""The address space of the emulated process that holds /dev/kvm.

Each mapping is one contiguous physical range, so a translation is one bisection.
"""

from __future__ import annotations

import bisect
import errno
from dataclasses import dataclass

from harness.emulator.kvm.errors import KvmError
from harness.emulator.memory import PAGE_SIZE, PAGE_SIZE_2M, FrameAllocator, PhysicalMemory

MMAP_BASE = 0x7F00_0000_0000
TASK_SIZE = 0x7FFF_FFFF_F000


@dataclass(frozen=True, slots=True)
class Region:
    """A mapping: [address, address + length) is physical [pa, pa + length)."""

    address: int
    length: int
    pa: int
    owned: bool


class UserMemory:
    """mmap, munmap and copies to and from user space; a bad address is EFAULT."""

    def __init__(self, memory: PhysicalMemory, frames: FrameAllocator) -> None:
        self._memory = memory
        self._frames = frames
        self._starts: list[int] = []
        self._regions: list[Region] = []
        self._next = MMAP_BASE

    def map(self, length: int, pa: int | None = None) -> int:
        """Map anonymous memory, or the given physical range; returns the address."""
        if length <= 0:
            raise KvmError(errno.EINVAL)
        length = -(-length // PAGE_SIZE) * PAGE_SIZE
        align = PAGE_SIZE_2M if length >= PAGE_SIZE_2M else PAGE_SIZE
        owned = pa is None
        if pa is None:
            try:
                pa = self._frames.alloc(length, align)
            except MemoryError:
                raise KvmError(errno.ENOMEM) from None
        address = -(-self._next // align) * align
        if address + length > TASK_SIZE:
            if owned:
                self._frames.free(pa, length)
            raise KvmError(errno.ENOMEM)
        self._next = address + length + PAGE_SIZE
        index = bisect.bisect(self._starts, address)
        self._starts.insert(index, address)
        self._regions.insert(index, Region(address, length, pa, owned))
        return address

    def unmap(self, address: int, length: int) -> None:
        """Unmap exactly one whole mapping."""
        region = self._find(address)
        length = -(-length // PAGE_SIZE) * PAGE_SIZE
        if region is None or region.address != address or region.length != length:
            raise KvmError(errno.EINVAL)
        index = self._starts.index(address)
        del self._starts[index], self._regions[index]
        if region.owned:
            self._frames.free(region.pa, region.length)

    def _find(self, address: int) -> Region | None:
        index = bisect.bisect(self._starts, address) - 1
        if index < 0:
            return None
        region = self._regions[index]
        return region if address < region.address + region.length else None

    def translate(self, address: int, length: int = 1) -> int:
        """Physical address of a user range that lies inside one mapping; EFAULT otherwise."""
        region = self._find(address)
        if region is None or address + length > region.address + region.length:
            raise KvmError(errno.EFAULT)
        return region.pa + address - region.address

    def read(self, address: int, length: int) -> bytes:
        """copy_from_user."""
        return self._memory.read(self.translate(address, length), length) if length else b""

    def write(self, address: int, data: bytes) -> None:
        """copy_to_user."""
        if data:
            self._memory.write(self.translate(address, len(data)), data)

    def release(self) -> None:
        """Drop every mapping (exit of the process)."""
        for region in self._regions:
            if region.owned:
                self._frames.free(region.pa, region.length)
        self._starts.clear()
        self._regions.clear()
