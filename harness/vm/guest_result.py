# SPDX-License-Identifier: GPL-2.0-only
"""What a guest's command gave, and the errors of driving a guest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from harness.uapi.errors import errno_name
from harness.uapi.ghcb import GhcbError
from harness.uapi.kvm import KVM_ENOSYS
from harness.vm.commands import describe
from harness.vm.errors import GuestError
from harness.vm.exits import Exit
from harness.vm.mailbox import REFUSED_VECTOR, Command, Op, RawResult, Status
from harness.vm.results import Number

VECTOR_NAMES = {0: "#DE", 3: "#BP", 6: "#UD", 8: "#DF", 12: "#SS", 13: "#GP", 14: "#PF", 29: "#VC"}

_UNITS = {
    Op.VERIFY: " (words that differ)",
    Op.PVALIDATE: " (RAX)",
    Op.RMPADJUST: " (RAX)",
    Op.BUILD_VMSA: " (RAX)",
    Op.HYPERCALL: " (RAX)",
    Op.VMGEXIT_MSR: " (answer)",
}
"""What the first value of a command is."""

PAGE_NOT_VALIDATED = 0x404
"""#VC error code of an access to private memory that was not validated (APM 15.36.10)."""


def guest_errno(value: int) -> str:
    """Name what KVM answers a hypercall by: a number, or a negative errno in 64 bits."""
    error = (1 << 64) - value
    if error == KVM_ENOSYS:
        return "-KVM_ENOSYS"
    return f"-{errno_name(error)}" if error < KVM_ENOSYS else str(value)


class GuestTimeoutError(GuestError):
    """The guest did not answer in time; the text has the last exit."""


class GuestStopped(GuestError):
    """The vCPU left for good while the command ran; `result.exit` is why."""

    def __init__(self, result: GuestResult) -> None:
        super().__init__(f"{result.operation}: vCPU left with {result.exit}; want it done")
        self.result = result


class GuestFault(GuestError):
    """The command raised an exception inside the guest."""

    def __init__(self, result: GuestResult) -> None:
        super().__init__(f"{result.operation}: {result.describe_fault()}; want no exception")
        self.result = result


@dataclass(frozen=True, slots=True, repr=False)
class GuestResult:
    """The answer to one command."""

    command: Command
    status: Status
    values: tuple[int, ...]
    vector: int = 0
    error_code: int = 0
    cr2: int = 0
    rip: int = 0
    exit: Exit | None = None
    """Why the vCPU left when this command never ended."""

    @classmethod
    def of(cls, command: Command, raw: RawResult, stopped: Exit | None) -> GuestResult:
        """Judge what the guest wrote: its numbers may be anything."""
        try:
            status = Status(raw.status)
        except ValueError as error:
            raise GuestError(f"{command.op.name}: the guest wrote status {raw.status}") from error
        return cls(
            command,
            status,
            raw.values,
            raw.vector,
            raw.error_code,
            raw.cr2,
            raw.rip,
            stopped if status is Status.PENDING else None,
        )

    @property
    def ok(self) -> bool:
        """Whether the command ended without an exception."""
        return self.status is Status.OK

    @property
    def operation(self) -> str:
        """The command in words."""
        return describe(self.command)

    @property
    def value(self) -> int:
        """The first value."""
        op = self.command.op
        names = guest_errno if op is Op.HYPERCALL else None
        return Number(self.values[0], f"{self.operation}{_UNITS.get(op, '')}", names)

    def __str__(self) -> str:
        """What came of the command in words."""
        if self.status is Status.OK:
            return "success"
        if self.status is Status.FAULT:
            return self.describe_fault()
        return f"vCPU left with {self.exit}" if self.exit is not None else self.status.name

    def __repr__(self) -> str:
        return f"{self.operation}: {self}"

    @property
    def faulted(self) -> bool:
        """Whether it raised an exception in the guest."""
        return self.status is Status.FAULT

    @property
    def not_validated(self) -> bool:
        """Whether it touched private memory that was not validated (#VC 0x404)."""
        return self.faulted and (self.vector, self.error_code) == (29, PAGE_NOT_VALIDATED)

    def describe_fault(self) -> str:
        """The exception in one line."""
        reason = self.vector - REFUSED_VECTOR
        if reason >= 0:
            return f"the hypervisor refused the exit: {GhcbError.name_of(reason)}"
        name = VECTOR_NAMES.get(self.vector, f"vector {self.vector}")
        return f"{name}({self.error_code:#x}) at {self.rip:#x}, CR2 {self.cr2:#x}"

    def check(self) -> Self:
        """Return itself; raise GuestFault, GuestStopped or GuestError unless the command is OK."""
        if self.status is Status.OK:
            return self
        if self.status is Status.FAULT:
            raise GuestFault(self)
        if self.exit is not None:
            raise GuestStopped(self)
        raise GuestError(f"{self.operation}: {self.status.name} {self.values}")
