# SPDX-License-Identifier: GPL-2.0-only
"""A running test guest, driven from Python through its mailboxes.

`Guest.launch` makes the VM, loads the image and runs every vCPU it is asked for on demand;
`guest.cpu(0).call(Op.NOP)` has one command executed.  Exceptions in the guest come back as
data; `GuestResult.check` turns them into Python's.  Exits that a VMM must serve (page state
changes, hypercalls, port I/O) are served while a command runs, as QEMU does, unless a hook
decides otherwise.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import guestimage
from harness.guestimage import Flavour, GuestImage
from harness.operations import Op as KernelOp
from harness.operations import Read, TargetTimeoutError, Ticket, Write
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.uapi.errors import SevFwError
from harness.uapi.interfaces import VmsaOrder
from harness.vm import boot, exits, launch_digest, layout, mailbox
from harness.vm.closing import Closing
from harness.vm.errors import GuestError, SevError
from harness.vm.exits import Exit
from harness.vm.guest_commands import GuestCommands
from harness.vm.guest_result import GuestResult, GuestTimeoutError
from harness.vm.host import Host
from harness.vm.mailbox import Command, Header, Status
from harness.vm.psc import PscRequest, serve_list
from harness.vm.vcpu import RUN_PAGE, RUN_TIMEOUT, Vcpu
from harness.vm.vm import DEFAULT_POLICY, Vm

DEFAULT_MEMORY = 16 << 20
LOW_MEMORY = 3 << 30
"""Memory beyond this lies above 4 GiB, clear of the APICs."""

_HIGH_GPA = 4 << 30
_BASIC_LEAVES = frozenset({0x0, 0x80000000, 0x80000002, 0x80000003, 0x80000004})


@dataclass(slots=True)
class Hooks:
    """What a test may decide in the VMM's place; None: as QEMU does."""

    psc: Callable[[GuestCpu, PscRequest], int] | None = None
    """Page state change: returns 0 or the error for the guest."""

    memory_fault: Callable[[GuestCpu, exits.MemoryFaultExit], bool] | None = None
    """True: run on (the hook converted the page); default: the vCPU stops."""

    io: Callable[[GuestCpu, exits.IoExit], bytes] | None = None
    """Port I/O other than notifications: returns the data of an IN."""

    ext_guest_request: Callable[[GuestCpu, exits.VmgexitExit], tuple[int, int | None]] | None = None
    """v12's certificates: returns (result, pages needed or None)."""

    certificates: Callable[[GuestCpu, exits.CertificatesExit], tuple[int, int | None]] | None = None
    """Certificates for a report: returns (0 or errno, pages needed or None)."""

    exit: Callable[[GuestCpu, Exit], bool] | None = None
    """Sees every exit first; True: it dealt with it, run on."""


@dataclass(slots=True)
class Pending:
    """Commands under way on a vCPU."""

    cpu: GuestCpu
    commands: tuple[Command, ...]
    ticket: Ticket
    results: list[GuestResult] | None = None
    """Filled when they ended."""


