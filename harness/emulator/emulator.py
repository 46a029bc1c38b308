# SPDX-License-Identifier: GPL-2.0-only
"""The emulator as a `Kernel`: one machine, one kernel, one process that holds /dev/kvm."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Sequence
from dataclasses import replace

from harness.emulator.kvm.device import Kvm, KvmDevice
from harness.emulator.kvm.devsev import SevDevice
from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.files import Call, File
from harness.emulator.kvm.gmem import GmemFile
from harness.emulator.kvm.process import SCRATCH, Process
from harness.emulator.kvm.sched import Blocked, Task
from harness.emulator.machine import Machine, MachineConfig, PanicError
from harness.emulator.memory import PAGE_SIZE
from harness.emulator.psp.key_server import endorsement
from harness.emulator.rmp import PageSize
from harness.inspector import NO_PAGE, Inspector, RmpSize, RmpState, rmp_operation
from harness.kernel import Kernel
from harness.operations import (
    DEFAULT_TIMEOUT,
    Close,
    Fallocate,
    Ftruncate,
    Ioctl,
    Mmap,
    Munmap,
    Op,
    Open,
    Read,
    ReadFile,
    Result,
    TargetError,
    Ticket,
    Write,
    WriteFile,
    describe,
)
from harness.uapi.interfaces import INTERFACES, Interface


class Emulator(Kernel):
    """An SNP host in this process.  Deterministic: the same calls give the same answers."""

    name = "emulator"

    def __init__(
        self, interface: str | Interface = "merged", config: MachineConfig | None = None
    ) -> None:
        self.interface = INTERFACES[interface] if isinstance(interface, str) else interface
        self.config = config or MachineConfig()
        self.gmem_order = self.config.gmem_max_order
        self.machine = Machine(self.config)
        self.process = Process(self.machine, self.config.seed)
        self.kvm = Kvm(self.machine, self.interface, self.process)
        self.inspector = EmulatorInspector(self)
        self._results: dict[int, list[Result]] = {}
        self._pending: dict[int, bool] = {}
        self._next = 1
        self._down = False

    # -- the protocol ----------------------------------------------------------------------

    def start(self, ops: Sequence[Op], *, thread: int = 0) -> Ticket:
        """Queue a batch; it makes progress whenever somebody waits for anything."""
        what = describe(ops[0]) if ops else "nothing"
        ticket = Ticket(self._next, thread, what)
        self._next += 1
        self._results[ticket.number] = []
        self._pending[ticket.number] = True
        task = self.process.scheduler.task(thread)
        task.queue.append(self._work(ticket, list(ops), task))
        return ticket

    def wait(self, ticket: Ticket, timeout: float = DEFAULT_TIMEOUT) -> list[Result]:
        """Let all threads run until the batch is done."""
        if ticket.number not in self._pending:
            raise ValueError(f"ticket {ticket.number} was waited for already")
        self._check_alive()
        number = ticket.number
        self.process.scheduler.run_until(
            lambda: not self._pending[number], timeout, f"thread {ticket.thread}: {ticket.what}"
        )
        del self._pending[number]
        return self._results.pop(number)

    def wait_any(self, tickets: Sequence[Ticket], timeout: float = DEFAULT_TIMEOUT) -> Ticket:
        """Let all threads run until one of the batches is done."""
        unknown = [one.number for one in tickets if one.number not in self._pending]
        if unknown or not tickets:
            raise ValueError(f"tickets {unknown} were waited for already")
        self._check_alive()
        ended = [one for one in tickets if not self._pending[one.number]]
        if not ended:
            self.process.scheduler.run_until(
                lambda: not all(self._pending[one.number] for one in tickets),
                timeout,
                "; ".join(f"thread {one.thread}: {one.what}" for one in tickets),
            )
            ended = [one for one in tickets if not self._pending[one.number]]
        return ended[0]

    def interrupt(self, thread: int) -> None:
        """Make the thread's blocking call return EINTR at its next step."""
        task = self.process.scheduler.task(thread)
        if task.queue:
            task.signal_pending = True

    def log(self) -> str:
        """The emulated kernel's log."""
        return self.machine.log()

    def shutdown(self) -> None:
        """Exit of the process, then power off."""
        if self._down:
            return
        self._down = True
        for task in self.process.scheduler.tasks.values():
            while task.queue:
                task.queue.popleft().close()
        if not self.machine.dead:
            self.process.files.close_all()
            self.process.memory.release()
        self.machine.close()

    # -- system calls ----------------------------------------------------------------------

    def _check_alive(self) -> None:
        if self._down:
            raise TargetError("the emulator was shut down")
        if self.machine.dead:
            raise PanicError(self.machine.dead)

    def _work(
        self, ticket: Ticket, ops: list[Op], task: Task
    ) -> Generator[Blocked | None, None, None]:
        results = self._results[ticket.number]
        try:
            for op in ops:
                task.signal_pending = False
                result = yield from self._execute(op, task)
                results.append(result)
                if not result.ok:
                    break
        finally:
            if ticket.number in self._pending:
                self._pending[ticket.number] = False

    def _execute(self, op: Op, task: Task) -> Generator[Blocked | None, None, Result]:
        try:
            if isinstance(op, Ioctl):
                return (yield from self._ioctl(op, task))
            if isinstance(op, Fallocate):
                return (yield from self._fallocate(op, task))
            return self._simple(op)
        except KvmError as error:
            return Result(-1, error.errno)

    def _fallocate(self, op: Fallocate, task: Task) -> Generator[Blocked | None, None, Result]:
        file = self.process.files.get(op.fd)
        self.process.files.hold(file)
        try:
            outcome = file.fallocate(task, op.mode, op.offset, op.length)
            return Result(outcome if isinstance(outcome, int) else (yield from outcome))
        finally:
            self.process.files.drop(file)

    def _ioctl(self, op: Ioctl, task: Task) -> Generator[Blocked | None, None, Result]:
        file = self.process.files.get(op.fd)
        self.process.files.hold(file)
        try:
            return (yield from self._ioctl_of(file, op, task))
        finally:
            self.process.files.drop(file)

    def _ioctl_of(
        self, file: File, op: Ioctl, task: Task
    ) -> Generator[Blocked | None, None, Result]:
        process = self.process
        call = Call(process, task)
        if isinstance(op.arg, int):
            value = file.ioctl(call, op.request, op.arg & (1 << 64) - 1)
            if not isinstance(value, int):
                value = yield from value
            return Result(value)
        if len(op.arg) > SCRATCH:
            return Result(-1, errno.E2BIG)
        address = process.scratch(task.number)
        process.memory.write(address, op.arg)
        code, value = 0, -1
        try:
            outcome = file.ioctl(call, op.request, address)
            value = outcome if isinstance(outcome, int) else (yield from outcome)
        except KvmError as error:
            code = error.errno
        return Result(value, code, process.memory.read(address, len(op.arg)))

    def _simple(self, op: Op) -> Result:
        process = self.process
        match op:
            case Open(path=path, flags=flags):
                return Result(process.files.install(self._open(path, flags)))
            case Close(fd=fd):
                process.files.close(fd)
                return Result(0)
            case Mmap(length=length, fd=fd, offset=offset):
                pa = process.files.get(fd).mmap(length, offset) if fd >= 0 else None
                return Result(process.memory.map(length, pa))
            case Munmap(address=address, length=length):
                process.memory.unmap(address, length)
                return Result(0)
            case Read(address=address, length=length):
                return Result(length, 0, process.memory.read(address, length))
            case Write(address=address, data=data):
                process.memory.write(address, data)
                return Result(len(data))
            case Ftruncate(fd=fd, length=length):
                process.files.get(fd).ftruncate(length)
                return Result(0)
            case ReadFile(path=path, limit=limit):
                data = self._read_file(path)[:limit]
                return Result(len(data), 0, data)
            case WriteFile():
                raise KvmError(errno.EACCES)  # what there is to read is read-only
        raise TypeError(f"not an operation: {op!r}")

    def _open(self, path: str, flags: int) -> File:
        if path == "/dev/kvm":
            return KvmDevice(self.kvm)
        if path == "/dev/sev" and self.config.sev:
            return SevDevice(self.kvm, writable=flags & os.O_ACCMODE != os.O_RDONLY)
        raise KvmError(errno.ENOENT)

    def _read_file(self, path: str) -> bytes:
        prefix = "/sys/module/kvm_amd/parameters/"
        parameters = {
            "sev": self.config.sev,
            "sev_es": self.config.sev and self.config.sev_es,
            "sev_snp": self.kvm.sev_snp,
        }
        if path == "/proc/sys/kernel/osrelease":
            return f"{self.interface.release}-emulated\n".encode()
        checks = "/sys/devices/system/machinecheck/machinecheck0/check_interval"
        if path == checks and self.config.machine_checks:
            return b"12c\n"
        name = path.removeprefix(prefix)
        if not path.startswith(prefix) or name not in parameters:
            raise KvmError(errno.ENOENT)
        return b"Y\n" if parameters[name] else b"N\n"


