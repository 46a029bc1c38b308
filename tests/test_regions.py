# SPDX-License-Identifier: GPL-2.0-only
"""Memory in several regions, and an RMP that lies within what it covers."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from harness.emulator.memory import PAGE_SIZE, BusError, PhysicalMemory
from harness.emulator.psp import Psp
from harness.emulator.psp.iommu import IommuRegisters
from harness.emulator.regions import Region, RegionMemory
from harness.emulator.rmp import PageState, Rmp, RmpCode
from harness.uapi import sev
from harness.uapi.errors import SevFwError

MIB = 1 << 20
LOW, HIGH, HIGH_SIZE = 16 * MIB, 4 << 30, 8 * MIB
TOP = HIGH + HIGH_SIZE
BASE = 12 * MIB
"""The table for 4 GiB and 8 MiB of addresses takes 16 MiB and 48 KiB: see `Host`."""


@pytest.fixture
def fd() -> Iterator[int]:
    made = os.memfd_create("ram")
    os.ftruncate(made, LOW + HIGH_SIZE)
    yield made
    os.close(made)


@pytest.fixture
def memory(fd: int) -> Iterator[RegionMemory]:
    regions = [
        Region(0, 0xA0000, 0, fd),
        Region(0x100000, LOW - 0x100000, 0x100000, fd),
        Region(HIGH, 4 * MIB, LOW, fd),
        Region(HIGH + 4 * MIB, 4 * MIB, LOW + 4 * MIB, fd),
    ]
    made = RegionMemory(regions)
    yield made
    made.close()


def test_a_region_is_its_part_of_the_file(memory: RegionMemory, fd: int) -> None:
    memory.write(HIGH + 5, b"high")
    memory.write_u64(0x100000, 7)
    assert os.pread(fd, 4, LOW + 5) == b"high"
    assert os.pread(fd, 8, 0x100000) == (7).to_bytes(8, "little")
    os.pwrite(fd, b"device", 0x9FFFA)
    assert memory.read(0x9FFFA, 6) == b"device"
    assert memory.size == TOP


def test_neighbours_are_one(memory: RegionMemory, fd: int) -> None:
    seam = HIGH + 4 * MIB
    memory.write(seam - 3, b"across")
    assert os.pread(fd, 6, LOW + 4 * MIB - 3) == b"across"
    array = memory.array(seam - 16, 4, np.uint64)
    array[:] = 5
    assert memory.read_u64(seam + 8) == 5
    assert memory.contains(seam - 1, 2)


@pytest.mark.parametrize(
    ("pa", "length"),
    [(0xA0000, 8), (0x9FFFC, 8), (0xFFFFC, 8), (LOW - 4, 8), (LOW, 8), (HIGH - 4, 8), (TOP, 8)]
    + [(TOP - 4, 8), (-8, 8), (1 << 60, 8), (0, LOW), (0x9F000, 0x80000)],
)
def test_what_touches_a_hole_is_a_bus_error(memory: RegionMemory, pa: int, length: int) -> None:
    accesses: list[Callable[[], object]] = [
        lambda: memory.read(pa, length),
        lambda: memory.write(pa, bytes(length)),
        lambda: memory.view(pa, length),
        lambda: memory.array(pa, length // 8, np.uint64),
        lambda: memory.zero(pa, length),
        lambda: list(memory.touched(pa, length)),
    ]
    if length == 8:
        accesses += [lambda: memory.read_u64(pa), lambda: memory.write_u64(pa, 1)]
        accesses += [lambda: memory.read_u32(pa + 2 if pa % 8 else pa)]
        accesses += [lambda: memory.write_u32(pa + 2 if pa % 8 else pa, 1)]
    for access in accesses:
        with pytest.raises(BusError):
            access()
    assert not memory.contains(pa, length)


def test_clearing_stops_at_the_ends_asked_for(memory: RegionMemory, fd: int) -> None:
    start, end = HIGH + 4 * MIB - 0x20010, HIGH + 4 * MIB + 0x20010
    for pa in (start - 1, start, end - 1, end):
        memory.write(pa, b"x")
    memory.zero(start, end - start)
    assert memory.read(start - 1, 2) == b"x\0"
    assert memory.read(end - 1, 2) == b"\0x"
    assert os.pread(fd, 1, LOW + start - HIGH) == b"\0"


def test_only_what_was_written_is_touched(memory: RegionMemory) -> None:
    memory.write(HIGH + 0x3123, b"x")
    memory.write(HIGH + 5 * MIB, b"y")
    assert list(memory.touched(HIGH, HIGH_SIZE)) == [
        (HIGH + 0x3000, HIGH + 0x4000),
        (HIGH + 5 * MIB, HIGH + 5 * MIB + PAGE_SIZE),
    ]


def test_closing_leaves_the_content(memory: RegionMemory, fd: int) -> None:
    memory.write(0x1000, b"kept")
    memory.close()
    assert os.pread(fd, 4, 0x1000) == b"kept"
    with pytest.raises(BusError):
        memory.read(0x1000, 4)


@pytest.mark.parametrize(
    "places",
    [
        [],
        [(0, 0, 0)],
        [(0, 0x1800, 0)],
        [(0x800, 0x1000, 0)],
        [(0, 0x1000, 0x10)],
        [(0, 0x2000, 0), (0x1000, 0x1000, 0)],
        [(0, LOW + HIGH_SIZE + PAGE_SIZE, 0)],
        [(0, 0x2000, LOW + HIGH_SIZE - 0x1000)],
        [(1 << 47, 0x1000, 0)],
    ],
)
def test_impossible_regions(fd: int, places: list[tuple[int, int, int]]) -> None:
    with pytest.raises(ValueError):
        RegionMemory([Region(pa, size, offset, fd) for pa, size, offset in places])


# -- an RMP that covers itself, under the firmware ---------------------------------------------


class Host:
    """16 MiB of memory below, the RMP at 12 MiB, a hole, 8 MiB above; all that is covered."""

    PAGES = LOW // PAGE_SIZE + 1024

    def __init__(self, fd: int) -> None:
        upper = LOW + 2 * MIB
        self.hole = LOW
        regions = [Region(0, LOW, 0, fd), Region(upper, 2 * MIB, LOW, fd)]
        self.memory: PhysicalMemory = RegionMemory(regions)
        self.rmp = Rmp(self.memory, BASE, self.PAGES)
        self.psp = Psp(self.memory, self.rmp)

    def issue(self, cmd: int, data: bytes = b"", at: int = 0x1000) -> SevFwError:
        self.memory.write(at, data)
        return SevFwError(self.psp.command(cmd, at if data else 0))

    def init(self, ranges: tuple[tuple[int, int], ...] = ()) -> SevFwError:
        listed = struct.pack("<II", len(ranges), 0)
        listed += b"".join(struct.pack("<QII", pa, pages, 0) for pa, pages in ranges)
        self.memory.write(0x2000, listed)
        data = sev.sev_data_snp_init_ex(init_rmp=1, list_paddr_en=1, list_paddr=0x2000)
        return self.issue(sev.SEV_CMD_SNP_INIT_EX, bytes(data))

    def firmware_page(self, pa: int) -> None:
        assert self.rmp.rmpupdate(pa, assigned=True, immutable=True) == RmpCode.SUCCESS

    def shutdown(self, iommu: bool) -> SevFwError:
        self.issue(sev.SEV_CMD_SNP_DF_FLUSH)
        data = sev.sev_data_snp_shutdown_ex(len=8, iommu_snp_shutdown=iommu)
        return self.issue(sev.SEV_CMD_SNP_SHUTDOWN_EX, bytes(data))


@pytest.fixture
def host(fd: int) -> Iterator[Host]:
    made = Host(fd)
    yield made
    made.memory.close()


def test_the_table_is_the_firmwares_and_nobody_elses(host: Host) -> None:
    assert host.init() == SevFwError.SUCCESS
    own = host.rmp.own_pages
    assert (own.start, len(own)) == (BASE // PAGE_SIZE, 4 + host.PAGES * 16 // PAGE_SIZE)
    assert {host.rmp.state_of(pfn * PAGE_SIZE) for pfn in own} == {PageState.FIRMWARE}
    assert host.rmp.state_of(own.stop * PAGE_SIZE) == PageState.HYPERVISOR
    reclaim = sev.sev_data_snp_page_reclaim(paddr=BASE + 0x5000)
    for cmd in (sev.SEV_CMD_SNP_PAGE_RECLAIM, sev.SEV_CMD_SNP_GCTX_CREATE):
        assert host.issue(cmd, bytes(reclaim)) == SevFwError.INVALID_ADDRESS
    assert host.rmp.rmpupdate(BASE, assigned=False) == RmpCode.FAIL_PERMISSION


def test_a_range_over_the_table_leaves_it_out(host: Host) -> None:
    around = ((BASE - 2 * PAGE_SIZE, len(host.rmp.own_pages) + 4), (LOW, 8))
    assert host.init(around) == SevFwError.SUCCESS
    assert host.init() == SevFwError.INVALID_PLATFORM_STATE
    states = [host.rmp.state_of(pa) for pa in (BASE - 4096, BASE, host.rmp.own_pages.stop << 12)]
    assert states == [PageState.HV_FIXED, PageState.FIRMWARE, PageState.HV_FIXED]
    assert host.rmp.state_of(host.hole) == PageState.HV_FIXED


def test_a_hole_has_entries_but_no_memory(host: Host) -> None:
    host.init()
    host.firmware_page(host.hole)
    data = sev.sev_data_snp_addr(address=host.hole)
    assert host.issue(sev.SEV_CMD_SNP_GCTX_CREATE, bytes(data)) == SevFwError.INVALID_ADDRESS
    assert host.rmp.state_of(host.hole) == PageState.FIRMWARE


# -- the IOMMU's buffers ------------------------------------------------------------------------

EVENTS, REQUESTS, WAITS = 0x200000, 0x280000, 0x300000
REGISTERS = IommuRegisters(EVENTS | 9 << 56, REQUESTS | 8 << 56, WAITS, WAITS)


def test_buffers_of_the_iommu_are_taken_and_given_back(host: Host) -> None:
    host.psp.platform.iommu = REGISTERS
    assert host.init() == SevFwError.SUCCESS
    taken = [EVENTS, EVENTS + 4096, REQUESTS, WAITS]
    assert {host.rmp.state_of(pa) for pa in taken} == {PageState.FIRMWARE}
    for pa in (EVENTS + 8192, REQUESTS + 4096, WAITS + 4096):
        assert host.rmp.state_of(pa) == PageState.HYPERVISOR
    assert host.shutdown(iommu=True) == SevFwError.SUCCESS
    assert {host.rmp.state_of(pa) for pa in taken} == {PageState.RECLAIM}
    for pa in taken:
        assert host.rmp.rmpupdate(pa, assigned=False) == RmpCode.SUCCESS
    assert host.init() == SevFwError.SUCCESS
    assert host.rmp.state_of(WAITS) == PageState.FIRMWARE


def test_without_iommu_shutdown_they_stay_the_firmwares(host: Host) -> None:
    host.psp.platform.iommu = REGISTERS
    host.init()
    assert host.shutdown(iommu=False) == SevFwError.SUCCESS
    assert host.rmp.state_of(WAITS) == PageState.FIRMWARE


@pytest.mark.parametrize("base", [BASE, 0x5000])
def test_a_buffer_in_a_page_that_is_taken_is_refused(host: Host, base: int) -> None:
    host.psp.platform.iommu = IommuRegisters(event_base=base | 8 << 56)
    assert host.init(((0x5000, 1),)) == SevFwError.INVALID_PAGE_STATE
    assert not host.psp.platform.snp_initialized


def test_registers_that_were_never_written_name_nothing() -> None:
    assert IommuRegisters().ranges() == []
    assert IommuRegisters(event_base=0x5000 | 7 << 56).ranges() == []
    assert IommuRegisters(exclusion_base=0x5000).ranges() == [(0x5000, 1)]


def test_a_mad_limit_takes_what_the_rmp_covers_at_most(host: Host) -> None:
    host.psp.platform.iommu = IommuRegisters(exclusion_base=LOW, exclusion_limit=(1 << 52) - 4096)
    assert host.init() == SevFwError.SUCCESS
    assert host.rmp.state_of((host.PAGES - 1) * PAGE_SIZE) == PageState.FIRMWARE