class GuestCpu(GuestCommands):
    """One vCPU of a test guest and its mailbox."""

    def __init__(self, guest: Guest, vcpu: Vcpu, index: int) -> None:
        self._guest = guest
        self.vcpu = vcpu
        self.index = index
        self.exits: Counter[str] = Counter()
        self.last_exit: Exit | None = None
        self.stopped: Exit | None = None
        """The exit after which this vCPU did not go on."""
        self.pending: Pending | None = None
        self._header: Header = Header.decode(bytes(mailbox.HEADER_SIZE))
        self._mailbox = guest.vm.shared_address(layout.mailbox(index), layout.PAGE_SIZE)

    # -- commands --------------------------------------------------------------------------

    @property
    def guest(self) -> Guest:
        """The guest whose vCPU it is."""
        return self._guest

    def start(self, *commands: Command) -> Pending:
        """Begin a batch of commands; `Guest.wait` or `wait` ends it."""
        if len(commands) > mailbox.MAX_RECORDS:
            raise ValueError(f"a batch holds {mailbox.MAX_RECORDS} commands, not {len(commands)}")
        if self.pending is not None:
            raise GuestError(f"vCPU {self.index} is still busy: {self.pending.ticket.what}")
        records = b"".join(command.encode() for command in commands)
        before: list[KernelOp] = []
        if commands:
            count = len(commands).to_bytes(4, "little") + bytes(4)
            before.append(Write(self._mailbox + mailbox.HEADER_SIZE, records))
            before.append(Write(self._mailbox + mailbox.COUNT_OFFSET, count))
        self.stopped = None
        self.pending = Pending(self, commands, self._enter(before))
        return self.pending

    def wait(self, pending: Pending, timeout: float = RUN_TIMEOUT) -> list[GuestResult]:
        """Wait for a batch, serving this vCPU's exits; deadline in seconds for the whole."""
        return self.guest.wait([pending], timeout)[0]

    def run(self, commands: Iterable[Command], timeout: float = RUN_TIMEOUT) -> list[GuestResult]:
        """Run any number of commands; ends early when the vCPU stops."""
        todo = list(commands)
        results: list[GuestResult] = []
        while todo:
            part, todo = todo[: mailbox.MAX_RECORDS], todo[mailbox.MAX_RECORDS :]
            results += self.wait(self.start(*part), timeout)
            if self.stopped is not None:
                results += [_unanswered(command, self.stopped) for command in todo]
                break
        return results

    def boot(self, timeout: float = RUN_TIMEOUT) -> Header:
        """Run without commands until the first notification; GuestError when it never comes."""
        self.wait(self.start(), timeout)
        header = self._header
        if self.stopped is not None or header.magic != mailbox.MAGIC:
            raise GuestError(f"vCPU {self.index} did not start: {self.stopped}, {header}")
        return header

    def header(self) -> Header:
        """The header of this vCPU's mailbox."""
        return Header.decode(self.guest.vm.kernel.read(self._mailbox, mailbox.HEADER_SIZE))

    def kick(self) -> None:
        """Interrupt KVM_RUN; the commands then end with an InterruptedExit."""
        self.vcpu.kick()

    def resume(self, timeout: float = RUN_TIMEOUT) -> Exit:
        """Enter the vCPU again as it is, after it stopped; returns why it left this time.

        For exits that a test handles by itself.
        """
        self.vcpu.unkick()
        self.stopped = None
        return self.vcpu.run(timeout)

    # -- the loop --------------------------------------------------------------------------

    def _enter(self, before: Sequence[KernelOp]) -> Ticket:
        ops = [
            *before,
            self.vcpu.run_op(),
            Read(self.vcpu.run_address, RUN_PAGE),
            Read(self._mailbox, layout.PAGE_SIZE),
        ]
        return self.vcpu.kernel.start(ops, thread=self.vcpu.thread)

    def _advance(self, pending: Pending, timeout: float) -> None:
        """Wait for one exit and serve it; sets `results`, or a new ticket."""
        results = self.vcpu.kernel.wait(pending.ticket, timeout)
        kinds = len(results)
        errno = results[-1].errno
        if errno:
            run_page = self.vcpu.kernel.read(self.vcpu.run_address, RUN_PAGE)
            page = self.vcpu.kernel.read(self._mailbox, layout.PAGE_SIZE)
        else:
            run_page, page = results[kinds - 2].data, results[kinds - 1].data
        reason = exits.parse(errno, run_page)
        self.last_exit = reason
        self.exits[type(reason).__name__] += 1
        if isinstance(reason, exits.IoExit) and reason.out and reason.port == layout.NOTIFY_PORT:
            self._finish(pending, page, None)
            return
        answer = self._serve(reason)
        if answer is None:
            self.stopped = reason
            self._finish(pending, page, reason)
        else:
            pending.ticket = self._enter(answer)

    def _finish(self, pending: Pending, page: bytes, stopped: Exit | None) -> None:
        header = self._header = Header.decode(page)
        if header.fatal_vector and stopped is None:
            stopped = self.stopped = self.last_exit
        results = []
        for number, command in enumerate(pending.commands):
            at = mailbox.record_offset(number)
            raw = mailbox.RawResult.decode(page[at : at + mailbox.RECORD_SIZE])
            results.append(GuestResult.of(command, raw, stopped))
        pending.results = results
        self.pending = None

    def _serve(self, reason: Exit) -> list[KernelOp] | None:
        """The operations that answer an exit before KVM_RUN goes on; None: the vCPU stops."""
        hooks = self.guest.hooks
        if hooks.exit is not None and hooks.exit(self, reason):
            return []
        match reason:
            case exits.HypercallExit(nr=uapi.KVM_HC_MAP_GPA_RANGE, args=args):
                result = self._psc(PscRequest.of_hypercall(args))
                return [self.vcpu.hypercall_result_op(result)]
            case exits.VmgexitExit():
                self._serve_vmgexit(reason)
                return []
            case exits.CertificatesExit():
                hook = hooks.certificates
                result, npages = hook(self, reason) if hook is not None else (0, None)
                self.vcpu.set_certificates_result(result, npages)
                return []
            case exits.IoExit():
                data = hooks.io(self, reason) if hooks.io is not None else b""
                if not reason.out:
                    size = reason.size * reason.count
                    self.vcpu.set_io_data(data.ljust(size, b"\xff")[:size])
                return []
            case exits.MemoryFaultExit():
                if hooks.memory_fault is not None and hooks.memory_fault(self, reason):
                    return []
            case exits.HaltExit():
                return []
        return None

    def _serve_vmgexit(self, reason: exits.VmgexitExit) -> None:
        """v12's exits."""
        if reason.type == uapi.KVM_USER_VMGEXIT_PSC_MSR:
            private = reason.op == uapi.KVM_USER_VMGEXIT_PSC_MSR_OP_PRIVATE
            request = PscRequest(reason.gpa, layout.PAGE_SIZE, private)
            self.vcpu.set_psc_msr_result(self._psc(request))
        elif reason.type == uapi.KVM_USER_VMGEXIT_PSC:
            self.vcpu.set_psc_result(serve_list(self.guest.vm, reason.shared_gpa, self._psc))
        elif reason.type == uapi.KVM_USER_VMGEXIT_EXT_GUEST_REQ:
            hook = self.guest.hooks.ext_guest_request
            result, npages = hook(self, reason) if hook is not None else (0, None)
            self.vcpu.set_ext_guest_request_result(result, npages)
        else:
            raise GuestError(f"KVM_EXIT_VMGEXIT of unknown type: {reason}")

    def _psc(self, request: PscRequest) -> int:
        self.guest.psc_requests.append(request)
        if self.guest.hooks.psc is not None:
            return self.guest.hooks.psc(self, request)
        return self.guest.convert(request)