class EmulatorInspector(Inspector):
    """Reads the emulated machine directly."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def assigned_pages(self) -> int:
        """Pages in the RMP that belong to a guest ASID."""
        return self._emulator.machine.rmp.assigned_pages()

    def firmware_pages(self) -> int:
        """Pages in the RMP that belong to the firmware."""
        return self._emulator.machine.rmp.assigned_pages(0)

    def _page(self, fd: int, offset: int) -> int | None:
        file = self._emulator.process.files.get(fd)
        if not isinstance(file, GmemFile):
            raise ValueError(f"descriptor {fd} is no guest_memfd")
        return file.page(offset // PAGE_SIZE)

    def gmem_rmp(self, fd: int, offset: int) -> RmpState:
        """The RMP entry behind an offset of a guest_memfd."""
        pa = self._page(fd, offset)
        if pa is None:
            return replace(NO_PAGE, operation=rmp_operation(offset))
        entry = self._emulator.machine.rmp.effective(pa)
        gpa = entry.gpa + (pa % (2 << 20) if entry.size == PageSize.PG_2M else 0)
        return RmpState(
            entry.assigned,
            entry.asid,
            gpa,
            entry.validated,
            RmpSize(entry.size),
            operation=rmp_operation(offset),
        )

    def gmem_bytes(self, fd: int, offset: int, length: int) -> bytes:
        """Memory behind an offset of a guest_memfd, within one page."""
        pa = self._page(fd, offset)
        if pa is None:
            return bytes(length)
        return self._emulator.machine.memory.read(pa + offset % PAGE_SIZE, length)

    def endorsement(self, name: str) -> bytes:
        """A certificate of the emulated chip, or a hashstick that it accepts."""
        return endorsement(self._emulator.machine.psp, self._emulator.config.seed or 0, name)

    def counters(self) -> dict[str, int]:
        """Counters of the machine and of its kernel."""
        kvm = self._emulator.kvm
        return {
            **self._emulator.machine.counters,
            "leaked_pages": kvm.host_rmp.leaked_pages,
            "asids": kvm.asids.used,
            "vms": len(kvm.vms),
        }
