# SPDX-License-Identifier: GPL-2.0-only
"""The PSP device of the machine's QEMU: mailbox, interrupt, a firmware that fails, a reset."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.emulator.regions import RegionMemory
from harness.emulator.rmp_entry import PageState, RmpEntry
from harness.machine import protocol
from harness.machine.protocol import Channel, Frame, FrameType, Hello, pair
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from tests import machines
from tests.firmware_thread import FirmwareThread
from tests.marks import real
from tests.qtest_machine import BAR, MEMORY, SECONDS, QtestMachine, find_qemu

INTEN, INTSTS, CMDRESP, LO, HI = (BAR + it for it in (0x10690, 0x10694, 0x10980, 0x109E0, 0x109E4))
FEATURE = BAR + 0x109FC
RESPONSE, COMPLETE = 1 << 31, 1 << 1
BUFFER, MESSAGE = 0x200000, 0x300000
HWERROR = int(SevFwError.HWERROR_PLATFORM)
IOMMU = 0xFED80000
TABLE = (MEMORY - 0x4000 - MEMORY // 256) & ~0x1FFFFF
"""The RMP lies at the top of memory, aligned to 2 MiB (qemu/README.md)."""
DEVICE = "/machine/peripheral/psp"

snp_machine = machines.snp_machine
pytestmark = real("builds QEMU", 120)


@pytest.fixture
def qemu(request: pytest.FixtureRequest) -> str:
    """The machine's QEMU, or another that SNPTEST_MACHINE_QEMU names."""
    return find_qemu() or str(request.getfixturevalue("snp_machine").qemu)


