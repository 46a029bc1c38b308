# SPDX-License-Identifier: GPL-2.0-only
"""The loop that executes a guest: budget, memory faults, delivery of events, translated code.

Time is counted in instructions, so the same inputs give the same run: the TSC advances by
`TSC_PER_INSTRUCTION` with each.  A REP instruction counts once an iteration.  (RDRAND and RDSEED
are the exception, they read the host's generator.)
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

from harness.emulator.cpu import exits
from harness.emulator.cpu.delivery import Event, deliver
from harness.emulator.cpu.env import RAX, RCX, RDX
from harness.emulator.cpu.exits import Exit
from harness.emulator.cpu.faults import (
    VC,
    GuestFault,
    NestedFault,
    StaleCode,
    TripleFault,
)
from harness.emulator.cpu.mmu import Mmu, R, W, X
from harness.emulator.cpu.uc import FETCH, WRITE, Engine
from harness.emulator.memory import PhysicalMemory
from harness.emulator.rmp import Rmp
from harness.uapi.sev import PFERR_GUEST_FINAL_MASK

TSC_PER_INSTRUCTION = 4

Cpuid = Callable[[int, int], tuple[int, int, int, int]]


@dataclass(slots=True)
class Vmcb:
    """What the host's control block holds that matters here."""

    ghcb_gpa: int = 0
    """The GHCB MSR; the guest reads and writes it without an exit."""
    event: Event | None = None
    """Injected at the next VMRUN (EVENTINJ)."""
    vmsa_features: int = 0


@dataclass(frozen=True, slots=True)
class Port:
    """A port access under way, and the registers before it."""

    number: int
    size: int
    value: int | None
    rip: int
    regs: tuple[int, ...]
    string: bool = False
    """INS."""


