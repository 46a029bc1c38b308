# SPDX-License-Identifier: GPL-2.0-only
"""Page state changes: requests to the VMM, and lists as the guest writes them.

GHCB specification (56421) section 4.1.6: header {u16 cur_entry, u16 end_entry, u32 reserved},
then up to 253 entries of 64 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from harness.uapi import kvm as uapi
from harness.uapi.ghcb import (
    VMGEXIT_PSC_ERROR_GENERIC,
    VMGEXIT_PSC_ERROR_INVALID_ENTRY,
    VMGEXIT_PSC_ERROR_INVALID_HDR,
)
from harness.vm.layout import PAGE_SIZE, PAGE_SIZE_2M
from harness.vm.vm import Vm

MAX_ENTRIES: Final = 253
LIST_SIZE: Final = 8 + 8 * MAX_ENTRIES


class PscOp(IntEnum):
    """Operation of an entry."""

    PRIVATE = 1
    SHARED = 2
    PSMASH = 3
    UNSMASH = 4


@dataclass(frozen=True, slots=True)
class PscEntry:
    """One entry of a list."""

    gfn: int
    op: int
    large: bool = False
    """A 2 MiB page."""
    cur_page: int = 0

    def encode(self) -> int:
        """The entry as 64 bits."""
        return (
            (self.cur_page & 0xFFF)
            | (self.gfn & ((1 << 40) - 1)) << 12
            | (self.op & 0xF) << 52
            | int(self.large) << 56
        )

    @classmethod
    def decode(cls, raw: int) -> PscEntry:
        """Read 64 bits."""
        gfn = raw >> 12 & ((1 << 40) - 1)
        return cls(gfn, raw >> 52 & 0xF, bool(raw >> 56 & 1), raw & 0xFFF)


def encode_list(
    entries: Sequence[PscEntry | int], *, cur: int = 0, end: int | None = None, reserved: int = 0
) -> bytes:
    """A list with its header; `end` defaults to the last entry."""
    raw = [entry if isinstance(entry, int) else entry.encode() for entry in entries]
    last = len(raw) - 1 if end is None else end
    return struct.pack(f"<HHI{len(raw)}Q", cur, last & 0xFFFF, reserved, *raw)


def decode_list(data: bytes) -> tuple[int, int, list[PscEntry]]:
    """(cur_entry, end_entry, all entries that the data holds)."""
    cur, end = struct.unpack_from("<HH", data)
    count = (len(data) - 8) // 8
    return cur, end, [PscEntry.decode(raw) for raw in struct.unpack_from(f"<{count}Q", data, 8)]


def entries_for(gpa: int, size: int, op: PscOp, *, large: bool = False) -> Iterable[PscEntry]:
    """Entries that cover a range, in 4 KiB or 2 MiB pages."""
    step = PAGE_SIZE_2M if large else PAGE_SIZE
    for at in range(gpa, gpa + size, step):
        yield PscEntry(at >> 12, op, large)


@dataclass(frozen=True, slots=True)
class PscRequest:
    """What a VMM is asked for: make a range private or shared."""

    gpa: int
    size: int
    private: bool
    large: bool = False

    @classmethod
    def of_hypercall(cls, args: Sequence[int]) -> PscRequest:
        """From the arguments of KVM_HC_MAP_GPA_RANGE (gpa, pages of 4 KiB, flags)."""
        private = bool(args[2] & uapi.KVM_MAP_GPA_RANGE_ENCRYPTED)
        large = bool(args[2] & uapi.KVM_MAP_GPA_RANGE_PAGE_SZ_2M)
        return cls(args[0], args[1] * PAGE_SIZE, private, large)


def serve_list(vm: Vm, gpa: int, convert: Callable[[PscRequest], int]) -> int:
    """Work off a list in guest memory as v12's userspace must; returns the error for the guest.

    Progress is written back: cur_page of each entry, cur_entry of the header.
    """
    room = PAGE_SIZE - gpa % PAGE_SIZE
    data = vm.read_gpa(gpa, min(LIST_SIZE, room))
    cur, end, entries = decode_list(data)
    if end >= min(MAX_ENTRIES, len(entries)) or cur > end:
        return VMGEXIT_PSC_ERROR_INVALID_HDR
    for number in range(cur, end + 1):
        entry = entries[number]
        pages = 512 if entry.large else 1
        if entry.op in (PscOp.PRIVATE, PscOp.SHARED):
            if entry.cur_page > pages or entry.gfn % pages:
                return VMGEXIT_PSC_ERROR_INVALID_ENTRY
            left = pages - entry.cur_page
            start = (entry.gfn + entry.cur_page) * PAGE_SIZE
            request = PscRequest(start, left * PAGE_SIZE, entry.op == PscOp.PRIVATE, entry.large)
            error = convert(request) if left else 0
            if error:
                return error if error > 0 else VMGEXIT_PSC_ERROR_GENERIC
        elif entry.op not in (PscOp.PSMASH, PscOp.UNSMASH):
            return VMGEXIT_PSC_ERROR_INVALID_ENTRY
        done = PscEntry(entry.gfn, entry.op, entry.large, pages).encode()
        vm.write_gpa(gpa + 8 + number * 8, done.to_bytes(8, "little"))
        vm.write_gpa(gpa, (number + 1).to_bytes(2, "little"))
    return 0
