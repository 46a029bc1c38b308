# SPDX-License-Identifier: GPL-2.0-only
"""A logical processor: VMRUN of SNP guests from their VMSA, and of plain guests.

Time is counted in instructions, so the same inputs give the same run: the TSC advances by
`TSC_PER_INSTRUCTION` with each.  A REP instruction counts once an iteration.  (RDRAND and RDSEED
are the exception, they read the host's generator.)

INS of a protected guest: Unicorn touches the destination before #VC is raised, the element there
is zero when the handler runs, which then stores what it got from the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.emulator.cpu import exits, snp
from harness.emulator.cpu.delivery import Event, deliver
from harness.emulator.cpu.env import CS, HF_CPL, HF_CS64, R11, RAX, RCX, RDI, RDX, RF_DF, RF_RF, SS
from harness.emulator.cpu.exits import Exit
from harness.emulator.cpu.faults import (
    DB,
    GP,
    UD,
    VC,
    GuestFault,
    NestedFault,
    StaleCode,
    TripleFault,
)
from harness.emulator.cpu.intercepts import (
    LENGTH,
    MSR_AMD64_SEV,
    MSR_AMD64_SEV_ES_GHCB,
    MSR_EFER,
    arm,
    prefixes,
)
from harness.emulator.cpu.mmu import PFERR_GUEST_FINAL, Mmu, NestedPageTable, R, W, X
from harness.emulator.cpu.state import (
    EFER_LMA,
    EFER_SCE,
    EFER_VALID,
    PlainState,
    attributes,
    load_plain,
    load_vmsa,
    save_plain,
    save_vmsa,
    update_hflags,
    vmsa_defect,
)
from harness.emulator.cpu.uc import EXCP_VMEXIT, FETCH, WRITE, Engine
from harness.emulator.memory import PhysicalMemory
from harness.emulator.rmp import Rmp
from harness.uapi import svm
from harness.uapi.vmsa import sev_es_save_area

TSC_PER_INSTRUCTION = 4

VMGEXIT = (b"\xf3\x0f\x01\xd9", b"\xf2\x0f\x01\xd9")
VMMCALL, VMCALL = b"\x0f\x01\xd9", b"\x0f\x01\xc1"
SEV_STATUS_SEV_ES = 3

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
class _Port:
    """A port access under way, and the registers before it."""

    number: int
    size: int
    value: int | None
    rip: int
    regs: tuple[int, ...]
    string: bool = False
    """INS."""


class Cpu:
    """One processor.  Several may exist, all on one thread."""

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
        self._port: _Port | None = None
        self._last_in: _Port | None = None
        self._syscall_at: int | None = None
        self._pending: Event | None = None
        self._code: dict[int, bytes] = {}
        self._live: dict[int, int] = {}

    # -- what KVM calls --------------------------------------------------------------------

    def vmrun(self, vmsa_pa: int, asid: int, npt: NestedPageTable, vmcb: Vmcb, budget: int) -> Exit:
        """Run an SNP guest for at most `budget` instructions."""
        defect = self._vmsa_page_defect(vmsa_pa, asid)
        if defect is not None:
            self.invalidate(vmsa_pa)
            return exits.Invalid(defect)
        if self.loaded_vmsa != vmsa_pa:
            self.save()
            vmsa = sev_es_save_area.from_buffer_copy(self._memory.read(vmsa_pa, 0x1000))
            defect = vmsa_defect(vmsa)
            if defect is not None:
                return exits.Invalid(defect)
            load_vmsa(self._engine, vmsa)
            self.loaded_vmsa = vmsa_pa
            self._plain_loaded = False
            self._pending = None
            self._features = vmsa.sev_features
            self._mmu.vmpl = vmsa.vmpl
            self._protected = True
            arm(self._engine, True)
            self._context = None
        self._enter_context(npt, asid, self._mmu.vmpl, True)
        page = vmsa_pa >> 12
        self._rmp.in_use.add(page)
        try:
            return self._run(vmcb, budget)
        finally:
            self._rmp.in_use.discard(page)

    def run_plain(self, npt: NestedPageTable, vmcb: Vmcb, budget: int) -> Exit:
        """Run a guest without encryption, whose registers came by `set_plain`."""
        if not self._plain_loaded:
            raise ValueError("set_plain() comes before run_plain()")
        self._enter_context(npt, 0, 0, False)
        return self._run(vmcb, budget)

    def set_plain(self, state: PlainState) -> None:
        """Load the registers of a plain guest."""
        self.save()
        load_plain(self._engine, state)
        self._plain_loaded, self._protected = True, False
        self._pending = None
        arm(self._engine, False)
        self._context = None

    def get_plain(self) -> PlainState:
        """The registers of the plain guest."""
        if not self._plain_loaded:
            raise ValueError("no plain guest is loaded")
        return save_plain(self._engine)

    def complete_io(self, data: bytes) -> None:
        """What the IN or INS that left with Io has read."""
        port, self._last_in = self._last_in, None
        if port is None or port.value is not None:
            raise ValueError("no IN is under way")
        if port.string:
            self._complete_ins(port, data)
            return
        rax = self._env.regs[RAX]
        value = int.from_bytes(data[: port.size], "little")
        mask = (1 << 8 * port.size) - 1
        self._env.regs[RAX] = value if port.size == 4 else rax & ~mask | value

    def _complete_ins(self, port: _Port, data: bytes) -> None:
        """One element of INS, which Unicorn leaves half done when it is stopped in it."""
        env = self._env
        code = self._mmu.fetch(port.rip, 15)
        count = prefixes(code)
        mask = 0xFFFFFFFF if 0x67 in code[:count] else (1 << 64) - 1
        repeated = 0xF3 in code[:count] or 0xF2 in code[:count]
        self._mmu.write(env.regs[RDI] & mask, data[: port.size])
        step = -port.size if self._engine.flags & RF_DF else port.size
        env.regs[RDI] = env.regs[RDI] + step & mask
        if repeated:
            env.regs[RCX] = env.regs[RCX] - 1 & mask
        if not repeated or not env.regs[RCX]:
            env.eip = port.rip + count + 1

    def complete_msr(self, value: int) -> None:
        """What the RDMSR that left with Msr has read."""
        self._env.regs[RAX], self._env.regs[RDX] = value & 0xFFFFFFFF, value >> 32

    def read_reg(self, number: int) -> int:
        """A general register of a plain guest, by encoding (0: RAX, 1: RCX ...)."""
        return int(self._env.regs[number])

    def write_reg(self, number: int, value: int) -> None:
        """Set a general register of a plain guest."""
        self._env.regs[number] = value

    def raise_vc(self, exit_code: int) -> None:
        """Have the guest take #VC before its next instruction."""
        self._pending = Event(VC, exit_code)

    def raise_exception(self, vector: int, error_code: int | None = None) -> None:
        """Have the guest take an exception before its next instruction."""
        self._pending = Event(vector, error_code)

    def save(self) -> None:
        """Write the loaded state back to its VMSA page, and let go of it."""
        if self.loaded_vmsa is None:
            return
        # As after a #VMEXIT the event is still to come, the save area has no place for it.
        vmsa = sev_es_save_area.from_buffer(self._memory.view(self.loaded_vmsa, 0x1000))
        save_vmsa(self._engine, vmsa)
        self.loaded_vmsa = None

    def invalidate(self, vmsa_pa: int) -> None:
        """Drop the loaded state of a VMSA page without writing it back."""
        if self.loaded_vmsa == vmsa_pa:
            self.loaded_vmsa = None

    def flush_tlb(self) -> None:
        """Forget translations, after a change of nested page tables or the RMP."""
        self._mmu.flush()
        self._live.clear()
        self._engine.flush_tlb()

    def close(self) -> None:
        """Free the processor; its state is lost unless saved before."""
        self.loaded_vmsa = None
        self._mmu.close()
        self._engine.close()

    # -- running ---------------------------------------------------------------------------

    def _vmsa_page_defect(self, vmsa_pa: int, asid: int) -> str | None:
        """The RMP's conditions on a VMSA page (APM vol. 2, 15.36.12)."""
        if vmsa_pa & 0xFFF or not 0 < vmsa_pa < self._memory.size:
            return "the VMSA address is not a page of memory"
        entry = self._rmp.effective(vmsa_pa)
        if not entry.assigned or entry.asid != asid:
            return "the VMSA page is not assigned to this ASID"
        if not entry.vmsa:
            return "the page is not a VMSA page"
        if not entry.validated or entry.immutable:
            return "the VMSA page is not validated, or immutable"
        return None

    def _enter_context(self, npt: NestedPageTable, asid: int, vmpl: int, snp: bool) -> None:
        context = (npt, asid, vmpl)
        if self._context is None or self._context[0] is not npt or self._context[1:] != context[1:]:
            self._mmu.use(npt, asid, vmpl, snp)
            self.flush_tlb()
            self._context = context
            return
        self._check_code()

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
            if fault.error_code & PFERR_GUEST_FINAL:
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

    # -- hooks -----------------------------------------------------------------------------

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

    def _read_tsc(self, auxiliary: bool) -> None:
        env = self._env
        tsc = self._tsc + TSC_PER_INSTRUCTION * (self.instructions + self._engine.executed)
        env.regs[RAX], env.regs[RDX] = tsc & 0xFFFFFFFF, tsc >> 32 & 0xFFFFFFFF
        if auxiliary:
            env.regs[RCX] = env.tsc_aux & 0xFFFFFFFF

    def _port_access(self, number: int, size: int, value: int | None) -> None:
        """IN or OUT: it can only be undone, or completed, once the processor has stopped."""
        env = self._env
        self._port = _Port(number, size, value, env.eip, tuple(env.regs))
        self._engine.stop()

    def _finish_port(self, port: _Port) -> None:
        env = self._env
        if self._protected:
            env.regs[:] = port.regs
            env.eip = port.rip
            self._pending = Event(VC, svm.SVM_EXIT_IOIO)
            return
        code = self._mmu.fetch(port.rip, 15)
        if port.value is None and code[prefixes(code)] in (0x6C, 0x6D):
            env.regs[:] = port.regs
            env.eip = port.rip
            port = replace(port, string=True)
        data = (port.value or 0).to_bytes(4, "little")[: port.size]
        self._last_in = port
        self._exit = exits.Io(port.number, port.size, port.value is not None, data)

    def _syscall_begun(self) -> None:
        """SYSCALL, which Unicorn leaves to us; carried out once the processor has stopped."""
        self._syscall_at = self._env.eip
        self._engine.stop()

    def _syscall(self, rip: int) -> None:
        """SYSCALL in long mode (APM vol. 3)."""
        env, engine = self._env, self._engine
        env.eip = rip
        if not env.efer & EFER_SCE:
            self._pending = Event(UD)
            return
        env.regs[RCX], env.regs[R11] = rip + 2, engine.flags & ~RF_RF
        env.eip = env.lstar if env.hflags & HF_CS64 else env.cstar
        engine.flags &= ~(env.fmask | RF_RF)
        selector = env.star >> 32 & 0xFFFC
        for number, value, attrib in ((CS, selector, 0xA9B), (SS, selector + 8, 0xC93)):
            segment = env.segs[number]
            segment.selector, segment.base, segment.limit = value, 0, 0xFFFFFFFF
            segment.flags = attributes(attrib)
        update_hflags(env, 0)

    def _code_at_rip(self, length: int) -> bytes:
        """Instruction bytes: the instruction has been fetched, so its page is known."""
        rip = self._env.eip
        page = self._live.get(rip & ~0xFFF)
        if page is not None and rip & 0xFFF <= 0x1000 - length:
            return self._memory.read(page | rip & 0xFFF, length)
        return self._mmu.fetch(rip, length)

    def _invalid(self) -> bool:
        """What Unicorn does not know: among it the instructions of SEV."""
        env = self._env
        code = self._code_at_rip(4)
        if code in VMGEXIT and self._protected:
            env.eip += 4
            self._vmgexit()
            return True
        try:
            if code == snp.PVALIDATE:
                flush = snp.pvalidate(self._engine, self._mmu, self._rmp)
                env.eip += 4
            elif code == snp.RMPADJUST:
                flush = snp.rmpadjust(self._engine, self._mmu, self._rmp)
                env.eip += 4
            elif code[:3] == VMMCALL and self._protected:
                raise GuestFault(VC, svm.SVM_EXIT_VMMCALL)
            elif code[:3] in (VMMCALL, VMCALL) and not self._protected:
                env.eip += 3
                self._leave(exits.Vmmcall())
                return True
            else:
                raise GuestFault(UD)
            if flush:
                self.flush_tlb()
        except GuestFault as fault:
            self._deliver(Event.of(fault))
        except NestedFault as fault:
            self._leave(exits.Npf(fault.gpa, fault.error_code))
        return True

    def _vmgexit(self) -> None:
        if self.on_vmgexit is None:
            self._leave(exits.VmgExit())
            return
        # The guest has exited for the time being, so its VMSA is not in use.
        in_use = self._rmp.in_use
        page = -1 if self.loaded_vmsa is None else self.loaded_vmsa >> 12
        in_use.discard(page)
        if self.on_vmgexit(self._vmcb):
            in_use.add(page)
        else:
            self._leave(exits.VmgExit())

    def _interrupt(self, number: int) -> None:
        if number < EXCP_VMEXIT:
            self._deliver(Event(number, software=True))
            return
        code = number - EXCP_VMEXIT
        try:
            if svm.SVM_EXIT_EXCP_BASE <= code <= svm.SVM_EXIT_LAST_EXCP:
                vector = code - svm.SVM_EXIT_EXCP_BASE
                if vector == DB and self._protected:
                    raise GuestFault(VC, code)  # intercepted, for want of DebugSwap
                raise GuestFault(vector, self._env.error_code & 0xFFFFFFFF)
            self._intercept(code)
        except GuestFault as fault:
            self._deliver(Event.of(fault))
        except NestedFault as fault:
            self._leave(exits.Npf(fault.gpa, fault.error_code))

    def _skip(self, code: int) -> None:
        """Move RIP past an intercepted instruction."""
        length = LENGTH[code]
        bytes_ = self._code_at_rip(15 if length > 1 else 1)
        self._env.eip += prefixes(bytes_) + length

    def _opcode(self) -> int:
        """Second byte of a two-byte opcode."""
        code = self._code_at_rip(15)
        return code[prefixes(code) + 1]

    def _intercept(self, code: int) -> None:
        env = self._env
        if code == svm.SVM_EXIT_HLT:
            self._skip(code)
            self._leave(exits.Hlt())
        elif code == svm.SVM_EXIT_MSR:
            self._msr()
        elif svm.SVM_EXIT_WRITE_CR0 <= code <= svm.SVM_EXIT_WRITE_CR8:
            self._write_cr()
        elif self._protected:
            if code == svm.SVM_EXIT_WBINVD and self._opcode() == 0x08:
                code = svm.SVM_EXIT_INVD  # QEMU 5.0 reports both as WBINVD
            raise GuestFault(VC, code)
        elif code == svm.SVM_EXIT_CPUID:
            answer = self.cpuid(env.regs[RAX] & 0xFFFFFFFF, env.regs[RCX] & 0xFFFFFFFF)
            env.regs[RAX], env.regs[3], env.regs[RCX], env.regs[RDX] = answer
            self._skip(code)
        elif code == svm.SVM_EXIT_RDPMC:
            raise GuestFault(GP)
        elif code in LENGTH:
            self._skip(code)  # KVM emulates these as no-ops
        else:
            raise GuestFault(UD)

    def _msr(self) -> None:
        """An MSR that hardware does not pass through."""
        env = self._env
        write = self._opcode() == 0x30
        index = env.regs[RCX] & 0xFFFFFFFF
        value = (env.regs[RDX] & 0xFFFFFFFF) << 32 | env.regs[RAX] & 0xFFFFFFFF
        if not self._protected:
            self._skip(svm.SVM_EXIT_MSR)
            self._leave(exits.Msr(index, write, value if write else 0))
            return
        if index == MSR_AMD64_SEV_ES_GHCB:
            if write:
                self._vmcb.ghcb_gpa = value
            else:
                self.complete_msr(self._vmcb.ghcb_gpa)
        elif index == MSR_AMD64_SEV:
            if write:
                raise GuestFault(GP)
            self.complete_msr(SEV_STATUS_SEV_ES | self._features << 2)
        elif index == MSR_EFER:
            if not write:
                self.complete_msr(env.efer)
            else:
                self._write_efer(value)
        else:
            raise GuestFault(VC, svm.SVM_EXIT_MSR)
        self._skip(svm.SVM_EXIT_MSR)

    def _write_efer(self, value: int) -> None:
        env = self._env
        if value & ~EFER_VALID:
            raise GuestFault(GP)
        env.efer = value & ~EFER_LMA | env.efer & EFER_LMA
        self._mmu.flush()
        self._engine.flush_tlb()
        self._leave(exits.EferWrite(env.efer))

    def _write_cr(self) -> None:
        """MOV to CR0, CR4, CR8, CLTS, LMSW: do what they do, then exit (write traps)."""
        env = self._env
        code = self._code_at_rip(15)
        at = prefixes(code)
        rex = code[at - 1] if at and code[at - 1] & 0xF0 == 0x40 else 0
        opcode, modrm = code[at + 1], code[at + 2]
        register, value, length = 0, int(env.cr[0]), 3
        if opcode == 0x22:
            register = modrm >> 3 & 7 | (rex & 4) << 1
            value = int(env.regs[modrm & 7 | (rex & 1) << 3])
        elif opcode == 0x06:
            value &= ~8
            length = 2
        elif modrm >> 6 == 3:
            word = env.regs[modrm & 7 | (rex & 1) << 3]
            value = value & ~0xE | word & 0xF | value & 1
        else:
            raise GuestFault(UD)  # LMSW from memory
        if value >> 32:
            raise GuestFault(GP)
        env.cr[register] = value
        env.eip += at + length
        update_hflags(env, env.hflags & HF_CPL)
        self._mmu.flush()
        self._engine.flush_tlb()
        self._leave(exits.CrWrite(register, value))
