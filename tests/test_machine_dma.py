# SPDX-License-Identifier: GPL-2.0-only
"""DMA on the SNP machine: what the IOMMU asks the RMP, shown by where the PSP's MSI may be written.

A device's interrupt is a write like others, to an address that the driver chose.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from harness.uapi import sev
from tests import test_machine_psp_device
from tests.test_machine_psp_device import (
    COMPLETE,
    DEVICE,
    INTSTS,
    IOMMU,
    MESSAGE,
    TABLE,
    Psp,
)

qemu = test_machine_psp_device.qemu
snp_machine = test_machine_psp_device.snp_machine
start = test_machine_psp_device.start
pytestmark = test_machine_psp_device.pytestmark

ASSIGNED, LARGE = 1, 2


@pytest.fixture
def psp(start: Callable[..., Psp]) -> Psp:
    return start("-device", "amd-iommu,intremap=on,x-snpsup=on")


def initialize(psp: Psp) -> None:
    assert psp.issue(sev.SEV_CMD_SNP_INIT_EX, sev.sev_data_snp_init_ex(init_rmp=1)) == 0


def put_entry(psp: Psp, pa: int, low: int) -> None:
    """Write an RMP entry, which nothing but the processor could do with SNP on."""
    psp.machine.write(TABLE + 0x4000 + pa // 256, struct.pack("<QQ", low, 0))


def arrives(psp: Psp) -> bool:
    """Whether a device's write gets to MESSAGE."""
    psp.ring(0x7FF, interrupt=True)
    psp.answer()
    psp.machine.writel(INTSTS, COMPLETE)
    return psp.message() != 0


def refused(psp: Psp) -> int:
    counters: dict[str, int] = psp.machine.qmp("qom-get", path=DEVICE, property="counters")
    return counters["dma-rmp"]


def test_devices_write_pages_of_the_hypervisor_only(psp: Psp) -> None:
    initialize(psp)
    assert arrives(psp)
    put_entry(psp, MESSAGE, ASSIGNED)
    assert not arrives(psp)
    assert refused(psp) == 1
    put_entry(psp, MESSAGE, 0)
    assert arrives(psp)
    assert refused(psp) == 1


def test_a_page_in_one_of_2_mib_is_no_devices(psp: Psp) -> None:
    initialize(psp)
    put_entry(psp, MESSAGE & ~0x1FFFFF, ASSIGNED | LARGE)
    assert not arrives(psp)
    put_entry(psp, MESSAGE & ~0x1FFFFF, ASSIGNED)
    assert arrives(psp)


def test_the_rmp_is_not_asked_before_snp_is_initialized_nor_after(psp: Psp) -> None:
    put_entry(psp, MESSAGE, ASSIGNED)
    assert arrives(psp)
    initialize(psp)
    assert psp.issue(sev.SEV_CMD_SNP_DF_FLUSH) == 0
    put_entry(psp, MESSAGE, ASSIGNED)
    assert not arrives(psp)
    down = sev.sev_data_snp_shutdown_ex(len=8, iommu_snp_shutdown=1)
    assert psp.issue(sev.SEV_CMD_SNP_SHUTDOWN_EX, down) == 0
    assert arrives(psp)


LOCKED = {"devices": 0x00, "commands": 0x08, "events": 0x10, "stores": 0x20, "limit": 0x28}
TAIL, CONTROL, COMMANDS_ON = 0x2008, 0x18, 1 << 12 | 1
COMMANDS, STORES, ELSEWHERE = 0x500000, 0x600000, 0x601000


def register(psp: Psp, offset: int, value: int | None = None) -> int:
    if value is not None:
        psp.machine.qtest("writeq", hex(IOMMU + offset), hex(value))
    return int(psp.machine.qtest("readq", hex(IOMMU + offset)), 16)


def stored(psp: Psp, address: int) -> bool:
    """Whether a completion wait command stores to an address."""
    psp.machine.write(address, bytes(8))
    at = register(psp, TAIL)
    psp.machine.write(COMMANDS + at, struct.pack("<QQ", 1 << 60 | address | 1, 0x57A7))
    register(psp, TAIL, at + 16)
    return psp.machine.read(address, 8) != bytes(8)


@pytest.mark.parametrize("name", LOCKED)
def test_registers_are_locked_while_snp_is_on(psp: Psp, name: str) -> None:
    offset = LOCKED[name]
    assert register(psp, offset, 0x400000) == 0x400000
    initialize(psp)
    assert register(psp, offset, 0x700000) == 0x400000
    assert psp.issue(sev.SEV_CMD_SNP_DF_FLUSH) == 0
    down = sev.sev_data_snp_shutdown_ex(len=8)
    assert psp.issue(sev.SEV_CMD_SNP_SHUTDOWN_EX, down) == 0
    assert register(psp, offset, 0x700000) == 0x400000
    initialize(psp)
    assert psp.issue(sev.SEV_CMD_SNP_DF_FLUSH) == 0
    down.iommu_snp_shutdown = 1
    assert psp.issue(sev.SEV_CMD_SNP_SHUTDOWN_EX, down) == 0
    assert register(psp, offset, 0x700000) == 0x700000


def test_completions_are_stored_in_their_range_only(psp: Psp) -> None:
    for offset, value in ((0x08, COMMANDS | 8 << 56), (0x20, STORES), (0x28, STORES)):
        register(psp, offset, value)
    register(psp, CONTROL, COMMANDS_ON)
    assert stored(psp, STORES)
    assert stored(psp, ELSEWHERE)
    initialize(psp)
    assert stored(psp, STORES + 0xFF8)
    assert not stored(psp, ELSEWHERE)
    assert not stored(psp, STORES - 8)


def test_a_reset_ends_it(psp: Psp) -> None:
    initialize(psp)
    psp.machine.qmp("system_reset")
    psp.machine.until("RESET")
    again = Psp(psp.machine)
    put_entry(again, MESSAGE, ASSIGNED)
    assert arrives(again)
