# SPDX-License-Identifier: GPL-2.0-only
"""The VM that a script works on, and how to look at it."""

from __future__ import annotations

import errno as _errno
from collections.abc import Iterator, Sequence
from typing import Any

from harness.differential.operations import Script, Start
from harness.inspector import Inspector
from harness.operations import OperationError, TargetTimeoutError
from harness.uapi import kvm as uapi
from harness.uapi.errors import SevFwError
from harness.vm import exits
from harness.vm.guest import Guest, GuestCpu, Hooks, Pending
from harness.vm.guest_message import Messenger
from harness.vm.guest_result import GuestResult, GuestTimeoutError
from harness.vm.host import Host
from harness.vm.layout import PAGE_SIZE
from harness.vm.mailbox import Command
from harness.vm.psc import PscRequest
from harness.vm.vm import Vm

MEMORY = 16 << 20
"""Bytes of the guest's memory; its guest_memfd's offsets are its GPAs."""
VCPUS = 2
PATIENCE = 3.0
"""Seconds until something that must end counts as blocked."""
BLINK = 0.25
"""The same for what is expected to block."""
FAULTS = 3
"""Memory faults that are served in one operation."""

Fields = dict[str, str]


def errno_name(code: int) -> str:
    """0, or the errno's name."""
    return _errno.errorcode.get(code, str(code)) if code else "0"


def firmware_name(code: int) -> str:
    """0, or the firmware error's name."""
    try:
        return SevFwError(code).name if code else "0"
    except ValueError:
        return hex(code)


