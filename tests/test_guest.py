# SPDX-License-Identifier: GPL-2.0-only
"""The loop that drives a guest, over a kernel whose KVM_RUN follows a script."""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from harness import operations as seam
from harness.kernel import Kernel
from harness.operations import Result, TargetTimeoutError, Ticket
from harness.uapi import kvm as uapi
from harness.uapi.ghcb import (
    VMGEXIT_PSC_ERROR_GENERIC,
    VMGEXIT_PSC_ERROR_INVALID_ENTRY,
    VMGEXIT_PSC_ERROR_INVALID_HDR,
)
from harness.uapi.interfaces import INTERFACES
from harness.vm import exits, layout, mailbox
from harness.vm.errors import GuestError
from harness.vm.guest import Guest, GuestCpu
from harness.vm.guest_result import GuestFault, GuestStopped, GuestTimeoutError
from harness.vm.mailbox import Command, Op, Status
from harness.vm.psc import PscEntry, PscOp, PscRequest, decode_list, encode_list, serve_list
from harness.vm.vm import Vm

RUN_PAGES = 3 * 4096


class ScriptedKernel(Kernel):
    """Memory, and for each KVM_RUN the next step of a script (None: it never ends)."""

    name = "scripted"

    def __init__(self) -> None:
        self.memory = bytearray(32 << 20)
        self.top = 0x1000
        self.next_fd = 10
        self.script: deque[Callable[[], int] | None] = deque()
        self.attributes: list[tuple[int, int, int]] = []
        self.attributes_errno = 0
        self.done: dict[int, list[Result] | None] = {}

    def start(self, ops: Sequence[seam.Op], *, thread: int = 0) -> Ticket:
        ticket = Ticket(len(self.done), thread, "batch")
        results: list[Result] | None = []
        for op in ops:
            if isinstance(op, seam.Ioctl) and op.request == uapi.KVM_RUN:
                step = self.script.popleft()
                if step is None:
                    results = None
                    break
                result = Result(0, step())
            else:
                result = self._one(op)
            assert results is not None
            results.append(result)
            if result.errno:
                break
        self.done[ticket.number] = results
        return ticket

    def wait(self, ticket: Ticket, timeout: float = 1.0) -> list[Result]:
        results = self.done[ticket.number]
        if results is None:
            raise TargetTimeoutError("it never ends")
        return results

    def wait_any(self, tickets: Sequence[Ticket], timeout: float = 1.0) -> Ticket:
        ended = [ticket for ticket in tickets if self.done[ticket.number] is not None]
        if not ended:
            raise TargetTimeoutError("none ends")
        return ended[0]

    def _one(self, op: seam.Op) -> Result:
        match op:
            case seam.Mmap(length=length):
                at, self.top = self.top, self.top + length
                return Result(at)
            case seam.Read(address=at, length=length):
                return Result(length, 0, bytes(self.memory[at : at + length]))
            case seam.Write(address=at, data=data):
                self.memory[at : at + len(data)] = data
                return Result(len(data))
            case seam.Ioctl(request=uapi.KVM_SET_MEMORY_ATTRIBUTES, arg=bytes() as arg):
                request = uapi.kvm_memory_attributes.from_buffer_copy(arg)
                self.attributes.append((request.address, request.size, request.attributes))
                return Result(0, self.attributes_errno)
            case seam.Ioctl(arg=arg):
                self.next_fd += 1
                return Result(self.next_fd, 0, arg if isinstance(arg, bytes) else b"")
        return Result(0)

    def interrupt(self, thread: int) -> None:
        raise NotImplementedError

    def log(self) -> str:
        return ""

    def shutdown(self) -> None:
        self.script.clear()


