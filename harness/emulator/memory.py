# SPDX-License-Identifier: GPL-2.0-only
"""Physical memory of the modelled machine: one flat mapping that costs only what is touched."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

PAGE_SIZE = 4096
PAGE_SIZE_2M = 2 << 20
PAGE_LINES = PAGE_SIZE // 64
"""Cache lines of a page: what CLFLUSH is counted in."""

_MAP_NORESERVE = 0x4000  # include/uapi/asm-generic/mman-common.h; module mmap lacks it before 3.13
_BULK = 1 << 16
"""Bytes from which giving pages back to the host is cheaper than writing zeroes."""

_ZEROES = bytes(_BULK)
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

# Documentation/admin-guide/mm/pagemap.rst (Linux 6.12): the page is present, or swapped out.
_PAGEMAP_PRESENT = np.uint64(3 << 62)


class BusError(Exception):
    """A physical address beyond the end of memory."""

    def __init__(self, pa: int, length: int) -> None:
        super().__init__(f"no memory at physical address 0x{pa:x} (length 0x{length:x})")
        self.pa, self.length = pa, length


class PhysicalMemory:
    """Bytes [0, size) by physical address; zero until written.

    Without `fd` the memory is private to this process; with it, a shared mapping of that file
    (a memfd of at least `size` bytes), so that another process may map the same memory.
    """

    def __init__(self, size: int = 256 << 30, fd: int | None = None) -> None:
        if size <= 0 or size % PAGE_SIZE:
            raise ValueError(f"memory size 0x{size:x} is not a positive multiple of 4 KiB")
        self.size = size
        self._fd = None if fd is None else os.dup(fd)
        if fd is None:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        else:
            flags = mmap.MAP_SHARED | _MAP_NORESERVE
        self._map = mmap.mmap(-1 if fd is None else fd, size, flags=flags)
        self._view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        """Host pointer to physical address 0."""

    def close(self) -> None:
        """Give all memory back; the empty mapping lives on while somebody holds a view of it."""
        if self._map.closed:
            return
        self._discard(0, self.size)
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self._unmap()

    def _unmap(self) -> None:
        self._view.release()
        try:
            self._map.close()
        except BufferError:
            self._map = mmap.mmap(-1, PAGE_SIZE)  # the old one goes with its last view
            self._map.close()

    def contains(self, pa: int, length: int) -> bool:
        """Whether there is memory behind all of these bytes."""
        return pa >= 0 and length >= 0 and pa + length <= self.size

    # -- bytes -----------------------------------------------------------------------------

    def read(self, pa: int, length: int) -> bytes:
        """Copy bytes out."""
        data = self._map[pa : pa + length]
        if pa < 0 or len(data) != length:
            raise BusError(pa, length)
        return data

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in."""
        end = pa + len(data)
        if pa < 0 or end > self.size:
            raise BusError(pa, len(data))
        self._view[pa:end] = data

    def view(self, pa: int, length: int) -> memoryview:
        """A writable window, no copy."""
        if pa < 0 or length < 0 or pa + length > self.size:
            raise BusError(pa, length)
        return self._view[pa : pa + length]

    def array(self, pa: int, count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A writable numpy array over memory, no copy."""
        kind: np.dtype[Any] = np.dtype(dtype)
        return np.frombuffer(self.view(pa, count * kind.itemsize), dtype=kind)

    def zero(self, pa: int, length: int) -> None:
        """Clear bytes; large ranges go back to the host."""
        if pa < 0 or length < 0 or pa + length > self.size:
            raise BusError(pa, length)
        if length < _BULK:
            self._view[pa : pa + length] = _ZEROES[:length]
            return
        start, end = -(-pa // PAGE_SIZE) * PAGE_SIZE, (pa + length) // PAGE_SIZE * PAGE_SIZE
        self._view[pa:start] = _ZEROES[: start - pa]
        self._view[end : pa + length] = _ZEROES[: pa + length - end]
        self._discard(start, end - start)

    def _discard(self, pa: int, length: int) -> None:
        self._map.madvise(mmap.MADV_DONTNEED if self._fd is None else mmap.MADV_REMOVE, pa, length)

    # -- integers, little endian -----------------------------------------------------------

    def read_u32(self, pa: int) -> int:
        """Read a 32-bit integer."""
        if not 0 <= pa <= self.size - 4:
            raise BusError(pa, 4)
        value: int = _U32.unpack_from(self._view, pa)[0]
        return value

    def read_u64(self, pa: int) -> int:
        """Read a 64-bit integer."""
        if not 0 <= pa <= self.size - 8:
            raise BusError(pa, 8)
        value: int = _U64.unpack_from(self._view, pa)[0]
        return value

    def write_u32(self, pa: int, value: int) -> None:
        """Write a 32-bit integer."""
        if not 0 <= pa <= self.size - 4:
            raise BusError(pa, 4)
        _U32.pack_into(self._view, pa, value)

    def write_u64(self, pa: int, value: int) -> None:
        """Write a 64-bit integer."""
        if not 0 <= pa <= self.size - 8:
            raise BusError(pa, 8)
        _U64.pack_into(self._view, pa, value)

    # -- what is in use --------------------------------------------------------------------

    def touched(self, pa: int, length: int) -> Iterator[tuple[int, int]]:
        """Ranges (start, end) within [pa, pa + length) outside of which every byte is zero.

        Reading memory that was never written would make the host allocate it.
        """
        if pa < 0 or length < 0 or pa + length > self.size:
            raise BusError(pa, length)
        ranges = self._pagemap(pa, length) if self._fd is None else extents(self._fd, pa, length)
        for start, end in ranges:
            yield max(start, pa), min(end, pa + length)

    def _pagemap(self, pa: int, length: int) -> Iterator[tuple[int, int]]:
        """Ask the page tables of this process."""
        first = (self.address + pa) // PAGE_SIZE
        last = -(-(self.address + pa + length) // PAGE_SIZE)
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek(first * 8)
            raw = np.frombuffer(file.read((last - first) * 8), dtype=np.uint64)
        if len(raw) != last - first:
            yield pa, pa + length
            return
        present = np.zeros(len(raw) + 2, dtype=np.int8)
        present[1:-1] = (raw & _PAGEMAP_PRESENT) != 0
        edges = np.flatnonzero(np.diff(present)) * PAGE_SIZE + pa // PAGE_SIZE * PAGE_SIZE
        yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def extents(fd: int, offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Where a file has data within [offset, offset + length), in whole pages (start, end)."""
    end = offset
    while end < offset + length:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # ENXIO: no data up to the end of the file
            return
        if start >= offset + length:
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


class FrameAllocator:
    """Frames of physical memory in [start, end), lowest address first.

    What is allocated is zero, because memory begins so and `free` clears it.  Leaking a frame
    is simply never freeing it.
    """

    def __init__(self, memory: PhysicalMemory, start: int, end: int) -> None:
        if start % PAGE_SIZE or end % PAGE_SIZE or not 0 <= start <= end <= memory.size:
            raise ValueError(f"bad frame range 0x{start:x}-0x{end:x}")
        self._memory = memory
        self._start, self._end = start, end
        self._starts, self._ends = ([start], [end]) if start < end else ([], [])
        self.allocated = 0
        """Bytes handed out."""

    def alloc(self, length: int, align: int = PAGE_SIZE) -> int:
        """Hand out `length` contiguous bytes; MemoryError when there are none."""
        if length <= 0 or length % PAGE_SIZE or align < PAGE_SIZE or align & (align - 1):
            raise ValueError(f"cannot allocate 0x{length:x} bytes aligned to 0x{align:x}")
        starts, ends = self._starts, self._ends
        for index, start in enumerate(starts):
            pa, end = (start + align - 1) & -align, ends[index]
            if pa + length > end:
                continue
            if pa == start and pa + length == end:
                del starts[index], ends[index]
            elif pa == start:
                starts[index] = pa + length
            elif pa + length == end:
                ends[index] = pa
            else:
                ends[index] = pa
                starts.insert(index + 1, pa + length)
                ends.insert(index + 1, end)
            self.allocated += length
            return pa
        raise MemoryError(f"no 0x{length:x} free bytes of physical memory aligned to 0x{align:x}")

    def free(self, pa: int, length: int) -> None:
        """Take back what was allocated, wholly or in part, and clear it."""
        end = pa + length
        if length <= 0 or length % PAGE_SIZE or pa % PAGE_SIZE:
            raise ValueError(f"cannot free 0x{length:x} bytes at 0x{pa:x}")
        starts, ends = self._starts, self._ends
        left = bisect_right(starts, pa) - 1
        right = bisect_left(starts, pa)
        taken = (left >= 0 and ends[left] > pa) or (right < len(starts) and starts[right] < end)
        if taken or pa < self._start or end > self._end:
            raise ValueError(f"0x{pa:x}-0x{end:x} is not allocated")
        self._memory.zero(pa, length)
        self.allocated -= length
        joins_left = left >= 0 and ends[left] == pa
        joins_right = right < len(starts) and starts[right] == end
        if joins_left and joins_right:
            ends[left] = ends[right]
            del starts[right], ends[right]
        elif joins_left:
            ends[left] = end
        elif joins_right:
            starts[right] = pa
        else:
            starts.insert(right, pa)
            ends.insert(right, end)
