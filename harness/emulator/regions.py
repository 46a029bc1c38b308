# SPDX-License-Identifier: GPL-2.0-only
"""Physical memory that another process owns: several files, holes between them.

A PC has memory below and above the window of its devices below 4 GiB.  The regions are mapped
side by side into one range of addresses, so that whatever lies within them is one flat mapping;
what touches a hole is a BusError.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.emulator.memory import PAGE_SIZE, BusError, PhysicalMemory, extents

_MAP_FIXED = 0x10  # include/uapi/asm-generic/mman-common.h
_MAP_FAILED = ctypes.c_void_p(-1).value
_LIMIT = 1 << 46
"""What x86 maps for user space, less room for everything else of this process."""


@dataclass(frozen=True)
class Region:
    """`size` bytes at physical address `pa`: those of a file from `offset` on."""

    pa: int
    size: int
    offset: int
    fd: int

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.pa + self.size


class RegionMemory(PhysicalMemory):
    """Shared mappings of files; `size` is the end of the highest region.

    ValueError for regions that overlap, are not whole pages or go beyond their file.  The
    descriptors are duplicated, the caller keeps its own.  close() leaves the content alone: it
    is the other process's.
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        ordered = sorted(regions, key=lambda region: region.pa)
        _check(ordered)
        super().__init__(ordered[-1].end)
        for region in ordered:
            _map(self.address + region.pa, region)
        self.regions = tuple(
            Region(each.pa, each.size, each.offset, os.dup(each.fd)) for each in ordered
        )
        merged: list[list[int]] = []
        for region in ordered:
            if merged and merged[-1][1] == region.pa:
                merged[-1][1] = region.end
            else:
                merged.append([region.pa, region.end])
        self._starts = [start for start, _ in merged]
        self._ends = [end for _, end in merged]

    def close(self) -> None:
        """Unmap everything; the empty mapping lives on while somebody holds a view of it."""
        if self._map.closed:
            return
        self._starts = self._ends = []
        for region in self.regions:
            os.close(region.fd)
        self._unmap()

    def contains(self, pa: int, length: int) -> bool:
        """Whether there is memory, and no hole, behind all of these bytes."""
        index = bisect_right(self._starts, pa) - 1
        return index >= 0 and length >= 0 and pa + length <= self._ends[index]

    def _require(self, pa: int, length: int) -> None:
        if not self.contains(pa, length):
            raise BusError(pa, length)

    def read(self, pa: int, length: int) -> bytes:
        """Copy bytes out."""
        self._require(pa, length)
        return super().read(pa, length)

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in."""
        self._require(pa, len(data))
        super().write(pa, data)

    def view(self, pa: int, length: int) -> memoryview:
        """A writable window, no copy."""
        self._require(pa, length)
        return super().view(pa, length)

    def zero(self, pa: int, length: int) -> None:
        """Clear bytes; large ranges go back to the host."""
        self._require(pa, length)
        super().zero(pa, length)

    def read_u32(self, pa: int) -> int:
        """Read a 32-bit integer."""
        self._require(pa, 4)
        return super().read_u32(pa)

    def read_u64(self, pa: int) -> int:
        """Read a 64-bit integer."""
        self._require(pa, 8)
        return super().read_u64(pa)

    def write_u32(self, pa: int, value: int) -> None:
        """Write a 32-bit integer."""
        self._require(pa, 4)
        super().write_u32(pa, value)

    def write_u64(self, pa: int, value: int) -> None:
        """Write a 64-bit integer."""
        self._require(pa, 8)
        super().write_u64(pa, value)

    def touched(self, pa: int, length: int) -> Iterator[tuple[int, int]]:
        """Ranges (start, end) within [pa, pa + length) outside of which every byte is zero."""
        self._require(pa, length)
        for region in self.regions:
            first, last = max(pa, region.pa), min(pa + length, region.end)
            if first < last:
                shift = region.pa - region.offset
                for start, end in extents(region.fd, first - shift, last - first):
                    yield max(start + shift, first), min(end + shift, last)

    def _discard(self, pa: int, length: int) -> None:
        if length:
            self._map.madvise(mmap.MADV_REMOVE, pa, length)


def _check(ordered: Sequence[Region]) -> None:
    if not ordered:
        raise ValueError("no memory at all")
    end = 0
    for region in ordered:
        if region.size <= 0 or (region.pa | region.size | region.offset) % PAGE_SIZE:
            raise ValueError(f"region at 0x{region.pa:x} does not consist of whole pages")
        if region.pa < end:
            raise ValueError(f"region at 0x{region.pa:x} overlaps the one before it")
        end = region.end
        if end > _LIMIT:
            raise ValueError(f"region at 0x{region.pa:x} ends beyond what can be mapped")
        if region.offset + region.size > os.fstat(region.fd).st_size:
            raise ValueError(f"region at 0x{region.pa:x} is larger than its file")


def _map(address: int, region: Region) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    flags = mmap.MAP_SHARED | _MAP_FIXED
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    mapped = libc.mmap(address, region.size, protection, flags, region.fd, region.offset)
    if mapped == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot map 0x{region.size:x} bytes: {os.strerror(code)}")
