# SPDX-License-Identifier: GPL-2.0-only
"""The binary layout of a vCPU's mailbox: one page with a header and 21 command records.

Python fills records and sets `count`, the guest runs them in order, writes each record's
result back, raises `done`, clears `count`, and notifies through `layout.NOTIFY_PORT`.
All numbers are little endian.  `harness.guestimage` renders the same numbers for C.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

MAGIC: Final = 0x54504E53
"""The guest writes it when it has set itself up ("SNPT")."""

PROTOCOL: Final = 1
REFUSED_VECTOR: Final = 0x100
"""Vector reported when the hypervisor called an exit of the #VC handler malformed: + reason."""
HEADER_SIZE: Final = 64
RECORD_SIZE: Final = 192
ARGS: Final = 11
VALUES: Final = 8
MAX_RECORDS: Final = (4096 - HEADER_SIZE) // RECORD_SIZE

_HEADER: Final = struct.Struct("<IIIIIIQQIIQQ")
_COMMAND: Final = struct.Struct(f"<II{ARGS}Q")
_RESULT: Final = struct.Struct(f"<IIQQQ{VALUES}Q")
COUNT_OFFSET: Final = 8
assert _HEADER.size == HEADER_SIZE
assert _COMMAND.size + _RESULT.size == RECORD_SIZE


class Op(IntEnum):
    """What the guest can be told to do; arguments in order, then -> the values it answers.

    Addresses are virtual: `layout.private(gpa)` or `layout.shared(gpa)`.
    """

    NOP = 0
    """(anything) -> the first eight arguments"""
    PVALIDATE = 1
    """(va, size 0=4K 1=2M, validate, count) -> RAX and CF of the last, pages done, pages whose
    state changed; stops after the first RAX that is not 0"""
    RMPADJUST = 2
    """(va, size, RDX, count) -> RAX of the last, pages done"""
    RMPQUERY = 3
    """(va, RCX, RDX) -> RAX, RCX, RDX"""
    LOAD = 4
    """(va, bytes 1|2|4|8) -> value"""
    STORE = 5
    """(va, bytes, value)"""
    FILL = 6
    """(va, length, first word, step): 64-bit words first, first + step, ..."""
    CHECKSUM = 7
    """(va, length) -> sum of w[i], sum of w[i] * (i + 1) over 64-bit words"""
    VERIFY = 8
    """(va, length, first word, step) -> words that differ from FILL's, offset and value of the
    first of them"""
    COPY = 9
    """(to va, from va, length)"""
    GHCB_REGISTER = 10
    """(gpa) -> answer of the MSR protocol; later exits use this GHCB if it was accepted"""
    GHCB_MSR = 11
    """(value) -> value before; writes the GHCB MSR and leaves it so (no VMGEXIT)"""
    VMGEXIT_MSR = 12
    """(value) -> answer; one exchange of the GHCB MSR protocol"""
    VMGEXIT = 13
    """(exit code, info1, info2, scratch, rax, rbx, rcx, rdx, xcr0, version, usage), flags
    VmgExit -> sw_exit_info_1, sw_exit_info_2, rax, rbx, rcx, rdx, both words of valid_bitmap"""
    VMGEXIT_RAW = 14
    """() flags VmgExit.KEEP_MSR; with the GHCB page as it is -> as VMGEXIT"""
    PSC = 15
    """(limit, info1, info2) repeat NAE 0x80000010 with the list in the GHCB's shared buffer
    until it is done, fails or `limit` exits are used up -> sw_exit_info_1, sw_exit_info_2, exits,
    cur_entry, end_entry"""
    CPUID = 16
    """(leaf, subleaf), flag 1: through the MSR protocol -> eax, ebx, ecx, edx"""
    RDMSR = 17
    """(index) -> value"""
    WRMSR = 18
    """(index, value)"""
    IN = 19
    """(port, bytes) -> value"""
    OUT = 20
    """(port, bytes, value)"""
    HLT = 21
    """()"""
    HYPERCALL = 22
    """(number, a0, a1, a2, a3), flag 1: by VMCALL instead of VMMCALL -> RAX"""
    SPIN_UNTIL = 23
    """(va, value, mask, limit) -> word seen, iterations; status LIMIT when it never came"""
    LOCKED_ADD = 24
    """(va, addend, times) -> word after the last addition"""
    STORE_LOOP = 25
    """(va, value, times, stride, span): store words, value counts up, address wraps at span"""
    LOAD_LOOP = 26
    """(va, times) -> last word, how often it changed, first word"""
    RDTSC = 27
    """() -> TSC"""
    XMM_SET = 28
    """(va of 256 bytes) into XMM0..15"""
    XMM_GET = 29
    """(va of 256 bytes) from XMM0..15"""
    EXECUTE = 30
    """(va, rdi, rsi, rdx) call the code there -> RAX.  It must leave RSP on its stack"""
    TERMINATE = 31
    """(reason set, reason code) by the MSR protocol; does not return"""
    TRIPLE_FAULT = 32
    """(); does not return"""
    BUILD_VMSA = 33
    """(va of the page, rip, rsp, rdi, sev_features, vmpl, cr3), flag 1: no RMPADJUST
    -> RAX of RMPADJUST"""
    STATE = 34
    """() -> cr0, cr3, cr4, rflags, rsp, cs, tr, vCPU index"""
    XCHG = 35
    """(va, value) -> value before, swapped atomically"""


