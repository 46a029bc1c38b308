# SPDX-License-Identifier: GPL-2.0-only
"""What the processor does itself of a guest's instructions: intercepts, SEV, ports, SYSCALL.

INS of a protected guest: Unicorn touches the destination before #VC is raised, the element there
is zero when the handler runs, which then stores what it got from the host.
"""

from __future__ import annotations

from dataclasses import replace

from harness.emulator.cpu import exits, snp
from harness.emulator.cpu.delivery import Event
from harness.emulator.cpu.env import CS, HF_CPL, HF_CS64, R11, RAX, RCX, RDI, RDX, RF_DF, RF_RF, SS
from harness.emulator.cpu.faults import (
    DB,
    GP,
    UD,
    VC,
    GuestFault,
    NestedFault,
)
from harness.emulator.cpu.intercepts import (
    LENGTH,
    MSR_AMD64_SEV,
    MSR_AMD64_SEV_ES_GHCB,
    MSR_EFER,
    prefixes,
)
from harness.emulator.cpu.runner import Port, Runner
from harness.emulator.cpu.state import (
    EFER_LMA,
    EFER_SCE,
    EFER_VALID,
    attributes,
    update_hflags,
)
from harness.emulator.cpu.uc import EXCP_VMEXIT
from harness.uapi import svm

VMGEXIT = (b"\xf3\x0f\x01\xd9", b"\xf2\x0f\x01\xd9")
VMMCALL, VMCALL = b"\x0f\x01\xd9", b"\x0f\x01\xc1"
SEV_STATUS_SEV_ES = 3


class Emulation(Runner):
    """A runner with the instructions that KVM intercepts, and those Unicorn lacks."""

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

    def _complete_ins(self, port: Port, data: bytes) -> None:
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

    def _port_access(self, number: int, size: int, value: int | None) -> None:
        """IN or OUT: it can only be undone, or completed, once the processor has stopped."""
        env = self._env
        self._port = Port(number, size, value, env.eip, tuple(env.regs))
        self._engine.stop()

    def _finish_port(self, port: Port) -> None:
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
            elif code == snp.RMPQUERY:
                snp.rmpquery(self._engine, self._mmu, self._rmp)
                flush = False
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