class Stage:
    """A plain guest with two vCPUs on the scripted kernel, and steps for its script."""

    def __init__(self) -> None:
        self.kernel = ScriptedKernel()
        host: Any = SimpleNamespace(
            kernel=self.kernel,
            vms=[],
            interface=INTERFACES["merged"],
            fd=3,
            supported_cpuid=[],
            exits_on_map_gpa_range=False,
            vcpu_mmap_size=RUN_PAGES,
        )
        self.vm = Vm(host, 4, uapi.KVM_X86_DEFAULT_VM)
        self.guest = Guest.of(self.vm, max_vcpus=2)
        self.guest.add_memory()
        self.guest.add_vcpu()
        self.guest.add_vcpu()
        self.guest.load()

    @property
    def cpu(self) -> GuestCpu:
        return self.guest.cpu(0)

    def run_page(self, cpu: GuestCpu, run: uapi.kvm_run, data: bytes = b"") -> None:
        at = cpu.vcpu.run_address
        self.kernel.memory[at : at + len(bytes(run))] = bytes(run)
        self.kernel.memory[at + 4096 : at + 4096 + len(data)] = data

    def leave_io(self, port: int, data: bytes, out: bool, index: int = 0) -> Callable[[], int]:
        def step() -> int:
            run = uapi.kvm_run(exit_reason=uapi.KVM_EXIT_IO)
            run.io.port, run.io.size, run.io.count = port, len(data), 1
            run.io.direction, run.io.data_offset = int(out), 4096
            self.run_page(self.guest.cpu(index), run, data)
            return 0

        return step

    def answer(
        self, *results: tuple[int, ...], index: int = 0, status: int = 0
    ) -> Callable[[], int]:
        """The guest does its batch and notifies."""
        notify = self.leave_io(layout.NOTIFY_PORT, bytes(4), True, index)

        def step() -> int:
            box = self.vm.shared_address(layout.mailbox(index))
            for number, values in enumerate(results):
                at = box + mailbox.record_offset(number) + 96
                padded = (*values, *[0] * (8 - len(values)))
                record = struct.pack("<IIQQQ8Q", status, 13, 7, 8, 9, *padded)
                self.kernel.memory[at : at + 96] = record
            return notify()

        return step

    def leave_hypercall(self, nr: int, *args: int) -> Callable[[], int]:
        def step() -> int:
            run = uapi.kvm_run(exit_reason=uapi.KVM_EXIT_HYPERCALL)
            run.hypercall.nr = nr
            run.hypercall.args[: len(args)] = args
            self.run_page(self.cpu, run)
            return 0

        return step

    def leave(self, reason: int, error: int = 0) -> Callable[[], int]:
        def step() -> int:
            self.run_page(self.cpu, uapi.kvm_run(exit_reason=reason))
            return error

        return step


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_results_come_back(stage: Stage) -> None:
    """Values and status of each command, in order."""
    stage.kernel.script.append(stage.answer((1, 2), (3,)))
    first, second = stage.cpu.run([Command(Op.NOP), Command(Op.RDTSC)])
    assert first.check().values[:2] == (1, 2)
    assert second.value == 3
    assert stage.cpu.exits == {"IoExit": 1}


def test_long_batches_are_split(stage: Stage) -> None:
    """More commands than a mailbox holds take several entries."""
    stage.kernel.script.extend([stage.answer(*[(n,) for n in range(21)]), stage.answer((21,))])
    results = stage.cpu.run([Command(Op.NOP)] * 22)
    assert [result.value for result in results] == list(range(22))
    with pytest.raises(ValueError, match="21 commands"):
        stage.cpu.start(*[Command(Op.NOP)] * 22)


def test_fault_is_data_until_checked(stage: Stage) -> None:
    """An exception in the guest is a result; check() raises it by name."""
    stage.kernel.script.append(stage.answer((0,), status=Status.FAULT))
    result = stage.cpu.call(Op.LOAD, 0x1000, 8)
    assert (result.faulted, result.vector, result.error_code) == (True, 13, 7)
    with pytest.raises(GuestFault, match=r"LOAD of private GPA 0x1000: #GP\(0x7\) at 0x9"):
        result.check()


