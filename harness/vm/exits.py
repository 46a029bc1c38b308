# SPDX-License-Identifier: GPL-2.0-only
"""Why KVM_RUN returned, as values (struct kvm_run, Linux 6.12; KVM_EXIT_VMGEXIT from v12)."""

from __future__ import annotations

import errno as _errno
from dataclasses import dataclass

from harness.uapi import kvm as uapi

EHWPOISON = 133
"""Linux only; the typing stubs of errno lack it."""


@dataclass(frozen=True, slots=True)
class IoExit:
    """KVM_EXIT_IO."""

    port: int
    size: int
    out: bool
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class HypercallExit:
    """KVM_EXIT_HYPERCALL: answer with Vcpu.set_hypercall_result."""

    nr: int
    args: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VmgexitExit:
    """KVM_EXIT_VMGEXIT of v12: `type` says which of the fields count."""

    type: int
    gpa: int = 0
    op: int = 0
    shared_gpa: int = 0
    data_gpa: int = 0
    data_npages: int = 0


@dataclass(frozen=True, slots=True)
class CertificatesExit:
    """KVM_EXIT_SNP_REQ_CERTS (Linux 7.0): answer with Vcpu.set_certificates_result."""

    gpa: int
    npages: int


@dataclass(frozen=True, slots=True)
class MemoryFaultExit:
    """KVM_EXIT_MEMORY_FAULT, always with a failing KVM_RUN (`errno`)."""

    gpa: int
    size: int
    private: bool
    errno: int


@dataclass(frozen=True, slots=True)
class SystemEventExit:
    """KVM_EXIT_SYSTEM_EVENT: SEV_TERM carries the GHCB MSR's value."""

    type: int
    data: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MmioExit:
    """KVM_EXIT_MMIO."""

    gpa: int
    length: int
    write: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class FailEntryExit:
    """KVM_EXIT_FAIL_ENTRY: the hardware refused the VMSA or the VMCB."""

    reason: int


@dataclass(frozen=True, slots=True)
class InternalErrorExit:
    """KVM_EXIT_INTERNAL_ERROR."""

    suberror: int


@dataclass(frozen=True, slots=True)
class HaltExit:
    """KVM_EXIT_HLT."""


@dataclass(frozen=True, slots=True)
class ShutdownExit:
    """KVM_EXIT_SHUTDOWN: triple fault."""


@dataclass(frozen=True, slots=True)
class InterruptedExit:
    """KVM_RUN returned EINTR: a signal, or immediate_exit."""


@dataclass(frozen=True, slots=True)
class RunError:
    """KVM_RUN failed with an errno and without an exit that explains it."""

    errno: int

    def __str__(self) -> str:
        return f"KVM_RUN failed: {_errno.errorcode.get(self.errno, self.errno)}"


@dataclass(frozen=True, slots=True)
class OtherExit:
    """An exit that the harness does not interpret."""

    reason: int


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
