# SPDX-License-Identifier: GPL-2.0-only
"""The firmware process behind its socket, driven by a device that is a test."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.psp import Psp
from harness.emulator.psp.iommu import IommuRegisters
from harness.emulator.regions import Region, RegionMemory
from harness.emulator.rmp import PageState, Rmp, RmpCode
from harness.errors import BootError
from harness.machine import protocol
from harness.machine.control import ask, control_path
from harness.machine.protocol import Channel, Frame, FrameType, Hello
from harness.machine.psp_process import PspProcess
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from tests.firmware_thread import FirmwareThread

MIB = 1 << 20
LOW, HIGH, HIGH_SIZE = 32 * MIB, 1 << 30, 8 * MIB
ENTRIES = (HIGH + HIGH_SIZE) // PAGE_SIZE
RMP_SIZE = 16384 + 16 * ENTRIES
RMP_BASE = 24 * MIB
SECONDS = 20.0
BUFFER = 0x1000


class Device:
    """What QEMU's device does, with the host's side of memory and RMP in reach."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(path))
        self.channel = Channel(self.socket)
        self.fd = os.memfd_create("ram")
        os.ftruncate(self.fd, LOW + HIGH_SIZE)
        regions = (Region(0, LOW, 0, self.fd), Region(HIGH, HIGH_SIZE, LOW, self.fd))
        self.hello = Hello(regions, RMP_BASE, RMP_SIZE, 51, 99, 51)
        self.memory = RegionMemory(regions)
        self.rmp = Rmp(self.memory, RMP_BASE, ENTRIES)
        self.next = HIGH

    def close(self) -> None:
        self.channel.close()
        self.memory.close()
        os.close(self.fd)

    def receive(self) -> Frame:
        frame = self.channel.receive(SECONDS)
        assert frame is not None, "the firmware closed the connection"
        return frame

    def ended(self) -> bool:
        """Whether the firmware ends the connection instead of answering."""
        try:
            return self.channel.receive(SECONDS) is None
        except ConnectionResetError:
            return True

    def greet(self, hello: Hello | None = None) -> tuple[int, int]:
        said = hello or self.hello
        fds = tuple(region.fd for region in said.regions)
        self.channel.send(Frame(FrameType.HELLO, said.encode(), fds))
        frame = self.receive()
        assert frame.kind == FrameType.WELCOME
        return frame.pair()

    def command(self, number: int, address: int) -> SevFwError:
        self.channel.send(protocol.command(number, address))
        frame = self.receive()
        assert frame.kind == FrameType.RESULT
        return SevFwError(frame.pair()[0])

    def issue(self, number: int, data: ctypes.Structure | None = None) -> SevFwError:
        if data is not None:
            self.memory.write(BUFFER, bytes(data))
        return self.command(number, 0 if data is None else BUFFER)

    def init(self) -> None:
        data = sev.sev_data_snp_init_ex(init_rmp=1)
        assert self.issue(sev.SEV_CMD_SNP_INIT_EX, data) == SevFwError.SUCCESS
        assert self.issue(sev.SEV_CMD_SNP_DF_FLUSH) == SevFwError.SUCCESS

    def page(self, gpa: int = 0, asid: int = 0) -> int:
        """Give a page above the hole to the firmware, or to a guest."""
        pa, self.next = self.next, self.next + PAGE_SIZE
        code = self.rmp.rmpupdate(pa, assigned=True, gpa=gpa, asid=asid, immutable=True)
        assert code == RmpCode.SUCCESS
        return pa


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FirmwareThread]:
    made = FirmwareThread(tmp_path / "psp")
    yield made
    made.end()


@pytest.fixture
def device(server: FirmwareThread) -> Iterator[Device]:
    made = Device(server.socket)
    yield made
    made.close()


@pytest.fixture
def ready(device: Device) -> Device:
    assert device.greet() == (1, 0)
    device.init()
    return device


