# SPDX-License-Identifier: GPL-2.0-only
"""What the SNP machine shows of itself, with a device and a kernel that are the test's."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.rmp import PageSize, RmpCode
from harness.inspector import NO_PAGE, RmpSize, RmpState
from harness.machine.inspector import DEVICE, MachineInspector
from harness.operations import Ioctl, Result
from tests.firmware_thread import FirmwareThread
from tests.test_machine_psp import Device

GMEM, PFN = 7, 0x300
HUGE = 0x400000
ASID = 5


class Target:
    """A kernel with one guest_memfd, whose pages 0 and 1 are there."""

    boots = 0
    text = "Leaking PFN range 0x10-0x13\nnothing\nLeaking PFN range 0x20-0x21\n"

    def open(self, _path: str, _flags: int) -> int:
        return 9

    def log(self) -> str:
        return self.text

    def call(self, op: Ioctl) -> Result:
        assert isinstance(op.arg, bytes)
        fd, _, index, _ = struct.unpack("<iIQQ", op.arg)
        if fd != GMEM:
            return Result(-1, 9)
        if index > 1:
            return Result(-1, 2)
        pfn = PFN if index == 0 else (HUGE >> 12) + 3
        return Result(0, 0, struct.pack("<iIQQ", fd, 0, index, pfn))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    server = FirmwareThread(tmp_path / "psp", seed=0)
    device = Device(server.socket)
    assert device.greet() == (1, 0)
    device.init()
    yield device
    device.close()
    server.wait()


@pytest.fixture
def inspector(device: Device, tmp_path: Path) -> MachineInspector:
    def monitor(command: str, **arguments: object) -> dict[str, int]:
        assert (command, arguments["path"]) == ("qom-get", DEVICE)
        return {"npf-rmp": 4, "rmpupdate": 12}

    target: Any = Target()
    return MachineInspector(target, monitor, tmp_path / "psp")


def test_entries_and_bytes_behind_a_file(device: Device, inspector: MachineInspector) -> None:
    page = PFN * PAGE_SIZE
    assert inspector.gmem_rmp(GMEM, 0) == RmpState(False, 0, 0, False, RmpSize.SIZE_4K)
    update = device.rmp.rmpupdate
    assert update(page, assigned=True, gpa=0x7000, asid=ASID) == RmpCode.SUCCESS
    assert inspector.gmem_rmp(GMEM, 0) == RmpState(True, ASID, 0x7000, False, RmpSize.SIZE_4K)
    assert inspector.assigned_pages() == 1
    code = update(HUGE, assigned=True, gpa=0x800000, asid=ASID, size=PageSize.PG_2M)
    assert code == RmpCode.SUCCESS
    assert inspector.gmem_rmp(GMEM, PAGE_SIZE) == RmpState(
        True, ASID, 0x803000, False, RmpSize.SIZE_2M
    )
    assert inspector.assigned_pages() == 513
    device.memory.write(page + 16, b"content")
    assert inspector.gmem_bytes(GMEM, 16, 7) == b"content"


def test_no_page_is_no_entry(inspector: MachineInspector) -> None:
    assert inspector.gmem_rmp(GMEM, 5 * PAGE_SIZE) == NO_PAGE
    assert inspector.gmem_bytes(GMEM, 5 * PAGE_SIZE, 4) == bytes(4)
    with pytest.raises(OSError, match="EBADF"):
        inspector.gmem_rmp(GMEM + 1, 0)


def test_counters_of_machine_firmware_and_kernel(inspector: MachineInspector) -> None:
    counters = inspector.counters()
    assert counters == {
        "npf_rmp": 4,
        "npf_rmp_spurious": 4,
        "rmpupdate": 12,
        "leaked_pages": 4,
        "asids": 0,
    }


def test_endorsement(inspector: MachineInspector) -> None:
    assert inspector.endorsement("ark")
    with pytest.raises(ValueError, match="known: ark"):
        inspector.endorsement("nonsense")