class Psp:
    """The mailbox as a driver uses it."""

    def __init__(self, machine: QtestMachine) -> None:
        self.machine = machine
        machine.map_psp(MESSAGE, 0x4D53)
        machine.writel(INTEN, 0xFFFFFFFF)

    def ring(self, command: int, address: int = 0, *, interrupt: bool = False) -> None:
        self.machine.writel(LO, address & 0xFFFFFFFF)
        self.machine.writel(HI, address >> 32)
        self.machine.writel(CMDRESP, command << 16 | interrupt)

    def answer(self) -> int:
        """The status, once there is one."""
        end = time.monotonic() + SECONDS
        while not (value := self.machine.readl(CMDRESP)) & RESPONSE:
            assert time.monotonic() < end, f"no answer: {value:#x}"
        return value & 0xFFFF

    def issue(self, command: int, data: ctypes.Structure | None = None) -> int:
        if data is not None:
            self.machine.write(BUFFER, bytes(data))
        self.ring(command, 0 if data is None else BUFFER)
        return self.answer()

    def message(self) -> int:
        """What the last interrupt wrote; taken away for the next."""
        value = self.machine.readl(MESSAGE)
        self.machine.writel(MESSAGE, 0)
        return value

    def entry(self, pa: int) -> RmpEntry:
        """The RMP entry of a page."""
        raw = self.machine.read(TABLE + 0x4000 + pa // 256, 16)
        return RmpEntry.decode(*struct.unpack("<QQ", raw))


# -- with the firmware model ---------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path, qemu: str) -> Iterator[Callable[..., Psp]]:
    with contextlib.ExitStack() as stack:

        def started(*extra: str) -> Psp:
            server = FirmwareThread(tmp_path / "psp")
            stack.callback(server.end)
            machine = QtestMachine(qemu, server.socket, tmp_path, *extra)
            stack.callback(machine.close)
            return Psp(machine)

        yield started


def test_the_registers_that_drivers_probe(start: Callable[..., Psp]) -> None:
    psp = start()
    assert psp.machine.config(0) == 0x14CA1022
    assert psp.machine.config(8) >> 8 == 0x108000
    assert psp.machine.readl(FEATURE) == 1
    assert psp.machine.readl(BAR + 0x109EC) == 0xFFFFFFFF
    assert psp.machine.readl(CMDRESP) == 0
    psp.machine.writel(FEATURE, 0)
    assert psp.machine.readl(FEATURE) == 1


def test_commands_by_polling(start: Callable[..., Psp]) -> None:
    psp = start()
    assert psp.issue(sev.SEV_CMD_PLATFORM_STATUS, sev.sev_user_data_status()) == 0
    status = sev.sev_user_data_status.from_bytes(psp.machine.read(BUFFER, 12))
    assert (status.api_major, status.api_minor) == (1, 55)
    assert psp.issue(0x7FF) == SevFwError.INVALID_COMMAND
    assert psp.machine.readl(INTSTS) == 0
    assert psp.message() == 0


def test_completion_by_interrupt(start: Callable[..., Psp]) -> None:
    psp = start()
    psp.ring(0x7FF, interrupt=True)
    assert psp.answer() == SevFwError.INVALID_COMMAND
    assert psp.machine.readl(INTSTS) == COMPLETE
    assert psp.message() == 0x4D53
    psp.machine.writel(INTSTS, COMPLETE)
    assert psp.machine.readl(INTSTS) == 0
    psp.machine.writel(INTEN, 0)
    psp.ring(0x7FF, interrupt=True)
    psp.answer()
    assert psp.message() == 0
    psp.machine.writel(INTEN, COMPLETE)
    assert psp.message() == 0x4D53


def test_the_firmware_writes_rmp_and_counters_count(start: Callable[..., Psp]) -> None:
    psp = start()
    assert psp.issue(sev.SEV_CMD_SNP_INIT_EX, sev.sev_data_snp_init_ex(init_rmp=1)) == 0
    assert PageState.of(psp.entry(TABLE)) == PageState.FIRMWARE
    assert PageState.of(psp.entry(BUFFER)) == PageState.HYPERVISOR
    get = {"path": DEVICE, "property": "counters"}
    assert psp.machine.qmp("qom-get", **get)["psp"] == 1
    psp.machine.qmp("qom-set", path=DEVICE, property="reset-counters", value=True)
    assert set(psp.machine.qmp("qom-get", **get).values()) == {0}


def test_the_iommus_buffers_are_found(start: Callable[..., Psp]) -> None:
    psp = start("-device", "amd-iommu,intremap=on")
    for offset, value in ((0x10, 0x400000 | 9 << 56), (0x20, 0x500000), (0x28, 0x500000)):
        psp.machine.qtest("writeq", hex(IOMMU + offset), hex(value))
    assert psp.issue(sev.SEV_CMD_SNP_INIT_EX, sev.sev_data_snp_init_ex(init_rmp=1)) == 0
    for pa in (0x400000, 0x401000, 0x500000):
        assert PageState.of(psp.entry(pa)) == PageState.FIRMWARE
    assert PageState.of(psp.entry(0x402000)) == PageState.HYPERVISOR
    assert psp.issue(sev.SEV_CMD_SNP_DF_FLUSH) == 0
    down = sev.sev_data_snp_shutdown_ex(len=8, iommu_snp_shutdown=1)
    assert psp.issue(sev.SEV_CMD_SNP_SHUTDOWN_EX, down) == 0
    assert PageState.of(psp.entry(0x500000)) == PageState.RECLAIM


def test_a_reset_starts_afresh(start: Callable[..., Psp]) -> None:
    psp = start()
    data = sev.sev_data_snp_init_ex(init_rmp=1)
    assert psp.issue(sev.SEV_CMD_SNP_INIT_EX, data) == 0
    assert psp.issue(sev.SEV_CMD_SNP_INIT_EX, data) == SevFwError.INVALID_PLATFORM_STATE
    psp.machine.qmp("system_reset")
    psp.machine.until("RESET")
    psp = Psp(psp.machine)
    assert psp.machine.readl(CMDRESP) == 0
    assert psp.issue(sev.SEV_CMD_SNP_INIT_EX, data) == 0


def test_the_end_of_the_machine_is_no_failure(start: Callable[..., Psp]) -> None:
    psp = start()
    assert psp.issue(0x7FF) == SevFwError.INVALID_COMMAND
    psp.machine.qmp("quit")
    assert psp.machine.ended() == 0
    assert "snp-psp" not in psp.machine.log.read_text()


# -- with a firmware that misbehaves -------------------------------------------------------------


class Fake:
    """A firmware whose every answer is the test's."""

    def __init__(self, directory: Path, qemu: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.settimeout(SECONDS)
        self.listener.bind(str(directory / "psp"))
        self.listener.listen()
        self.machine = QtestMachine(qemu, directory / "psp", directory)
        self.raw, _ = self.listener.accept()
        self.channel = Channel(self.raw)
        frame = self.receive(FrameType.HELLO)
        self.hello = Hello.decode(frame.payload, list(frame.fds))
        self.memory = RegionMemory(self.hello.regions)
        self.psp = Psp(self.machine)

    def receive(self, kind: FrameType) -> Frame:
        frame = self.channel.receive(SECONDS)
        assert frame is not None
        assert frame.kind == kind
        return frame

    def welcome(self) -> None:
        self.channel.send(pair(FrameType.WELCOME, protocol.VERSION))

    def dead(self) -> bool:
        get = {"path": DEVICE, "property": "firmware-alive"}
        return not self.machine.qmp("qom-get", **get)

    def close(self) -> None:
        self.machine.close()
        self.memory.close()
        self.channel.close()
        self.listener.close()


@pytest.fixture
def fake(tmp_path: Path, qemu: str) -> Iterator[Fake]:
    made = Fake(tmp_path, qemu)
    yield made
    made.close()


def test_hello_describes_the_machine(fake: Fake) -> None:
    hello = fake.hello
    assert hello.cbit == 51
    assert 0 < hello.min_sev_asid <= hello.max_asid
    assert hello.rmp_base == TABLE
    assert hello.rmp_size >= 0x4000 + MEMORY // 256
    assert hello.rmp_base + hello.rmp_size <= MEMORY
    assert fake.memory.contains(0, 0xA0000)
    assert fake.memory.contains(0x100000, MEMORY - 0x100000)
    assert not fake.memory.contains(MEMORY, 1)
    fake.machine.write(0x123456, b"shared")
    assert fake.memory.read(0x123456, 6) == b"shared"


def test_commands_wait_for_the_welcome_and_for_the_result(fake: Fake) -> None:
    fake.psp.ring(0x123, 0x1_2345_6000, interrupt=True)
    fake.welcome()
    assert fake.receive(FrameType.COMMAND).command() == (0x123, 0x1_2345_6000)
    assert not fake.machine.readl(CMDRESP) & RESPONSE
    fake.machine.writel(CMDRESP, 0x456 << 16)  # a second doorbell is ignored
    assert fake.psp.message() == 0
    fake.channel.send(pair(FrameType.RESULT, 0xABCD))
    assert fake.psp.answer() == 0xABCD
    fake.psp.ring(0x77)
    assert fake.receive(FrameType.COMMAND).command()[0] == 0x77
    fake.channel.send(pair(FrameType.RESULT, 0))
    assert fake.psp.answer() == 0


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack("<IIII", 9, 8, 0, 0),
        struct.pack("<IIII", FrameType.RESULT, 8, 0x10000, 0),
        struct.pack("<II", FrameType.RESULT, 7),
        struct.pack("<IIII", FrameType.WELCOME, 8, 1, 0),
        b"",
        None,
    ],
    ids=["unknown type", "status", "length", "out of turn", "closed", "silent"],
)
def test_a_firmware_that_fails_ends_every_command_in_an_error(
    fake: Fake, answer: bytes | None
) -> None:
    fake.welcome()
    fake.psp.ring(0x11, interrupt=True)
    fake.receive(FrameType.COMMAND)
    if answer:
        fake.raw.sendall(answer)
    elif answer is not None:
        fake.raw.shutdown(socket.SHUT_RDWR)
    assert fake.psp.answer() == HWERROR
    assert fake.psp.message() == 0x4D53
    assert fake.psp.issue(0x12) == HWERROR
    assert fake.dead()
    assert "all commands fail from now on" in fake.machine.log.read_text()
    fake.machine.qmp("system_reset")
    fake.machine.until("RESET")
    assert Psp(fake.machine).issue(0x13) == HWERROR


@pytest.mark.parametrize("answer", [(2, 0), (1, 1), None])
def test_a_firmware_that_does_not_welcome(fake: Fake, answer: tuple[int, int] | None) -> None:
    fake.psp.ring(0x11)
    if answer is not None:
        fake.channel.send(pair(FrameType.WELCOME, *answer))
    assert fake.psp.answer() == HWERROR
    assert fake.dead()


def test_a_result_from_before_a_reset_is_nobodys(fake: Fake) -> None:
    fake.welcome()
    fake.psp.ring(0x21)
    fake.receive(FrameType.COMMAND)
    fake.machine.qmp("system_reset")
    fake.machine.until("RESET")
    fake.receive(FrameType.RESET)
    psp = Psp(fake.machine)
    psp.ring(0x22)
    fake.channel.send(pair(FrameType.RESULT, 5))
    assert not fake.machine.readl(CMDRESP) & RESPONSE
    fake.welcome()
    assert fake.receive(FrameType.COMMAND).command()[0] == 0x22
    fake.channel.send(pair(FrameType.RESULT, 6))
    assert psp.answer() == 6