def test_impossible_status_is_an_error(stage: Stage) -> None:
    """What the guest writes is not trusted."""
    stage.kernel.script.append(stage.answer((0,), status=77))
    with pytest.raises(GuestError, match="status 77"):
        stage.cpu.call(Op.NOP)


def test_page_state_change_is_served(stage: Stage) -> None:
    """MAP_GPA_RANGE flips the attributes and answers 0, then the guest runs on."""
    flags = uapi.KVM_MAP_GPA_RANGE_ENCRYPTED
    convert = stage.leave_hypercall(uapi.KVM_HC_MAP_GPA_RANGE, 0x400000, 2, flags)
    stage.kernel.script.extend([convert, stage.answer((0,))])
    stage.cpu.call(Op.NOP).check()
    private = uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE
    assert stage.kernel.attributes == [(0x400000, 0x2000, private)]
    assert stage.guest.psc_requests == [PscRequest(0x400000, 0x2000, True)]


def test_hook_decides_a_page_state_change(stage: Stage) -> None:
    """A hook's result reaches the guest instead, nothing is converted."""
    answers: list[int] = []

    def after() -> int:
        at = stage.cpu.vcpu.run_address
        run = uapi.kvm_run.from_buffer_copy(bytes(stage.kernel.memory[at : at + 4096]))
        answers.append(run.hypercall.ret)
        return stage.answer((0,))()

    stage.guest.hooks.psc = lambda cpu, request: 5
    stage.kernel.script.append(stage.leave_hypercall(uapi.KVM_HC_MAP_GPA_RANGE, 0x400000, 1, 0))
    stage.kernel.script.append(after)
    stage.cpu.call(Op.NOP).check()
    assert answers == [5]
    assert stage.kernel.attributes == []


def test_final_exit_stops_the_vcpu(stage: Stage) -> None:
    """A triple fault ends the batch: commands without answer say why, later ones are not sent."""
    stage.kernel.script.append(stage.leave(uapi.KVM_EXIT_SHUTDOWN))
    results = stage.cpu.run([Command(Op.NOP)] * 30)
    assert len(results) == 30
    assert {type(result.exit) for result in results} == {exits.ShutdownExit}
    assert isinstance(stage.cpu.stopped, exits.ShutdownExit)
    with pytest.raises(GuestStopped, match="NOP: vCPU left with KVM_EXIT_SHUTDOWN"):
        results[0].check()


def test_failing_run_is_reported(stage: Stage) -> None:
    """KVM_RUN's errno is the exit."""
    stage.kernel.script.append(stage.leave(0, errno.EINVAL))
    assert stage.cpu.call(Op.NOP).exit == exits.RunError(errno.EINVAL)


def test_port_input_gets_the_hooks_data(stage: Stage) -> None:
    """IN reads what the hook returns, all ones without it."""
    data: list[bytes] = []

    def look() -> int:
        at = stage.cpu.vcpu.run_address + 4096
        data.append(bytes(stage.kernel.memory[at : at + 2]))
        return stage.answer((0,))()

    stage.guest.hooks.io = lambda cpu, reason: b"\x12\x34"
    stage.kernel.script.extend([stage.leave_io(0x70, bytes(2), False), look])
    stage.cpu.call(Op.NOP)
    stage.guest.hooks.io = None
    stage.kernel.script.extend([stage.leave_io(0x70, bytes(2), False), look])
    stage.cpu.call(Op.NOP)
    assert data == [b"\x12\x34", b"\xff\xff"]


def test_silence_is_a_timeout(stage: Stage) -> None:
    """Without an answer the error says which vCPU did what, and what was seen last."""
    stage.kernel.script.extend([stage.leave_io(0x80, b"\0", True), None])
    with pytest.raises(GuestTimeoutError, match=r"vCPU 0 in RDTSC .*last exit KVM_EXIT_IO \(OUT"):
        stage.cpu.call(Op.RDTSC, timeout=0.05)


