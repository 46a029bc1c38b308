# SPDX-License-Identifier: GPL-2.0-only
"""Why KVM_RUN returned, as values (struct kvm_run, Linux 6.12; KVM_EXIT_VMGEXIT from v12)."""

from __future__ import annotations

import errno as _errno
from dataclasses import dataclass
from typing import ClassVar

from harness.uapi import kvm as uapi
from harness.uapi.errors import errno_name

EHWPOISON = 133
"""Linux only; the typing stubs of errno lack it."""


class Left:
    """How a vCPU left KVM_RUN: the operation, the kernel's name, and the fields in words."""

    __slots__ = ()
    operation: ClassVar[str] = "KVM_RUN"
    label: ClassVar[str]
    """The kernel's name of the exit."""

    @property
    def details(self) -> str:
        """The fields in words; "" where there are none."""
        return ""

    def __str__(self) -> str:
        """The exit's name and fields in one line."""
        return f"{self.label} ({self.details})" if self.details else self.label

    def __repr__(self) -> str:
        return f"{self.operation}: {self}"


@dataclass(frozen=True, slots=True, repr=False)
class IoExit(Left):
    """KVM_EXIT_IO."""

    label = "KVM_EXIT_IO"
    port: int
    size: int
    out: bool
    count: int
    data: bytes

    @property
    def details(self) -> str:
        """The fields in words."""
        access = "OUT to" if self.out else "IN from"
        return f"{access} port {self.port:#x}, {self.count} x {self.size} bytes"


@dataclass(frozen=True, slots=True, repr=False)
class HypercallExit(Left):
    """KVM_EXIT_HYPERCALL: answer with Vcpu.set_hypercall_result."""

    label = "KVM_EXIT_HYPERCALL"
    nr: int
    args: tuple[int, ...]

    @property
    def details(self) -> str:
        """The fields in words."""
        return f"number {self.nr}, {', '.join(f'{each:#x}' for each in self.args)}"


@dataclass(frozen=True, slots=True, repr=False)
class VmgexitExit(Left):
    """KVM_EXIT_VMGEXIT of v12: `type` says which of the fields count."""

    label = "KVM_EXIT_VMGEXIT"
    type: int
    gpa: int = 0
    op: int = 0
    shared_gpa: int = 0
    data_gpa: int = 0
    data_npages: int = 0

    @property
    def details(self) -> str:
        """The fields in words."""
        return f"type {self.type}"


@dataclass(frozen=True, slots=True, repr=False)
class CertificatesExit(Left):
    """KVM_EXIT_SNP_REQ_CERTS (Linux 7.0): answer with Vcpu.set_certificates_result."""

    label = "KVM_EXIT_SNP_REQ_CERTS"
    gpa: int
    npages: int

    @property
    def details(self) -> str:
        """The fields in words."""
        return f"GPA {self.gpa:#x}, pages: {self.npages}"


@dataclass(frozen=True, slots=True, repr=False)
class MemoryFaultExit(Left):
    """KVM_EXIT_MEMORY_FAULT, always with a failing KVM_RUN (`errno`)."""

    label = "KVM_EXIT_MEMORY_FAULT"
    gpa: int
    size: int
    private: bool
    errno: int

    @property
    def details(self) -> str:
        """The fields in words."""
        state = "private" if self.private else "shared"
        return f"{errno_name(self.errno)}, GPA {self.gpa:#x}, {self.size:#x} bytes, {state}"


@dataclass(frozen=True, slots=True, repr=False)
class SystemEventExit(Left):
    """KVM_EXIT_SYSTEM_EVENT: SEV_TERM carries the GHCB MSR's value."""

    label = "KVM_EXIT_SYSTEM_EVENT"
    type: int
    data: tuple[int, ...]

    @property
    def details(self) -> str:
        """The fields in words."""
        return f"type {self.type}, {', '.join(f'{each:#x}' for each in self.data)}"


@dataclass(frozen=True, slots=True, repr=False)
class MmioExit(Left):
    """KVM_EXIT_MMIO."""

    label = "KVM_EXIT_MMIO"
    gpa: int
    length: int
    write: bool
    data: bytes

    @property
    def details(self) -> str:
        """The fields in words."""
        return f"{'write' if self.write else 'read'} of {self.length} bytes at GPA {self.gpa:#x}"


@dataclass(frozen=True, slots=True, repr=False)
class FailEntryExit(Left):
    """KVM_EXIT_FAIL_ENTRY: the hardware refused the VMSA or the VMCB."""

    label = "KVM_EXIT_FAIL_ENTRY"
    reason: int

    @property
    def details(self) -> str:
        """The fields in words."""
        return f"hardware reason {self.reason:#x}"