def test_a_launch_over_the_socket(ready: Device, server: FirmwareThread) -> None:
    gctx = ready.page()
    create = sev.sev_data_snp_addr(address=gctx)
    assert ready.issue(sev.SEV_CMD_SNP_GCTX_CREATE, create) == SevFwError.SUCCESS
    assert ready.rmp.state_of(gctx) == PageState.CONTEXT
    start = sev.sev_data_snp_launch_start(gctx_paddr=gctx, policy=0x30000)
    assert ready.issue(sev.SEV_CMD_SNP_LAUNCH_START, start) == SevFwError.SUCCESS
    activate = sev.sev_data_snp_activate(gctx_paddr=gctx, asid=7)
    assert ready.issue(sev.SEV_CMD_SNP_ACTIVATE, activate) == SevFwError.SUCCESS
    page = ready.page(gpa=0x5000, asid=7)
    ready.memory.write(page, b"stale")
    update = sev.sev_data_snp_launch_update(gctx_paddr=gctx, address=page, page_type=3)
    assert ready.issue(sev.SEV_CMD_SNP_LAUNCH_UPDATE, update) == SevFwError.SUCCESS
    assert ready.memory.read(page, 5) == bytes(5)
    entry = ready.rmp.entry(page)
    assert (entry.asid, entry.gpa, entry.validated, entry.immutable) == (7, 0x5000, True, False)
    finish = sev.sev_data_snp_launch_finish(gctx_paddr=gctx)
    assert ready.issue(sev.SEV_CMD_SNP_LAUNCH_FINISH, finish) == SevFwError.SUCCESS
    state = server.state()
    assert (state["guests"], state["asids"], state["exceptions"]) == (1, [7], 0)
    assert state["commands"]["SNP_LAUNCH_UPDATE"] == 1
    assert ready.issue(sev.SEV_CMD_SNP_DECOMMISSION, create) == SevFwError.SUCCESS
    assert server.state()["guests"] == 0


def test_what_is_refused_is_logged(ready: Device, server: FirmwareThread) -> None:
    assert ready.command(0x7FF, 0) == SevFwError.INVALID_COMMAND
    in_the_hole = ready.command(sev.SEV_CMD_SNP_GCTX_CREATE, HIGH - 8)
    assert in_the_hole == SevFwError.INVALID_ADDRESS
    log = server.log()
    assert "INVALID_COMMAND" in log
    assert "SNP_GCTX_CREATE: INVALID_ADDRESS" in log


def test_the_iommus_pages_come_back_at_shutdown(device: Device) -> None:
    device.greet()
    device.channel.send(protocol.iommu(IommuRegisters(event_base=0x200000 | 8 << 56)))
    device.init()
    assert device.rmp.state_of(0x200000) == PageState.FIRMWARE
    data = sev.sev_data_snp_shutdown_ex(len=8, iommu_snp_shutdown=1)
    assert device.issue(sev.SEV_CMD_SNP_SHUTDOWN_EX, data) == SevFwError.SUCCESS
    assert device.rmp.state_of(0x200000) == PageState.RECLAIM


def test_a_reset_forgets_guests_and_platform(ready: Device, server: FirmwareThread) -> None:
    ready.channel.send(Frame(FrameType.RESET))
    assert ready.receive().pair() == (1, 0)
    assert server.state()["snp_initialized"] is False
    ready.init()


def test_the_seed_is_the_chip(tmp_path: Path) -> None:
    keys = []
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        server = FirmwareThread(tmp_path / name, seed=seed)
        device = Device(server.socket)
        assert device.greet() == (1, 0)
        answer = ask(server.socket, {"endorsement": "vcek"})
        vcek = x509.load_der_x509_certificate(bytes.fromhex(answer["endorsement"]))
        keys.append(vcek.public_key())
        device.close()
        assert server.wait() == 0
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ({"endorsement": "nonsense"}, "known: ark"),
        ({"endorsement": "vlek"}, "no VLEK"),
        ({"asids": 1}, "unknown question"),
    ],
)
def test_questions_without_an_answer(
    ready: Device, server: FirmwareThread, question: dict[str, object], why: str
) -> None:
    assert why in ask(server.socket, question)["error"]


def test_the_process_serves_and_ends(tmp_path: Path) -> None:
    process = PspProcess(tmp_path / "psp", tmp_path / "log", seed=3)
    device = Device(process.socket)
    try:
        assert device.greet() == (1, 0)
        assert x509.load_der_x509_certificate(process.endorsement("ark"))
        with pytest.raises(ValueError, match="known: ark"):
            process.endorsement("nonsense")
        assert process.state()["guests"] == 0
        device.close()
        assert process.wait() == 0
    finally:
        process.stop()


# -- what goes wrong ----------------------------------------------------------------------------