class World:
    """One VM with memory and, by then, vCPUs; a context that closes it."""

    def __init__(self, host: Host, script: Script) -> None:
        self.host, self.kernel = host, host.kernel
        if host.kernel.inspector is None:
            raise ValueError(f"{host.kernel.name} does not show its RMP")
        self.inspector: Inspector = host.kernel.inspector
        self._before = self.inspector.assigned_pages()
        self._leaked = self.inspector.counters()["leaked_pages"]
        self._asids: list[int] = []
        self.exits: list[str] = []
        self.requests: list[PscRequest] = []
        self.answer = 0
        """What the next page state change is answered: 0 do it, 1 refuse, 2 only say done."""
        self._faults = 0
        self.messengers: dict[int, Messenger] = {}
        self.vm: Vm = host.create_vm(uapi.KVM_X86_SNP_VM)
        try:
            self.guest = Guest.of(self.vm, memory=MEMORY, max_vcpus=VCPUS)
            self.guest.hooks = Hooks(psc=self._psc, memory_fault=self._fault, exit=self._exit)
            if script.start is Start.GUEST:
                self._launch()
            else:
                self.guest.add_memory()
            self.spare = self.kernel.mmap(4 << 20)
        except BaseException:
            self.vm.close()
            raise

    def _launch(self) -> None:
        self.vm.sev_init2()
        self.guest.add_memory()
        for _ in range(VCPUS):
            self.guest.add_vcpu()
        self.vm.launch_start()
        self.guest.load()
        self.vm.launch_finish()
        self.guest.cpu().boot()

    # -- hooks of the guest ------------------------------------------------------------------

    def _exit(self, cpu: GuestCpu, reason: exits.Exit) -> bool:
        self.exits.append(repr(reason))
        return False

    def _psc(self, cpu: GuestCpu, request: PscRequest) -> int:
        if self.answer == 1:
            return -1
        return 0 if self.answer == 2 else self.guest.convert(request)

    def _fault(self, cpu: GuestCpu, fault: exits.MemoryFaultExit) -> bool:
        """Convert what the guest uses to what it takes it for, as VMMs do."""
        self._faults += 1
        if self._faults > FAULTS or fault.errno != _errno.EFAULT:
            return False
        result = self.vm.set_memory_attributes_raw(
            fault.gpa, fault.size, uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE if fault.private else 0
        )
        return result.ok

    # -- running -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Forget what the operation before did."""
        self.exits.clear()
        self._faults = 0

    def command(self, index: int, *commands: Command, blocks: bool = False) -> Fields:
        """Run commands (none: until the first notification) on a vCPU that has not stopped.

        blocks: whether it is expected to sleep; only time is saved by that.
        """
        if index >= len(self.guest.cpus):
            return {"vcpu": "none"}
        cpu = self.guest.cpu(index)
        if cpu.stopped is not None:
            return {"vcpu": "stopped before"}
        results, blocked = self._wait(cpu, cpu.start(*commands), BLINK if blocks else PATIENCE)
        fields: Fields = {"blocked": "yes"} if blocked else {}
        for result in results:
            fields |= result_fields(result)
        if self.exits:
            fields["exits"] = "; ".join(self.exits)
        left = self.guest.cpus[index].stopped
        if left is not None and not blocked:
            fields["stopped"] = repr(left)
        return fields

    def _wait(
        self, cpu: GuestCpu, pending: Pending, timeout: float
    ) -> tuple[Sequence[GuestResult], bool]:
        try:
            return cpu.wait(pending, timeout), False
        except (GuestTimeoutError, TargetTimeoutError):
            cpu.kick()
            results = cpu.wait(pending, PATIENCE)
            cpu.vcpu.unkick()
            blocked = isinstance(cpu.stopped, exits.InterruptedExit)
            if blocked and not pending.commands:
                cpu.stopped = None  # it waits to be started, and may be asked again
            return results, blocked

    def run(self, index: int) -> Fields:
        """KVM_RUN once, whatever the vCPU's state."""
        if index >= len(self.guest.cpus):
            return {"vcpu": "none"}
        vcpu = self.guest.cpu(index).vcpu
        ticket = vcpu.start()
        try:
            return {"exit": repr(vcpu.finish(ticket, PATIENCE))}
        except TargetTimeoutError:
            vcpu.kick()
            left = vcpu.finish(ticket, PATIENCE)
            vcpu.unkick()
            return {"exit": repr(left), "blocked": "yes"}

    # -- looking -----------------------------------------------------------------------------

    def rmp(self, gpas: Iterator[int] | Sequence[int]) -> Fields:
        """The RMP entries behind pages of the guest_memfd."""
        fields: Fields = {}
        for gpa in gpas:
            if not 0 <= gpa < MEMORY:
                continue
            fields[f"rmp {gpa:#x}"] = self._entry(gpa)
        return fields

    def _entry(self, gpa: int) -> str:
        if not self.vm.gmems:
            return "no file"
        try:
            entry = self.inspector.gmem_rmp(self.vm.gmems[0].fd, gpa)
        except OperationError as error:
            return errno_name(error.errno or 0)
        if not entry.present:
            return "no page"
        if not entry.assigned:
            return "shared"
        asid = entry.asid
        if asid and asid not in self._asids:
            self._asids.append(asid)
        owner = f"guest {self._asids.index(asid)}" if asid else "firmware or host"
        validated = "valid" if entry.validated else "invalid"
        return f"{owner} at {entry.gpa:#x} {validated} {'2M' if entry.size else '4K'}"

    def content(self, gpa: int) -> str:
        """The first 16 bytes of what lies behind a page of the guest_memfd, if it is assigned.

        What was only allocated may hold anything: kvm_gmem_prepare_folio() clears it (6.12).
        """
        if not self._entry(gpa).startswith("guest"):
            return "not assigned"
        return self.inspector.gmem_bytes(self.vm.gmems[0].fd, gpa, 16).hex()

    def close(self) -> Fields:
        """Close all; what the kernel keeps of it."""
        self.kernel.munmap(self.spare, 4 << 20)
        self.guest.close()
        assigned = self.inspector.assigned_pages() - self._before
        leaked = self.inspector.counters()["leaked_pages"] - self._leaked
        return {"pages kept": str(assigned), "pages leaked": str(leaked)}


def result_fields(result: GuestResult) -> Fields:
    """What a guest's command gave."""
    fields = {"status": result.status.name}
    if result.faulted:
        fields["fault"] = f"{result.vector:#x} error {result.error_code:#x}"
        if result.vector == 14:
            fields["cr2"] = hex(result.cr2)
    for number, value in enumerate(result.values):
        if value:
            fields[f"value {number}"] = hex(value)
    return fields


def sev_fields(result: Any) -> Fields:
    """What a SEV command gave."""
    return {"errno": errno_name(result.errno), "firmware": firmware_name(result.fw_error)}


def touched(gpa: int, size: int = PAGE_SIZE, most: int = 4) -> list[int]:
    """The first pages of a range, and the last."""
    first = gpa & -PAGE_SIZE
    pages = min(max(-(-size // PAGE_SIZE), 1), 1 << 40)
    found = [first + number * PAGE_SIZE for number in range(min(pages, most))]
    if pages > most:
        found.append(first + (pages - 1) * PAGE_SIZE)
    return found