@dataclass(frozen=True, slots=True, repr=False)
class InternalErrorExit(Left):
    """KVM_EXIT_INTERNAL_ERROR."""

    label = "KVM_EXIT_INTERNAL_ERROR"
    suberror: int

    @property
    def details(self) -> str:
        """The fields in words."""
        return f"suberror {self.suberror}"


@dataclass(frozen=True, slots=True, repr=False)
class HaltExit(Left):
    """KVM_EXIT_HLT."""

    label = "KVM_EXIT_HLT"


@dataclass(frozen=True, slots=True, repr=False)
class ShutdownExit(Left):
    """KVM_EXIT_SHUTDOWN: triple fault."""

    label = "KVM_EXIT_SHUTDOWN"


@dataclass(frozen=True, slots=True, repr=False)
class InterruptedExit(Left):
    """KVM_RUN returned EINTR: a signal, or immediate_exit."""

    label = "EINTR"


@dataclass(frozen=True, slots=True, repr=False)
class RunError(Left):
    """KVM_RUN failed with an errno and without an exit that explains it."""

    label = "an error"
    errno: int

    def __str__(self) -> str:
        return errno_name(self.errno)


@dataclass(frozen=True, slots=True, repr=False)
class OtherExit(Left):
    """An exit that the harness does not interpret."""

    label = "another exit"
    reason: int

    def __str__(self) -> str:
        """The kernel's name."""
        return uapi.exit_name(self.reason)


Exit = (
    IoExit
    | HypercallExit
    | VmgexitExit
    | CertificatesExit
    | MemoryFaultExit
    | SystemEventExit
    | MmioExit
    | FailEntryExit
    | InternalErrorExit
    | HaltExit
    | ShutdownExit
    | InterruptedExit
    | RunError
    | OtherExit
)


def parse(errno: int, page: bytes) -> Exit:
    """Interpret the run page after KVM_RUN ended with `errno` (0: it returned)."""
    run = uapi.kvm_run.from_buffer_copy(page)
    reason = run.exit_reason
    if errno == _errno.EINTR:
        return InterruptedExit()
    if errno:
        if reason == uapi.KVM_EXIT_MEMORY_FAULT and errno in (_errno.EFAULT, EHWPOISON):
            fault = run.memory_fault
            private = bool(fault.flags & uapi.KVM_MEMORY_EXIT_FLAG_PRIVATE)
            return MemoryFaultExit(fault.gpa, fault.size, private, errno)
        return RunError(errno)
    if reason == uapi.KVM_EXIT_IO:
        io = run.io
        length = io.size * io.count
        data = page[io.data_offset : io.data_offset + length]
        return IoExit(io.port, io.size, bool(io.direction), io.count, data)
    if reason == uapi.KVM_EXIT_HYPERCALL:
        return HypercallExit(run.hypercall.nr, tuple(run.hypercall.args))
    if reason == uapi.KVM_EXIT_VMGEXIT:
        return _vmgexit(run)
    if reason == uapi.KVM_EXIT_SNP_REQ_CERTS:
        return CertificatesExit(run.snp_req_certs.gpa, run.snp_req_certs.npages)
    if reason == uapi.KVM_EXIT_SYSTEM_EVENT:
        event = run.system_event
        return SystemEventExit(event.type, tuple(event.data[: event.ndata]))
    if reason == uapi.KVM_EXIT_MMIO:
        mmio = run.mmio
        return MmioExit(mmio.phys_addr, mmio.len, bool(mmio.is_write), bytes(mmio.data[: mmio.len]))
    if reason == uapi.KVM_EXIT_FAIL_ENTRY:
        return FailEntryExit(run.fail_entry.hardware_entry_failure_reason)
    if reason == uapi.KVM_EXIT_INTERNAL_ERROR:
        return InternalErrorExit(run.internal.suberror)
    if reason == uapi.KVM_EXIT_HLT:
        return HaltExit()
    if reason == uapi.KVM_EXIT_SHUTDOWN:
        return ShutdownExit()
    return OtherExit(reason)


def _vmgexit(run: uapi.kvm_run) -> VmgexitExit:
    vmgexit = run.vmgexit
    if vmgexit.type == uapi.KVM_USER_VMGEXIT_PSC_MSR:
        return VmgexitExit(vmgexit.type, gpa=vmgexit.psc_msr.gpa, op=vmgexit.psc_msr.op)
    if vmgexit.type == uapi.KVM_USER_VMGEXIT_PSC:
        return VmgexitExit(vmgexit.type, shared_gpa=vmgexit.psc.shared_gpa)
    request = vmgexit.ext_guest_req
    return VmgexitExit(vmgexit.type, data_gpa=request.data_gpa, data_npages=request.data_npages)