class Status(IntEnum):
    """How a command ended."""

    OK = 0
    FAULT = 1
    """An exception: `vector`, `error_code`, `cr2`, `rip` say which."""
    BAD_OP = 2
    LIMIT = 3
    """An iteration limit was used up."""
    UNSUPPORTED = 4
    """This flavour of the guest hasn't got the operation."""
    PENDING = 0xFFFFFFFF
    """Not run yet (Python writes it)."""


class VmgExit(IntFlag):
    """Flags of Op.VMGEXIT: which optional fields are written and marked valid."""

    SCRATCH = 1 << 0
    RAX = 1 << 1
    RBX = 1 << 2
    RCX = 1 << 3
    RDX = 1 << 4
    XCR0 = 1 << 5
    VERSION = 1 << 6
    """Use argument 9 as protocol version instead of 2."""
    USAGE = 1 << 7
    """Use argument 10 as GHCB usage instead of 0."""
    NO_EXIT_CODE = 1 << 8
    """Leave sw_exit_code's valid bit clear; likewise the next two."""
    NO_INFO1 = 1 << 9
    NO_INFO2 = 1 << 10
    KEEP_MSR = 1 << 11
    """Exit with the GHCB MSR as Op.GHCB_MSR left it."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command for the guest."""

    op: Op
    args: tuple[int, ...] = ()
    flags: int = 0

    def encode(self) -> bytes:
        """The record as the guest reads it, its result marked PENDING."""
        if len(self.args) > ARGS:
            raise ValueError(f"{self.op.name} takes at most {ARGS} arguments")
        args = [arg & 0xFFFFFFFFFFFFFFFF for arg in self.args]
        args += [0] * (ARGS - len(args))
        return _COMMAND.pack(self.op, self.flags, *args) + _RESULT.pack(
            Status.PENDING, 0, 0, 0, 0, *[0] * VALUES
        )


@dataclass(frozen=True, slots=True)
class RawResult:
    """The result half of a record, as the guest wrote it (untrusted numbers)."""

    status: int
    vector: int
    error_code: int
    cr2: int
    rip: int
    values: tuple[int, ...]

    @classmethod
    def decode(cls, record: bytes) -> RawResult:
        """Read the result half of a whole record."""
        status, vector, error_code, cr2, rip, *values = _RESULT.unpack_from(record, _COMMAND.size)
        return cls(status, vector, error_code, cr2, rip, tuple(values))


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a mailbox."""

    magic: int
    protocol: int
    count: int
    done: int
    boots: int
    """How often this vCPU has gone through the guest's entry."""
    batches: int
    sev_info: int
    """Answer of the GHCB MSR protocol to SEV_INFO (0 for a plain guest)."""
    registration: int
    """Answer to the registration of the GHCB at entry."""
    fatal_vector: int
    """Vector + 1 of an exception outside any command; the guest stopped there."""
    index: int
    fatal_error: int
    fatal_rip: int

    @classmethod
    def decode(cls, page: bytes) -> Header:
        """Read the header at the start of a mailbox."""
        return cls(*_HEADER.unpack_from(page))


def record_offset(number: int) -> int:
    """Offset of record `number` in the mailbox."""
    return HEADER_SIZE + number * RECORD_SIZE


def constants() -> dict[str, int]:
    """All numbers that the guest shares, by the name that its header gives them."""
    numbers = {
        "MAILBOX_MAGIC": MAGIC,
        "MAILBOX_PROTOCOL": PROTOCOL,
        "MAILBOX_ARGS": ARGS,
        "REFUSED_VECTOR": REFUSED_VECTOR,
        "MAILBOX_VALUES": VALUES,
        "MAILBOX_MAX_RECORDS": MAX_RECORDS,
    }
    numbers |= {f"OP_{op.name}": int(op) for op in Op}
    numbers |= {f"STATUS_{status.name}": int(status) for status in Status}
    numbers |= {f"VMGEXIT_{flag.name}": int(flag) for flag in VmgExit}
    return numbers
