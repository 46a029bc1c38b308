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


def test_a_reset_ends_it(psp: Psp) -> None:
    initialize(psp)
    psp.machine.qmp("system_reset")
    psp.machine.until("RESET")
    again = Psp(psp.machine)
    put_entry(again, MESSAGE, ASSIGNED)
    assert arrives(again)
