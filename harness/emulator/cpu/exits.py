# SPDX-License-Identifier: GPL-2.0-only
"""Why a guest stopped: the #VMEXITs that KVM sees."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VmgExit:
    """VMGEXIT; RIP is past the instruction."""


@dataclass(frozen=True, slots=True)
class Npf:
    """Nested page fault: EXITINFO2 and EXITINFO1 (PFERR_* of the kernel)."""

    gpa: int
    error_code: int


@dataclass(frozen=True, slots=True)
class Hlt:
    """HLT; RIP is past the instruction."""


@dataclass(frozen=True, slots=True)
class Intr:
    """The budget is used up."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Triple fault."""

    reason: str = "triple fault"


@dataclass(frozen=True, slots=True)
class Invalid:
    """VMEXIT_INVALID: VMRUN refused the VMSA, nothing ran."""

    reason: str


@dataclass(frozen=True, slots=True)
class CrWrite:
    """CR write trap of an SEV-ES guest: the register has its new value already."""

    register: int
    value: int


@dataclass(frozen=True, slots=True)
class EferWrite:
    """EFER write trap of an SEV-ES guest: the register has its new value already."""

    value: int


@dataclass(frozen=True, slots=True)
class Io:
    """Port I/O of a plain guest, one element.

    `Cpu.complete_io` must supply what IN or INS reads before the guest runs on.
    """

    port: int
    size: int
    write: bool
    data: bytes
    """The bytes written; zeros for a read."""


@dataclass(frozen=True, slots=True)
class Msr:
    """RDMSR or WRMSR of a plain guest; RIP is past it.  `Cpu.complete_msr` supplies a read."""

    index: int
    write: bool
    value: int = 0


@dataclass(frozen=True, slots=True)
class Vmmcall:
    """VMMCALL or VMCALL of a plain guest; RIP is past it, the registers are in Cpu.regs."""


Exit = VmgExit | Npf | Hlt | Intr | Shutdown | Invalid | CrWrite | EferWrite | Io | Msr | Vmmcall