def test_an_exception_in_the_model_is_one_commands_error(
    device: Device, server: FirmwareThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Psp.command

    def faulty(psp: Psp, number: int, address: int) -> int:
        return real(psp, number, address) if number != 0x7FE else 1 // 0

    monkeypatch.setattr(Psp, "command", faulty)
    device.greet()
    assert device.command(0x7FE, 0x1234) == SevFwError.HWERROR_PLATFORM
    device.init()
    assert server.state()["exceptions"] == 1
    told = server.log()
    assert "command 0x7fe at 0x1234" in told
    assert "ZeroDivisionError" in told


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<II", 99, 0),
        struct.pack("<II", FrameType.COMMAND, 1 << 31),
        struct.pack("<II", FrameType.COMMAND, 4) + b"abcd",
        struct.pack("<II", FrameType.IOMMU, 0),
        struct.pack("<II", FrameType.RESULT, 8) + bytes(8),
        b"\xff" * 64,
    ],
)
def test_garbage_ends_the_connection(ready: Device, server: FirmwareThread, raw: bytes) -> None:
    ready.socket.sendall(raw)
    assert ready.ended()
    assert server.wait() == 1
    assert "psp_server: " in server.log()


def test_a_second_hello_is_an_error(ready: Device, server: FirmwareThread) -> None:
    hello = Frame(FrameType.HELLO, ready.hello.encode(), (ready.fd, ready.fd))
    ready.channel.send(hello)
    assert ready.ended()
    assert server.wait() == 1


def test_stray_descriptors_are_an_error(ready: Device, server: FirmwareThread) -> None:
    socket.send_fds(ready.socket, [struct.pack("<II", FrameType.RESET, 0)], [ready.fd])
    assert ready.ended()
    assert server.wait() == 1


def test_half_a_frame_and_then_nothing(ready: Device, server: FirmwareThread) -> None:
    ready.socket.sendall(struct.pack("<II", FrameType.COMMAND, 16) + b"half")
    ready.socket.shutdown(socket.SHUT_WR)
    assert server.wait() == 1
    assert "within a frame" in server.log()


def test_a_frame_in_pieces_is_one(ready: Device) -> None:
    raw = struct.pack("<IIIIQ", FrameType.COMMAND, 16, 0x7FF, 0, 0)
    for byte in raw:
        ready.socket.sendall(bytes([byte]))
    assert ready.receive().pair()[0] == SevFwError.INVALID_COMMAND


def test_a_command_before_hello(device: Device, server: FirmwareThread) -> None:
    device.channel.send(protocol.command(sev.SEV_CMD_SNP_INIT, 0))
    assert device.ended()
    assert server.wait() == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("rmp_base", LOW - 4096), ("rmp_base", 0x1001), ("rmp_size", 100), ("rmp_size", 1 << 40)],
)
def test_a_machine_that_cannot_be_is_refused(
    device: Device, server: FirmwareThread, field: str, value: int
) -> None:
    fields = {"rmp_base": RMP_BASE, "rmp_size": RMP_SIZE, field: value}
    hello = Hello(device.hello.regions, cbit=51, max_asid=99, min_sev_asid=51, **fields)
    assert device.greet(hello) == (1, 1)
    assert server.wait() == 1


def test_regions_larger_than_their_file_are_refused(device: Device, server: FirmwareThread) -> None:
    regions = (Region(0, 2 * (LOW + HIGH_SIZE), 0, device.fd),)
    assert device.greet(Hello(regions, RMP_BASE, RMP_SIZE, 51, 99, 51)) == (1, 1)
    assert server.wait() == 1
    assert "larger than its file" in server.log()


def test_it_ends_with_the_connection_and_leaves_nothing(
    ready: Device, server: FirmwareThread
) -> None:
    ready.channel.close()
    assert server.wait() == 0
    assert not server.socket.exists()
    assert not control_path(server.socket).exists()


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "psp"
    script = (
        "import sys, time; from pathlib import Path\n"
        "from harness.machine.psp_process import PspProcess\n"
        f"made = PspProcess(Path({str(path)!r}), Path({str(tmp_path / 'log')!r}))\n"
        "print(made.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    device = Device(path)
    assert device.greet() == (1, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait(SECONDS)
    parent.stdout.close()
    assert device.ended()
    device.close()
    end = time.monotonic() + SECONDS
    while _runs(pid) and time.monotonic() < end:
        time.sleep(0.01)  # nobody's child any more: there is nothing to wait for
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_path_that_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="did not start") as caught:
        PspProcess(tmp_path / "no" / "psp", tmp_path / "log")
    assert "No such file" in caught.value.hint


def test_control_before_the_machine_and_nonsense(server: FirmwareThread) -> None:
    assert server.state() == {"error": "no machine yet"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(SECONDS)
        client.connect(str(control_path(server.socket)))
        client.sendall(b"not json\n")
        assert b"not JSON" in client.recv(4096)