class Runner(abc.ABC):
    """Executes the guest whose registers are in the engine."""

    def __init__(self, memory: PhysicalMemory, rmp: Rmp, *, cbit: int = 51, tsc: int = 0) -> None:
        self._memory = memory
        self._rmp = rmp
        self._engine = Engine(memory.address, memory.size)
        self._env = self._engine.env
        self._mmu = Mmu(memory, rmp, cbit, self._env)
        self._engine.hook(
            self._fill,
            self._interrupt,
            self._invalid,
            self._read_tsc,
            self._port_access,
            self._syscall_begun,
        )
        self._tsc = tsc
        self.instructions = 0
        """Instructions retired so far."""
        self.loaded_vmsa: int | None = None
        """Physical address of the VMSA whose state the processor holds."""
        self.on_vmgexit: Callable[[Vmcb], bool] | None = None
        """Handles VMGEXIT without leaving the guest; False makes vmrun return VmgExit."""
        self.cpuid: Cpuid = lambda _leaf, _subleaf: (0, 0, 0, 0)
        """Answers CPUID of plain guests."""
        self._vmcb = Vmcb()
        self._protected = False
        self._features = 0
        self._plain_loaded = False
        self._context: tuple[object, int, int] | None = None
        self._exit: Exit | None = None
        self._fault: GuestFault | NestedFault | StaleCode | None = None
        self._fault_fetch = False
        self._port: Port | None = None
        self._last_in: Port | None = None
        self._syscall_at: int | None = None
        self._pending: Event | None = None
        self._code: dict[int, bytes] = {}
        self._live: dict[int, int] = {}

    def flush_tlb(self) -> None:
        """Forget translations, after a change of nested page tables or the RMP."""
        self._mmu.flush()
        self._live.clear()
        self._engine.flush_tlb()

    def _run(self, vmcb: Vmcb, budget: int) -> Exit:
        self._vmcb = vmcb
        engine, left = self._engine, budget
        if vmcb.event is not None:
            self._pending, vmcb.event = vmcb.event, None
        while True:
            self._begin()
            if self._pending is not None:
                event, self._pending = self._pending, None
                self._deliver(event)
                if self._exit is not None:
                    return self._exit
                left -= 1
            if left <= 0:
                return exits.Intr()
            status = engine.run(left)
            done = engine.executed
            fault = self._fault
            if done > left:
                done = left
            elif fault is not None and not self._fault_fetch:
                done -= 1
            self.instructions += done
            left -= done
            if fault is not None:
                self._resolve(fault)
            elif self._port is not None:
                self._finish_port(self._port)
            elif self._syscall_at is not None:
                self._syscall(self._syscall_at)
            elif self._exit is None and status:
                raise RuntimeError(f"Unicorn failed with {status} at {self._env.eip:#x}")
            elif self._exit is None and left:
                raise RuntimeError(f"Unicorn stopped by itself at {self._env.eip:#x}")
            if self._exit is not None:
                return self._exit

    def _begin(self) -> None:
        self._exit = self._fault = self._port = self._syscall_at = None

    def _resolve(self, fault: GuestFault | NestedFault | StaleCode) -> None:
        """A memory access failed: RIP is that of its instruction."""
        if isinstance(fault, NestedFault):
            gpa = fault.gpa
            if fault.error_code & PFERR_GUEST_FINAL_MASK:
                gpa |= self._engine.failed_address & 0xFFF
            self._exit = exits.Npf(gpa, fault.error_code)
        elif isinstance(fault, StaleCode):
            self._drop_code()
        else:
            address = self._engine.failed_address if fault.address is not None else None
            self._pending = Event.of(GuestFault(fault.vector, fault.error_code, address))

    def _deliver(self, event: Event) -> None:
        """Enter the guest's handler, or say why not in `_exit`."""
        try:
            deliver(self._engine, self._mmu, event)
        except NestedFault as fault:
            self._pending = event
            self._leave(exits.Npf(fault.gpa, fault.error_code))
        except TripleFault:
            self._leave(exits.Shutdown())

    def _leave(self, exit: Exit) -> None:
        self._exit = exit
        if self._engine.inside:
            self._engine.stop()

    def _fill(self, va: int, access: int) -> tuple[int, int] | None:
        kind = W if access == WRITE else X if access == FETCH else R
        try:
            result = self._mmu.fill(va, kind)
            if kind == X:
                self._remember_code(va, result[0])
            return result
        except GuestFault as fault:
            if fault.vector == VC:
                fault = GuestFault(VC, fault.error_code, va)
            self._fault = fault
        except (NestedFault, StaleCode) as fault:
            self._fault = fault
        self._fault_fetch = kind == X
        return None

    def _remember_code(self, va: int, spa: int) -> None:
        page = spa & ~0xFFF
        known = self._code.get(page)
        if page not in self._live.values():
            content = self._mmu.page(page)
            if known is not None and known != content:
                raise StaleCode
            self._code[page] = content
        self._live[va & ~0xFFF] = page

    def _check_code(self) -> None:
        """Translated code must be what memory holds: somebody else may have written there."""
        for spa in self._live.values():
            if self._code.get(spa) != self._mmu.page(spa):
                self._drop_code()
                return

    def _drop_code(self) -> None:
        self._code.clear()
        self._live.clear()
        self._engine.flush_code()
        self._engine.flush_tlb()

    def tsc(self) -> int:
        """The time stamp counter: it counts instructions, so that runs repeat."""
        return self._tsc + TSC_PER_INSTRUCTION * (self.instructions + self._engine.executed)

    def _read_tsc(self, auxiliary: bool) -> None:
        env = self._env
        tsc = self.tsc()
        env.regs[RAX], env.regs[RDX] = tsc & 0xFFFFFFFF, tsc >> 32 & 0xFFFFFFFF
        if auxiliary:
            env.regs[RCX] = env.tsc_aux & 0xFFFFFFFF

    def _code_at_rip(self, length: int) -> bytes:
        """Instruction bytes: the instruction has been fetched, so its page is known."""
        rip = self._env.eip
        page = self._live.get(rip & ~0xFFF)
        if page is not None and rip & 0xFFF <= 0x1000 - length:
            return self._memory.read(page | rip & 0xFFF, length)
        return self._mmu.fetch(rip, length)

    # -- what `emulation` does -------------------------------------------------------------

    @abc.abstractmethod
    def _interrupt(self, number: int) -> None:
        """An exception, INT n, or an intercept."""

    @abc.abstractmethod
    def _invalid(self) -> bool:
        """An instruction that Unicorn does not know."""

    @abc.abstractmethod
    def _port_access(self, number: int, size: int, value: int | None) -> None:
        """IN (no value) or OUT; the registers are still those before it."""

    @abc.abstractmethod
    def _finish_port(self, port: Port) -> None:
        """The processor has stopped behind a port access."""

    @abc.abstractmethod
    def _syscall_begun(self) -> None:
        """SYSCALL."""

    @abc.abstractmethod
    def _syscall(self, rip: int) -> None:
        """The processor has stopped behind SYSCALL."""