@dataclass(slots=True)
class Guest(Closing):
    """A test guest; a context that closes its VM."""

    vm: Vm
    image: GuestImage
    memory: int
    max_vcpus: int
    vmsa_features: int = 0
    hooks: Hooks = field(default_factory=Hooks)
    cpus: list[GuestCpu] = field(default_factory=list)
    pages: list[boot.LaunchPages] = field(default_factory=list)
    """What was launched, in order."""
    psc_requests: list[PscRequest] = field(default_factory=list)

    @classmethod
    def launch(
        cls,
        host: Host,
        *,
        vcpus: int = 1,
        max_vcpus: int | None = None,
        memory: int = DEFAULT_MEMORY,
        vm_type: int | None = None,
        policy: int = DEFAULT_POLICY,
        vmsa_features: int = 0,
        ghcb_version: int = 0,
        certificates: bool = False,
        cpuid: bool = True,
        hooks: Hooks | None = None,
        finish: dict[str, Any] | None = None,
    ) -> Guest:
        """Make and launch a guest; nothing has run yet.

        vcpus: created, and measured with the entry as their state.  max_vcpus: how many will
        ever be (default: vcpus).  memory: bytes.  finish: fields of LAUNCH_FINISH.
        certificates: userspace is to be asked for them (Interface.request_certificates).
        """
        vm = host.create_vm(vm_type)
        try:
            guest = cls.of(vm, memory=memory, max_vcpus=max_vcpus or vcpus)
            guest.vmsa_features = vmsa_features
            guest.hooks = hooks or Hooks()
            if vm.is_snp:
                vm.sev_init2(vmsa_features=vmsa_features, ghcb_version=ghcb_version)
            if certificates:
                vm.enable_certificates()
            guest.add_memory()
            for _ in range(vcpus):
                guest.add_vcpu()
            if vm.is_snp:
                vm.launch_start(policy=policy)
            guest.load(cpuid=cpuid)
            if vm.is_snp:
                vm.launch_finish(**(finish or {}))
        except BaseException:
            vm.close()
            raise
        return guest

    @classmethod
    def of(cls, vm: Vm, *, memory: int = DEFAULT_MEMORY, max_vcpus: int = 1) -> Guest:
        """A guest for a VM that somebody made; nothing is done to it yet."""
        flavour = Flavour.SNP if vm.is_snp else Flavour.PLAIN
        return cls(vm, guestimage.load(flavour), memory, max_vcpus)

    @property
    def is_snp(self) -> bool:
        """Whether its memory and state are protected by SNP."""
        return self.vm.is_snp

    @property
    def has_private_memory(self) -> bool:
        """Whether its memory can be private at all."""
        return self.vm.type in (uapi.KVM_X86_SNP_VM, uapi.KVM_X86_SW_PROTECTED_VM)

    def cpu(self, index: int = 0) -> GuestCpu:
        """The vCPU with this index."""
        return self.cpus[index]

    # -- construction ----------------------------------------------------------------------

    def add_memory(self) -> None:
        """Slots, guest_memfd and attributes; an SNP guest's memory is private but for the window.

        A plain guest starts in shared memory: only an SNP launch can fill private memory.
        """
        vm = self.vm
        low = min(self.memory, LOW_MEMORY)
        ranges = [(0, low), (_HIGH_GPA, self.memory - low)]
        gmem = vm.create_gmem(self.memory) if self.has_private_memory else None
        if vm.host.exits_on_map_gpa_range:
            vm.enable_cap(uapi.KVM_CAP_EXIT_HYPERCALL, 1 << uapi.KVM_HC_MAP_GPA_RANGE)
        offset = 0
        for slot, (gpa, size) in enumerate(ranges):
            if size:
                vm.add_slot(slot, gpa, size, gmem=gmem, gmem_offset=offset)
                offset += size
        if not vm.is_snp:
            return
        window_end = layout.SHARED_WINDOW_GPA + layout.SHARED_WINDOW_SIZE
        private = [(0, layout.SHARED_WINDOW_GPA), (window_end, low - window_end), ranges[1]]
        for gpa, size in private:
            if size:
                vm.set_memory_attributes(gpa, size, private=True)

    def add_vcpu(self, id: int | None = None) -> GuestCpu:
        """Create the next vCPU in the state of the guest's entry, ready to run."""
        index = len(self.cpus)
        vcpu = self.vm.create_vcpu(index if id is None else id)
        vcpu.set_up(
            boot.vcpu_cpuid(self.vm.host.supported_cpuid, vcpu.id),
            boot.set_sregs,
            boot.entry_regs(self.image, index),
            uapi.KVM_MP_STATE_RUNNABLE if index else None,
        )
        cpu = GuestCpu(self, vcpu, index)
        self.cpus.append(cpu)
        return cpu

    def load(self, *, cpuid: bool = True) -> None:
        """Put the image in: LAUNCH_UPDATE for SNP, else plain writes."""
        vm = self.vm
        if not vm.is_snp:
            self.pages = boot.launch_pages(
                self.image, cbit=None, vcpus=self.max_vcpus, secrets=False
            )
            vm.write_gpas((part.gpa, part.data) for part in self.pages)
            return
        leaves = [e for e in vm.host.supported_cpuid if e.function in _BASIC_LEAVES]
        table = boot.cpuid_page(leaves) if cpuid else None
        self.pages = boot.launch_pages(
            self.image, cbit=vm.host.cbit, vcpus=self.max_vcpus, cpuid=table
        )
        for part in self.pages:
            if part.type == sevapi.KVM_SEV_SNP_PAGE_TYPE_CPUID:
                self._load_cpuid(part)
            else:
                vm.launch_update(part.gpa, part.data, part.type)

    def _load_cpuid(self, part: boot.LaunchPages) -> None:
        """The firmware hands a corrected table back with its refusal: take that the second time."""
        source = self.vm.stage(part.data)
        try:
            self.vm.launch_update(part.gpa, source, part.type, length=len(part.data))
        except SevError as error:
            if error.fw_error != SevFwError.INVALID_PARAM:
                raise
            self.vm.launch_update(part.gpa, source, part.type, length=len(part.data))

    def expected_digest(self) -> bytes:
        """The launch digest that the firmware must have measured."""
        cpus: Sequence[GuestCpu] = self.cpus
        if self.vm.interface.vmsa_order is VmsaOrder.BOOT_FIRST:
            cpus = sorted(cpus, key=lambda cpu: cpu.vcpu.id != 0)
        vmsas = [
            launch_digest.entry_vmsa(self.image, cpu.index, vmsa_features=self.vmsa_features)
            for cpu in cpus
        ]
        return launch_digest.launch_digest(self.pages, vmsas)

    # -- running ---------------------------------------------------------------------------

    def wait(
        self, pending: Sequence[Pending], timeout: float = RUN_TIMEOUT
    ) -> list[list[GuestResult]]:
        """Wait for batches on several vCPUs, serving the exits of all; results in their order."""
        deadline = time.monotonic() + timeout
        busy = [one for one in pending if one.results is None]
        while busy:
            left = max(deadline - time.monotonic(), 0.0)
            try:
                if len(busy) == 1:
                    busy[0].cpu._advance(busy[0], left)
                else:
                    ended = self.vm.kernel.wait_any([one.ticket for one in busy], left)
                    mine = next(one for one in busy if one.ticket == ended)
                    mine.cpu._advance(mine, left)
            except TargetTimeoutError as error:
                raise self._timeout(busy, timeout, str(error)) from error
            busy = [one for one in busy if one.results is None]
        return [one.results for one in pending if one.results is not None]

    def serve(self, *pending: Pending) -> None:
        """Serve the exits that are there by now, and wait for none."""
        for one in pending:
            if one.results is None:
                with contextlib.suppress(TargetTimeoutError):
                    one.cpu._advance(one, 0.0)

    def _timeout(self, busy: Sequence[Pending], timeout: float, why: str) -> GuestTimeoutError:
        states = []
        for one in busy:
            names = ", ".join(command.op.name for command in one.commands) or "boot"
            states.append(
                f"vCPU {one.cpu.index} in {names} (done {one.cpu.header().done}, "
                f"last exit {one.cpu.last_exit})"
            )
        return GuestTimeoutError(
            f"guest: no answer within {timeout:g} s, want one: {'; '.join(states)} ({why})"
        )

    def convert(self, request: PscRequest) -> int:
        """Serve a page state change as QEMU does; 0, or -1 when the attributes can't be set."""
        result = self.vm.kernel.call(
            self.vm.attributes_op(request.gpa, request.size, private=request.private)
        )
        return 0 if result.ok else -1

    def close(self) -> None:
        """Close the VM and all that belongs to it."""
        self.vm.close()


def _unanswered(command: Command, stopped: Exit) -> GuestResult:
    raw = mailbox.RawResult(Status.PENDING, 0, 0, 0, 0, (0,) * mailbox.VALUES)
    return GuestResult.of(command, raw, stopped)
