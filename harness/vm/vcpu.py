# SPDX-License-Identifier: GPL-2.0-only
"""A vCPU as userspace sees it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from harness.kernel import Kernel
from harness.operations import Close, Ioctl, Munmap, Op, Result, Ticket, Write
from harness.uapi import kvm as uapi
from harness.uapi.errors import errno_name
from harness.vm.closing import Closing
from harness.vm.errors import KvmIoctlError
from harness.vm.exits import Exit, parse
from harness.vm.results import Number
from harness.vm.system import System

RUN_TIMEOUT = 20.0
"""Seconds that a guest may take from one exit to the next."""

RUN_PAGE = 4096 + 256
"""Bytes of the mapping that are read after an exit: kvm_run and the start of the port I/O data."""

IMMEDIATE_EXIT = uapi.kvm_run.immediate_exit.offset


class PreFault(NamedTuple):
    """What KVM_PRE_FAULT_MEMORY gave: the errno, and the GPA and size of what is left."""

    errno: int
    gpa: int
    size: int

    @property
    def operation(self) -> str:
        """The ioctl and the page that it began with."""
        return str(getattr(self.errno, "operation", ""))


class Vm(Protocol):
    """What a vCPU knows of its VM: harness/vm/vm.py."""

    host: System
    kernel: Kernel
    thread_base: int

    @property
    def vcpus(self) -> Sequence[Vcpu]:
        """The vCPUs that are open."""


class Vcpu(Closing):
    """One vCPU; its KVM_RUN runs on a thread of the target of its own."""

    def __init__(self, vm: Vm, fd: int, id: int) -> None:
        self.vm = vm
        self.kernel = vm.kernel
        self.fd = fd
        self.id = id
        self.thread = vm.thread_base + len(vm.vcpus) + 1
        self._size = vm.host.vcpu_mmap_size
        self.run_address = vm.kernel.mmap(self._size, fd=fd)
        self._open = True

    # -- registers -------------------------------------------------------------------------

    def _ioctl(self, name: str, request: int, arg: int | bytes = 0) -> bytes:
        return self._checked(name, self.kernel.ioctl(self.fd, request, arg))

    def _checked(self, name: str, result: Result) -> bytes:
        if not result.ok:
            raise KvmIoctlError(f"{name} (vCPU {self.id})", result.errno)
        return result.data

    def set_up(
        self,
        cpuid: Sequence[uapi.kvm_cpuid_entry2],
        change: Callable[[uapi.kvm_sregs], None],
        regs: uapi.kvm_regs,
        mp_state: int | None = None,
    ) -> None:
        """CPUID, system registers as `change` leaves them, general registers, MP state.

        As the setters one by one, in two exchanges with the target.
        """
        before: list[tuple[str, int, bytes]] = [
            ("KVM_SET_CPUID2", uapi.KVM_SET_CPUID2, _cpuid_request(cpuid)),
            ("KVM_GET_SREGS", uapi.KVM_GET_SREGS, bytes(uapi.kvm_sregs())),
        ]
        sregs = uapi.kvm_sregs.from_buffer_copy(self._ioctls(before))
        change(sregs)
        after = [
            ("KVM_SET_SREGS", uapi.KVM_SET_SREGS, bytes(sregs)),
            ("KVM_SET_REGS", uapi.KVM_SET_REGS, bytes(regs)),
        ]
        if mp_state is not None:
            state = bytes(uapi.kvm_mp_state(mp_state=mp_state))
            after.append(("KVM_SET_MP_STATE", uapi.KVM_SET_MP_STATE, state))
        self._ioctls(after)

    def _ioctls(self, calls: Sequence[tuple[str, int, bytes]]) -> bytes:
        """Issue ioctls in one batch; return what the last one left in its buffer."""
        results = self.kernel.batch([Ioctl(self.fd, request, arg) for _, request, arg in calls])
        for (name, _, _), result in zip(calls, results, strict=False):
            data = self._checked(name, result)
        return data

    def get_regs(self) -> uapi.kvm_regs:
        """KVM_GET_REGS."""
        data = self._ioctl("KVM_GET_REGS", uapi.KVM_GET_REGS, bytes(uapi.kvm_regs()))
        return uapi.kvm_regs.from_buffer_copy(data)

    def set_regs(self, regs: uapi.kvm_regs) -> None:
        """KVM_SET_REGS."""
        self._ioctl("KVM_SET_REGS", uapi.KVM_SET_REGS, bytes(regs))

    def get_sregs(self) -> uapi.kvm_sregs:
        """KVM_GET_SREGS."""
        data = self._ioctl("KVM_GET_SREGS", uapi.KVM_GET_SREGS, bytes(uapi.kvm_sregs()))
        return uapi.kvm_sregs.from_buffer_copy(data)

    def set_sregs(self, sregs: uapi.kvm_sregs) -> None:
        """KVM_SET_SREGS."""
        self._ioctl("KVM_SET_SREGS", uapi.KVM_SET_SREGS, bytes(sregs))

    def set_cpuid(self, entries: Sequence[uapi.kvm_cpuid_entry2]) -> None:
        """KVM_SET_CPUID2."""
        self._ioctl("KVM_SET_CPUID2", uapi.KVM_SET_CPUID2, _cpuid_request(entries))

    @property
    def mp_state(self) -> int:
        """KVM_GET_MP_STATE."""
        data = self._ioctl("KVM_GET_MP_STATE", uapi.KVM_GET_MP_STATE, bytes(uapi.kvm_mp_state()))
        return int(uapi.kvm_mp_state.from_buffer_copy(data).mp_state)

    @mp_state.setter
    def mp_state(self, state: int) -> None:
        self._ioctl(
            "KVM_SET_MP_STATE", uapi.KVM_SET_MP_STATE, bytes(uapi.kvm_mp_state(mp_state=state))
        )

    def pre_fault(self, gpa: int, size: int) -> PreFault:
        """KVM_PRE_FAULT_MEMORY of a range in bytes; a failure is a result."""
        request = bytes(uapi.kvm_pre_fault_memory(gpa=gpa, size=size))
        result = self.kernel.ioctl(self.fd, uapi.KVM_PRE_FAULT_MEMORY, request)
        left = uapi.kvm_pre_fault_memory.from_buffer_copy(result.data)
        name = f"KVM_PRE_FAULT_MEMORY of GPA {gpa:#x}"
        return PreFault(Number(result.errno, name, errno_name), left.gpa, left.size)

    # -- running ---------------------------------------------------------------------------

    def start(self, before: Sequence[Op] = ()) -> Ticket:
        """Begin KVM_RUN on the vCPU's thread, after other operations if given."""
        return self.kernel.start([*before, self.run_op()], thread=self.thread)

    def run_op(self) -> Ioctl:
        """The operation KVM_RUN."""
        return Ioctl(self.fd, uapi.KVM_RUN)

    def finish(self, ticket: Ticket, timeout: float = RUN_TIMEOUT) -> Exit:
        """Wait for KVM_RUN to return and say why."""
        errno = self.kernel.wait(ticket, timeout)[-1].errno
        return parse(errno, self.kernel.read(self.run_address, RUN_PAGE))

    def run(self, timeout: float = RUN_TIMEOUT) -> Exit:
        """KVM_RUN until the next exit."""
        return self.finish(self.start(), timeout)

    def kick(self) -> None:
        """Make a KVM_RUN in progress, or the next one, return EINTR."""
        self.kernel.write(self.run_address + IMMEDIATE_EXIT, b"\1")
        self.kernel.interrupt(self.thread)

    def unkick(self) -> None:
        """Let KVM_RUN run again after kick()."""
        self.kernel.write(self.run_address + IMMEDIATE_EXIT, b"\0")

    # -- answers to exits ------------------------------------------------------------------

    def _answer(self, offset: int, value: int, size: int = 8) -> Write:
        return Write(self.run_address + offset, value.to_bytes(size, "little"))

    def hypercall_result_op(self, value: int) -> Write:
        """Operation that answers a HypercallExit; `value` is what the guest gets in RAX."""
        return self._answer(_offset("hypercall", "ret"), value & (1 << 64) - 1)

    def set_hypercall_result(self, value: int) -> None:
        """Answer a HypercallExit."""
        self.kernel.check(self.hypercall_result_op(value))

    def set_io_data(self, data: bytes) -> None:
        """Answer an IoExit of an IN instruction."""
        page = self.kernel.read(self.run_address, RUN_PAGE)
        offset = uapi.kvm_run.from_buffer_copy(page).io.data_offset
        self.kernel.write(self.run_address + offset, data)

    def set_mmio_data(self, data: bytes) -> None:
        """Answer a MmioExit of a read."""
        self.kernel.write(self.run_address + _offset("mmio", "data"), data)

    def set_psc_result(self, value: int) -> None:
        """Answer v12's PSC exit of a list."""
        self.kernel.check(self._answer(_vmgexit_offset("psc", "ret"), value & (1 << 64) - 1))

    def set_psc_msr_result(self, value: int) -> None:
        """Answer v12's PSC exit of the MSR protocol."""
        self.kernel.check(self._answer(_vmgexit_offset("psc_msr", "ret"), value & 0xFFFFFFFF, 4))

    def set_ext_guest_request_result(self, value: int, npages: int | None = None) -> None:
        """Answer v12's extended guest request: 0 done, 1 too short (npages needed), 2 busy."""
        if npages is not None:
            offset = _vmgexit_offset("ext_guest_req", "data_npages")
            self.kernel.check(self._answer(offset, npages))
        self.kernel.check(self._answer(_vmgexit_offset("ext_guest_req", "ret"), value, 4))

    def set_certificates_result(self, value: int, npages: int | None = None) -> None:
        """Answer a CertificatesExit: 0, ENOSPC (npages needed), EAGAIN or EIO."""
        if npages is not None:
            self.kernel.check(self._answer(_offset("snp_req_certs", "npages"), npages))
        self.kernel.check(self._answer(_offset("snp_req_certs", "ret"), value & (1 << 64) - 1))

    def closing_ops(self) -> list[Op]:
        """Operations that unmap the run page and close the vCPU; none where they were taken."""
        ops: list[Op] = []
        if self._open:
            ops = [Munmap(self.run_address, self._size), Close(self.fd)]
        self._open = False
        return ops

    def close(self) -> None:
        """Unmap the run page and close the descriptor; may be called twice."""
        self.kernel.run_all(self.closing_ops())


def _cpuid_request(entries: Sequence[uapi.kvm_cpuid_entry2]) -> bytes:
    return len(entries).to_bytes(4, "little") + bytes(4) + b"".join(map(bytes, entries))


def _member(kind: type[ctypes.Structure | ctypes.Union], name: str) -> tuple[int, type]:
    for field in kind._fields_:
        if field[0] == name:
            return int(getattr(kind, name).offset), field[1]
        if field[0] in getattr(kind, "_anonymous_", ()):
            base = int(getattr(kind, field[0]).offset)
            try:
                offset, member = _member(field[1], name)  # type: ignore[arg-type]
            except KeyError:
                continue
            return base + offset, member
    raise KeyError(name)


def _offset(*path: str) -> int:
    """Offset in struct kvm_run of a nested member."""
    at, kind = 0, uapi.kvm_run
    for name in path:
        offset, kind = _member(kind, name)  # type: ignore[assignment]
        at += offset
    return at


def _vmgexit_offset(*path: str) -> int:
    return _offset("vmgexit", *path)