def test_two_vcpus_at_once(stage: Stage) -> None:
    """Batches on several vCPUs are waited for together, also when only one ever ends."""
    stage.kernel.script.extend([stage.answer((1,)), stage.answer((2,), index=1)])
    batches = [cpu.start(Command(Op.NOP)) for cpu in stage.guest.cpus]
    results = stage.guest.wait(batches, 1.0)
    assert [[result.value for result in part] for part in results] == [[1], [2]]
    stage.kernel.script.extend([stage.answer((1,)), None])
    batches = [cpu.start(Command(Op.NOP)) for cpu in stage.guest.cpus]
    with pytest.raises(GuestTimeoutError, match="vCPU 1"):
        stage.guest.wait(batches, 0.05)
    with pytest.raises(GuestError, match="still busy"):
        stage.guest.cpu(1).start(Command(Op.NOP))


def entries_at(stage: Stage, entries: Sequence[PscEntry | int], cur: int = 0) -> int:
    gpa = layout.ghcb(0) + 0x800
    stage.vm.write_gpa(gpa, encode_list(entries, cur=cur))
    return gpa


def test_list_is_served_with_progress(stage: Stage) -> None:
    """v12: userspace walks the list from cur_entry and cur_page, and writes progress back."""
    entries = [
        PscEntry(0x400, PscOp.PRIVATE),
        PscEntry(0x600, PscOp.SHARED, large=True, cur_page=500),
        PscEntry(0x401, PscOp.PSMASH),
    ]
    gpa = entries_at(stage, entries)
    assert serve_list(stage.vm, gpa, stage.guest.convert) == 0
    assert stage.kernel.attributes == [(0x400000, 0x1000, 8), ((0x600 + 500) << 12, 12 << 12, 0)]
    cur, end, after = decode_list(stage.vm.read_gpa(gpa, 8 + 3 * 8))
    assert (cur, end) == (3, 2)
    assert [entry.cur_page for entry in after] == [1, 512, 1]


@pytest.mark.parametrize(
    ("entries", "error", "left_at"),
    [
        ([PscEntry(0x400, 1), PscEntry(0x401, 7)], VMGEXIT_PSC_ERROR_INVALID_ENTRY, 1),
        ([PscEntry(0x401, 1, large=True)], VMGEXIT_PSC_ERROR_INVALID_ENTRY, 0),
        ([PscEntry(0x400, 1, cur_page=2)], VMGEXIT_PSC_ERROR_INVALID_ENTRY, 0),
    ],
)
def test_bad_entries(stage: Stage, entries: list[PscEntry], error: int, left_at: int) -> None:
    """A bad entry stops the list there."""
    gpa = entries_at(stage, entries)
    assert serve_list(stage.vm, gpa, stage.guest.convert) == error
    assert decode_list(stage.vm.read_gpa(gpa, 8))[0] == left_at


def test_bad_header_and_failing_conversion(stage: Stage) -> None:
    """cur_entry behind end_entry, 254 entries, and attributes that can't be set."""
    gpa = entries_at(stage, [PscEntry(0x400, 1)], cur=1)
    assert serve_list(stage.vm, gpa, stage.guest.convert) == VMGEXIT_PSC_ERROR_INVALID_HDR
    stage.vm.write_gpa(gpa, struct.pack("<HHI", 0, 253, 0))
    assert serve_list(stage.vm, gpa, stage.guest.convert) == VMGEXIT_PSC_ERROR_INVALID_HDR
    gpa = entries_at(stage, [PscEntry(0x400, 1)])
    stage.kernel.attributes_errno = errno.ENOMEM
    assert serve_list(stage.vm, gpa, stage.guest.convert) == VMGEXIT_PSC_ERROR_GENERIC
