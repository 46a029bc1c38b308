# SPDX-License-Identifier: GPL-2.0-only
"""What a guest's command gave, and the errors of driving a guest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from harness.vm.exits import Exit
from harness.vm.mailbox import REFUSED_VECTOR, Command, RawResult, Status

VECTOR_NAMES = {0: "#DE", 3: "#BP", 6: "#UD", 8: "#DF", 12: "#SS", 13: "#GP", 14: "#PF", 29: "#VC"}

PAGE_NOT_VALIDATED = 0x404
"""#VC error code of an access to private memory that was not validated (APM 15.36.10)."""


class GuestError(Exception):
    """The guest did not do what it was told; the text says what it did instead."""


class GuestTimeoutError(GuestError):
    """The guest did not answer in time; the text has the last exit."""


class GuestStopped(GuestError):
    """The vCPU left for good while the command ran; `result.exit` is why."""

    def __init__(self, result: GuestResult) -> None:
        super().__init__(f"{result.command.op.name}: the vCPU stopped: {result.exit}")
        self.result = result


class GuestFault(GuestError):
    """The command raised an exception inside the guest."""

    def __init__(self, result: GuestResult) -> None:
        super().__init__(f"{result.command.op.name}: {result.describe_fault()}")
        self.result = result


@dataclass(frozen=True, slots=True)
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
    def value(self) -> int:
        """The first value."""
        return self.values[0]

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
        if self.vector >= REFUSED_VECTOR:
            return f"the hypervisor refused the exit, reason {self.vector - REFUSED_VECTOR}"
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
        raise GuestError(f"{self.command.op.name}: {self.status.name} {self.values}")
