# SPDX-License-Identifier: GPL-2.0-only
"""The commands of a guest's vCPU as Python methods.

Each returns the GuestResult, or raises through GuestResult.check where its value would
mean nothing; `call` never raises for what the guest did.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from harness.guestimage import GuestImage
from harness.uapi import kvm as uapi
from harness.uapi.ghcb import GHCB_SW_EXITINFO1_MALFORMED_INPUT, GhcbError
from harness.uapi.sev import PVALIDATE_FAIL_SIZEMISMATCH
from harness.uapi.svm import (
    SVM_VMGEXIT_AP_CREATE,
    SVM_VMGEXIT_AP_CREATION,
    SVM_VMGEXIT_EXT_GUEST_REQUEST,
    SVM_VMGEXIT_GUEST_REQUEST,
)
from harness.vm import layout
from harness.vm.errors import GuestError
from harness.vm.guest_result import GuestResult, guest_errno
from harness.vm.mailbox import Command, Op, VmgExit
from harness.vm.psc import MAX_ENTRIES, PscEntry, PscOp, encode_list, entries_for
from harness.vm.results import Memory, Number
from harness.vm.vcpu import RUN_TIMEOUT, Vcpu
from harness.vm.vm import Vm

GHCB_SHARED_BUFFER: Final = 0x800


@dataclass(frozen=True, slots=True, repr=False)
class PscResult:
    """How a list of page state changes ended."""

    info1: int
    info2: int
    exits: int
    cur_entry: int
    end_entry: int
    operation: str = field(default="PSC", compare=False)

    @classmethod
    def of(cls, result: GuestResult) -> PscResult:
        """From the values of Op.PSC."""
        operation = result.operation
        info1, info2, exits, current, end = result.values[:5]
        return cls(*_infos(info1, info2, operation), exits, current, end, operation)

    def __str__(self) -> str:
        """How far the list was done, in words."""
        at = f"stopped at entry {self.cur_entry} of {self.end_entry + 1}"
        if self.ok:
            return f"all of {self.end_entry + 1} entries done"
        return f"SW_EXITINFO1 {self.info1:#x}, SW_EXITINFO2 {self.info2:#x}, {at}"

    def __repr__(self) -> str:
        return f"{self.operation}: {self}"

    @property
    def ok(self) -> bool:
        """Whether every entry was done."""
        return not self.info1 & 0xFFFFFFFF and not self.info2 and self.cur_entry > self.end_entry


@dataclass(frozen=True, slots=True, repr=False)
class VmgExitResult:
    """sw_exit_info_1 and 2 after an exit, and the registers in the GHCB."""

    info1: int
    info2: int
    rax: int
    rbx: int
    rcx: int
    rdx: int
    operation: str = field(default="VMGEXIT", compare=False)

    @property
    def malformed(self) -> int:
        """Why the hypervisor calls the input malformed (GhcbError); NONE where it does not."""
        malformed = self.info1 & 0xFFFFFFFF == GHCB_SW_EXITINFO1_MALFORMED_INPUT
        reason = self.info2 if malformed else GhcbError.NONE
        return Number(reason, f"{self.operation} SW_EXITINFO2", GhcbError.name_of)

    @classmethod
    def of(cls, result: GuestResult) -> VmgExitResult:
        """From the values of Op.VMGEXIT."""
        operation = result.operation
        info1, info2, rax, rbx, rcx, rdx = result.check().values[:6]
        return cls(
            *_infos(info1, info2, operation),
            Number(rax, f"{operation} RAX"),
            Number(rbx, f"{operation} RBX"),
            Number(rcx, f"{operation} RCX"),
            Number(rdx, f"{operation} RDX"),
            operation,
        )

    def __str__(self) -> str:
        """What the hypervisor said, in words."""
        if self.malformed:
            return f"SW_EXITINFO2 {GhcbError.name_of(self.malformed)}"
        if self.info1 or self.info2:
            return f"SW_EXITINFO1 {self.info1:#x}, SW_EXITINFO2 {self.info2:#x}"
        return "success"

    def __repr__(self) -> str:
        return f"{self.operation}: {self}"


def _infos(info1: int, info2: int, operation: str) -> tuple[Number, Number]:
    """SW_EXITINFO1 and 2 of an answer."""
    return (
        Number(info1, f"{operation} SW_EXITINFO1"),
        Number(info2, f"{operation} SW_EXITINFO2"),
    )


class CommandedGuest(Protocol):
    """What commands need of the guest whose vCPU runs them: harness/vm/guest.py."""

    vm: Vm
    image: GuestImage
    vmsa_features: int

    @property
    def is_snp(self) -> bool:
        """Whether it is an SNP guest."""

    def cpu(self, index: int) -> GuestCommands:
        """Return the vCPU of an index."""


class GuestCommands(abc.ABC):
    """Commands over `run`; `private` chooses the view that an address is used through."""

    index: int
    vcpu: Vcpu

    @property
    @abc.abstractmethod
    def guest(self) -> CommandedGuest:
        """The guest whose vCPU it is."""

    @abc.abstractmethod
    def run(self, commands: Iterable[Command], timeout: float = RUN_TIMEOUT) -> list[GuestResult]:
        """Run commands."""

    def call(self, op: Op, *args: int, flags: int = 0, timeout: float = RUN_TIMEOUT) -> GuestResult:
        """Run one command."""
        return self.run([Command(op, args, flags)], timeout)[0]

    # -- memory ----------------------------------------------------------------------------

    def load(self, gpa: int, *, private: bool = True, width: int = 8) -> GuestResult:
        """Read 1, 2, 4 or 8 bytes."""
        return self.call(Op.LOAD, _va(gpa, private), width)

    def store(self, gpa: int, value: int, *, private: bool = True, width: int = 8) -> GuestResult:
        """Write 1, 2, 4 or 8 bytes."""
        return self.call(Op.STORE, _va(gpa, private), width, value)

    def fill(
        self, gpa: int, size: int, first: int, step: int = 0, *, private: bool = True
    ) -> GuestResult:
        """Fill with 64-bit words first, first + step, ..."""
        return self.call(Op.FILL, _va(gpa, private), size, first, step)

    def verify(
        self, gpa: int, size: int, first: int, step: int = 0, *, private: bool = True
    ) -> GuestResult:
        """Compare with what `fill` writes: the value is the number of words that differ."""
        return self.call(Op.VERIFY, _va(gpa, private), size, first, step)

    def checksum(self, gpa: int, size: int, *, private: bool = True) -> GuestResult:
        """Two 64-bit sums over the range, see `checksum_of`."""
        return self.call(Op.CHECKSUM, _va(gpa, private), size)

    def copy(
        self, to: int, source: int, size: int, *, to_private: bool = True, private: bool = True
    ) -> GuestResult:
        """Copy between guest addresses."""
        return self.call(Op.COPY, _va(to, to_private), _va(source, private), size)

    def read(self, gpa: int, size: int, *, private: bool = True) -> bytes:
        """Bytes as the guest sees them, through this vCPU's shared buffer."""
        buffer, data = layout.buffer(self.index), b""
        while len(data) < size:
            part = min(layout.BUFFER_SIZE, size - len(data))
            at = gpa + len(data)
            self.copy(buffer, at, part, to_private=False, private=private).check()
            data += self.guest.vm.read_gpa(buffer, part)
        view = "private" if private else "shared"
        return Memory(data, f"{view} memory at GPA {gpa:#x}")

    def write(self, gpa: int, data: bytes, *, private: bool = True) -> None:
        """Write bytes as the guest, through this vCPU's shared buffer."""
        buffer = layout.buffer(self.index)
        for offset in range(0, len(data), layout.BUFFER_SIZE):
            part = data[offset : offset + layout.BUFFER_SIZE]
            self.guest.vm.write_gpa(buffer, part)
            self.copy(gpa + offset, buffer, len(part), to_private=private, private=False).check()

    # -- page states -----------------------------------------------------------------------

    def pvalidate(
        self, gpa: int, size: int = layout.PAGE_SIZE, validate: bool = True, *, large: bool = False
    ) -> GuestResult:
        """PVALIDATE each page of a range: RAX and CF of the last, pages done, pages changed."""
        step = layout.PAGE_SIZE_2M if large else layout.PAGE_SIZE
        return self.call(
            Op.PVALIDATE, layout.private(gpa), int(large), int(validate), max(size // step, 1)
        )

    def rmpadjust(
        self,
        gpa: int,
        *,
        vmpl: int = 1,
        perms: int = 0,
        vmsa: bool = False,
        size: int = layout.PAGE_SIZE,
        large: bool = False,
    ) -> GuestResult:
        """RMPADJUST each page of a range: RAX of the last, pages done."""
        step = layout.PAGE_SIZE_2M if large else layout.PAGE_SIZE
        attributes = vmpl | perms << 8 | int(vmsa) << 16
        count = max(size // step, 1)
        return self.call(Op.RMPADJUST, layout.private(gpa), int(large), attributes, count)

    def psc(
        self, entries: Sequence[PscEntry | int], *, limit: int = 1000, header: bytes | None = None
    ) -> PscResult:
        """Have a list of page state changes done, going on where the hypervisor stops early.

        header: 8 bytes instead of the right header.
        """
        data = encode_list(entries)
        if header is not None:
            data = header + data[8:]
        self.guest.vm.write_gpa(layout.ghcb(self.index) + GHCB_SHARED_BUFFER, data)
        result = self.call(Op.PSC, limit)
        if result.faulted or result.exit is not None:
            result.check()
        return PscResult.of(result)

    def convert(self, gpa: int, size: int, *, private: bool, large: bool = False) -> None:
        """Change the state of a range by GHCB lists, or by hypercall; GuestError if refused."""
        if not self.guest.is_snp:
            result = self.map_gpa_range(gpa, size, private=private).check().value
            if result:
                raise GuestError(
                    f"KVM_HC_MAP_GPA_RANGE({gpa:#x}, {size:#x}): RAX {guest_errno(result)}; want 0"
                )
            return
        op = PscOp.PRIVATE if private else PscOp.SHARED
        todo = list(entries_for(gpa, size, op, large=large))
        for first in range(0, len(todo), MAX_ENTRIES):
            outcome = self.psc(todo[first : first + MAX_ENTRIES])
            if not outcome.ok:
                raise GuestError(
                    f"page state change of {gpa:#x}, {size:#x}: {outcome}; want all done"
                )

    def validate(self, gpa: int, size: int, validate: bool = True, *, large: bool = False) -> None:
        """PVALIDATE a range as Linux does: in 4 KiB where 2 MiB do not fit the RMP's entries."""
        done = self.pvalidate(gpa, size, validate, large=large).check()
        if large and done.value == PVALIDATE_FAIL_SIZEMISMATCH:
            done = self.pvalidate(gpa, size, validate).check()
        if done.value:
            raise GuestError(f"PVALIDATE of {gpa:#x}, {size:#x}: RAX {done.value}; want 0")

    def make_private(self, gpa: int, size: int, *, large: bool = False) -> None:
        """Convert a range to private and validate it."""
        self.convert(gpa, size, private=True, large=large)
        if self.guest.is_snp:
            self.validate(gpa, size, large=large)

    def make_shared(self, gpa: int, size: int, *, large: bool = False) -> None:
        """Rescind validation and convert a range to shared."""
        if self.guest.is_snp:
            self.validate(gpa, size, False, large=large)
        self.convert(gpa, size, private=False, large=large)

    def map_gpa_range(self, gpa: int, size: int, *, private: bool) -> GuestResult:
        """KVM_HC_MAP_GPA_RANGE by VMCALL or VMMCALL: RAX."""
        flags = uapi.KVM_MAP_GPA_RANGE_ENCRYPTED if private else uapi.KVM_MAP_GPA_RANGE_DECRYPTED
        return self.hypercall(uapi.KVM_HC_MAP_GPA_RANGE, gpa, size // layout.PAGE_SIZE, flags)

    # -- exits -----------------------------------------------------------------------------

    def hypercall(self, nr: int, *args: int) -> GuestResult:
        """A KVM hypercall with the instruction that the CPU has."""
        vendor = next((e.ebx for e in self.guest.vm.host.supported_cpuid if not e.function), 0)
        intel = vendor.to_bytes(4, "little") == b"Genu"
        return self.call(Op.HYPERCALL, nr, *args, flags=int(intel))

    def vmgexit_msr(self, value: int) -> GuestResult:
        """One exchange of the GHCB MSR protocol: the value is the answer."""
        return self.call(Op.VMGEXIT_MSR, value)

    def vmgexit_raw(
        self,
        exit_code: int,
        info1: int = 0,
        info2: int = 0,
        *,
        scratch: int | None = None,
        rax: int | None = None,
        rbx: int | None = None,
        rcx: int | None = None,
        rdx: int | None = None,
        xcr0: int | None = None,
        version: int | None = None,
        usage: int | None = None,
        flags: int = 0,
        timeout: float = RUN_TIMEOUT,
    ) -> GuestResult:
        """A VMGEXIT with the GHCB page; what is None is neither written nor marked valid."""
        optional = (
            (scratch, VmgExit.SCRATCH),
            (rax, VmgExit.RAX),
            (rbx, VmgExit.RBX),
            (rcx, VmgExit.RCX),
            (rdx, VmgExit.RDX),
            (xcr0, VmgExit.XCR0),
            (version, VmgExit.VERSION),
            (usage, VmgExit.USAGE),
        )
        for value, flag in optional:
            if value is not None:
                flags |= flag
        fields = [value or 0 for value, _ in optional]
        return self.call(Op.VMGEXIT, exit_code, info1, info2, *fields, flags=flags, timeout=timeout)

    def vmgexit(
        self, exit_code: int, info1: int = 0, info2: int = 0, **fields: int
    ) -> VmgExitResult:
        """As `vmgexit_raw`; raises when the guest could not go on."""
        return VmgExitResult.of(self.vmgexit_raw(exit_code, info1, info2, **fields))

    def cpuid(self, leaf: int, subleaf: int = 0, *, by_msr: bool = False) -> tuple[int, ...]:
        """EAX, EBX, ECX, EDX."""
        return self.call(Op.CPUID, leaf, subleaf, flags=int(by_msr)).check().values[:4]

    def rdmsr(self, index: int) -> GuestResult:
        """RDMSR."""
        return self.call(Op.RDMSR, index)

    def wrmsr(self, index: int, value: int) -> GuestResult:
        """WRMSR."""
        return self.call(Op.WRMSR, index, value)

    def guest_request(
        self,
        request: int,
        response: int,
        *,
        extended: bool = False,
        data_gpa: int = 0,
        data_pages: int = 0,
    ) -> VmgExitResult:
        """SNP guest request with message pages at these GPAs; extended: with certificates."""
        if not extended:
            return self.vmgexit(SVM_VMGEXIT_GUEST_REQUEST, request, response)
        return self.vmgexit(
            SVM_VMGEXIT_EXT_GUEST_REQUEST, request, response, rax=data_gpa, rbx=data_pages
        )

    # -- vCPUs -----------------------------------------------------------------------------

    def build_vmsa(
        self,
        page: int,
        index: int,
        *,
        rip: int | None = None,
        rsp: int | None = None,
        sev_features: int | None = None,
        vmpl: int = 0,
        rmpadjust: bool = True,
    ) -> GuestResult:
        """Write a VMSA into a private page that starts vCPU `index` at the guest's entry."""
        guest = self.guest
        features = guest.vmsa_features | 1 if sev_features is None else sev_features
        return self.call(
            Op.BUILD_VMSA,
            layout.private(page),
            guest.image.entry if rip is None else rip,
            layout.stack_top(index) if rsp is None else rsp,
            index,
            features,
            vmpl,
            flags=int(not rmpadjust),
        )

    def ap_creation(
        self,
        apic_id: int,
        vmsa: int,
        request: int = SVM_VMGEXIT_AP_CREATE,
        *,
        vmpl: int = 0,
        sev_features: int | None = None,
    ) -> VmgExitResult:
        """NAE AP_CREATION (56421 section 4.1.9)."""
        features = self.guest.vmsa_features | 1 if sev_features is None else sev_features
        info1 = apic_id << 32 | vmpl << 16 | request
        return self.vmgexit(SVM_VMGEXIT_AP_CREATION, info1, vmsa, rax=features)

    def start_ap(self, index: int, vmsa: int) -> VmgExitResult:
        """Build a VMSA in a validated private page and create vCPU `index` from it."""
        built = self.build_vmsa(vmsa, index).check()
        if built.value:
            raise GuestError(f"RMPADJUST of VMSA {vmsa:#x}: RAX {built.value}; want 0")
        return self.ap_creation(self.guest.cpu(index).vcpu.id, vmsa)

    # -- races -----------------------------------------------------------------------------

    def spin_until(
        self, gpa: int, value: int, *, limit: int, mask: int = ~0, private: bool = False
    ) -> Command:
        """Command that waits for a 64-bit word: for `start`, so that others can go on."""
        return Command(Op.SPIN_UNTIL, (_va(gpa, private), value, mask, limit))

    def locked_add(self, gpa: int, addend: int, times: int, *, private: bool = True) -> Command:
        """Command that adds atomically, many times: for `start`."""
        return Command(Op.LOCKED_ADD, (_va(gpa, private), addend, times))

    def store_loop(
        self, gpa: int, times: int, *, stride: int, span: int, private: bool = True
    ) -> Command:
        """Command that stores counting words over a range, many times: for `start`."""
        return Command(Op.STORE_LOOP, (_va(gpa, private), 1, times, stride, span))


def checksum_of(data: bytes) -> tuple[int, int]:
    """What Op.CHECKSUM answers for this memory."""
    mask = (1 << 64) - 1
    total = weighted = 0
    for number in range(len(data) // 8):
        word = int.from_bytes(data[number * 8 : number * 8 + 8], "little")
        total += word
        weighted += word * (number + 1)
    return total & mask, weighted & mask


def _va(gpa: int, private: bool) -> int:
    return layout.private(gpa) if private else layout.shared(gpa)
