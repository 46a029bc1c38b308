# SPDX-License-Identifier: GPL-2.0-only
"""Physical memory and the allocator of its frames."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.emulator.memory import (
    PAGE_SIZE,
    PAGE_SIZE_2M,
    BusError,
    FrameAllocator,
    PhysicalMemory,
)

SIZE = 16 << 20


@pytest.fixture(params=["private", "shared"])
def memory(request: pytest.FixtureRequest) -> Iterator[PhysicalMemory]:
    if request.param == "private":
        made = PhysicalMemory(SIZE)
    else:
        fd = os.memfd_create("memory")
        os.ftruncate(fd, SIZE)
        made = PhysicalMemory(SIZE, fd)
        os.close(fd)
    yield made
    made.close()


def test_a_quarter_terabyte_costs_nothing() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = PhysicalMemory()
    memory.write_u64(memory.size - 8, 1)
    assert memory.size == 256 << 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB
    memory.close()


def test_what_is_written_is_read(memory: PhysicalMemory) -> None:
    memory.write(0x1FFE, b"across")
    assert memory.read(0x1FFD, 8) == b"\0across\0"


def test_integers_are_little_endian_and_need_no_alignment(memory: PhysicalMemory) -> None:
    memory.write_u64(3, 0x8877665544332211)
    assert memory.read(3, 8) == bytes([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88])
    assert (memory.read_u64(3), memory.read_u32(7)) == (0x8877665544332211, 0x88776655)
    memory.write_u32(3, 0xAABBCCDD)
    assert memory.read_u64(3) == 0x88776655AABBCCDD


def test_views_and_arrays_share_the_bytes(memory: PhysicalMemory) -> None:
    view, array = memory.view(0x2000, 16), memory.array(0x2000, 2, np.uint64)
    memory.write_u64(0x2008, 5)
    array[0] = 7
    assert view[0] == 7
    assert array.tolist() == [7, 5]
    view[8:16] = bytes(8)
    assert memory.read_u64(0x2008) == 0


@pytest.mark.parametrize("pa", [-8, -5, SIZE - 7, SIZE, SIZE + PAGE_SIZE, 1 << 60])
def test_beyond_the_end_is_a_bus_error(memory: PhysicalMemory, pa: int) -> None:
    for access in (
        lambda: memory.read(pa, 8),
        lambda: memory.write(pa, bytes(8)),
        lambda: memory.view(pa, 8),
        lambda: memory.read_u64(pa),
        lambda: memory.write_u64(pa, 1),
        lambda: memory.read_u32(pa + 4),
        lambda: memory.write_u32(pa + 4, 1),
        lambda: memory.zero(pa, 8),
        lambda: memory.array(pa, 1, np.uint64),
        lambda: list(memory.touched(pa, 8)),
    ):
        with pytest.raises(BusError):
            access()


@pytest.mark.parametrize(
    ("pa", "length"),
    [(0x1234, 5), (0x1000, PAGE_SIZE), (0x1010, 1 << 20), (0x10_0000, 2 << 20), (0x1FFF, 65536)],
)
def test_zero_clears_exactly_the_range(memory: PhysicalMemory, pa: int, length: int) -> None:
    memory.write(pa - 16, b"\xff" * (length + 32))
    memory.zero(pa, length)
    assert memory.read(pa - 16, 16) == memory.read(pa + length, 16) == b"\xff" * 16
    assert not any(memory.read(pa, length))


def test_zeroing_a_large_range_gives_memory_back(memory: PhysicalMemory) -> None:
    memory.write(1 << 20, b"\1" * (4 << 20))
    memory.zero(1 << 20, 4 << 20)
    assert list(memory.touched(0, SIZE)) == []


def test_touched_ranges_cover_all_that_is_not_zero(memory: PhysicalMemory) -> None:
    spots = [0x3000, 0x3FFF, 0x80_0000, SIZE - 1]
    for spot in spots:
        memory.write(spot, b"\1")
    ranges = list(memory.touched(0x3000, SIZE - 0x3000))
    assert all(any(start <= spot < end for start, end in ranges) for spot in spots)
    assert sum(end - start for start, end in ranges) <= 3 * PAGE_SIZE
    assert list(memory.touched(0x3100, 0x100)) == [(0x3100, 0x3200)]


def test_two_mappings_of_one_file_are_one_memory() -> None:
    fd = os.memfd_create("memory")
    os.ftruncate(fd, SIZE)
    one, other = PhysicalMemory(SIZE, fd), PhysicalMemory(SIZE, fd)
    os.close(fd)
    one.write(0x5000, b"hello")
    assert other.read(0x5000, 5) == b"hello"
    one.close()
    other.close()


def test_close_is_safe_with_views_alive() -> None:
    memory = PhysicalMemory(SIZE)
    array = memory.array(0x1000, 4, np.uint64)
    array[:] = 1
    memory.close()
    memory.close()
    assert array.tolist() == [0, 0, 0, 0]


# -- frames --------------------------------------------------------------------------------


@pytest.fixture
def plain() -> Iterator[PhysicalMemory]:
    memory = PhysicalMemory(SIZE)
    yield memory
    memory.close()


def test_lowest_frames_come_first_and_freed_ones_again(plain: PhysicalMemory) -> None:
    frames = FrameAllocator(plain, 0x1000, 0x10000)
    assert [frames.alloc(PAGE_SIZE) for _ in range(3)] == [0x1000, 0x2000, 0x3000]
    frames.free(0x2000, PAGE_SIZE)
    assert [frames.alloc(PAGE_SIZE), frames.alloc(0x2000)] == [0x2000, 0x4000]
    assert frames.allocated == 0x5000


def test_alignment_leaves_the_gap_usable(plain: PhysicalMemory) -> None:
    frames = FrameAllocator(plain, 0x1000, 8 << 20)
    assert frames.alloc(PAGE_SIZE_2M, PAGE_SIZE_2M) == PAGE_SIZE_2M
    assert frames.alloc(PAGE_SIZE) == 0x1000


def test_freed_frames_are_cleared_and_joined(plain: PhysicalMemory) -> None:
    frames = FrameAllocator(plain, 0, 0x4000)
    for _ in range(4):
        plain.write(frames.alloc(PAGE_SIZE), b"\xff" * PAGE_SIZE)
    for pa in (0x1000, 0x3000, 0x0, 0x2000):
        frames.free(pa, PAGE_SIZE)
    assert frames.alloc(0x4000) == 0
    assert not any(plain.read(0, 0x4000))


def test_exhaustion_is_a_memory_error(plain: PhysicalMemory) -> None:
    frames = FrameAllocator(plain, 0, 0x2000)
    frames.alloc(0x2000)
    with pytest.raises(MemoryError):
        frames.alloc(PAGE_SIZE)


@pytest.mark.parametrize(("pa", "length"), [(0x3000, 0x1000), (0x2000, 0x2000), (0x0, 0x1000)])
def test_freeing_what_is_free_is_refused(plain: PhysicalMemory, pa: int, length: int) -> None:
    frames = FrameAllocator(plain, 0x1000, 0x8000)
    frames.alloc(0x2000)
    with pytest.raises(ValueError):
        frames.free(pa, length)
    assert frames.allocated == 0x2000


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_allocations_never_overlap_and_all_comes_back(data: st.DataObject) -> None:
    memory = PhysicalMemory(1 << 20)
    frames = FrameAllocator(memory, 0x3000, 0x80000)
    live: dict[int, int] = {}
    for _ in range(data.draw(st.integers(1, 40))):
        give_back: bool = data.draw(st.booleans())
        if live and give_back:
            pa = data.draw(st.sampled_from(sorted(live)))
            frames.free(pa, live.pop(pa))
            continue
        length = PAGE_SIZE * data.draw(st.integers(1, 12))
        align = PAGE_SIZE << data.draw(st.integers(0, 4))
        try:
            pa = frames.alloc(length, align)
        except MemoryError:
            continue
        assert pa % align == 0
        assert 0x3000 <= pa <= pa + length <= 0x80000
        assert all(pa + length <= other or other + live[other] <= pa for other in live)
        live[pa] = length
    assert frames.allocated == sum(live.values())
    for pa, length in live.items():
        frames.free(pa, length)
    assert frames.alloc(0x80000 - 0x3000) == 0x3000
    memory.close()
