# SPDX-License-Identifier: GPL-2.0-only
"""Delivery of interrupts and exceptions through the guest's IDT (APM vol. 2, 8.9, long mode)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.emulator.cpu.env import (
    CS,
    DESC_DPL_SHIFT,
    DESC_L,
    HF_CPL,
    RF_IF,
    RF_NT,
    RF_RF,
    RF_TF,
    RF_VM,
    RSP,
    SS,
)
from harness.emulator.cpu.faults import (
    CONTRIBUTORY,
    DB,
    DF,
    GP,
    NMI,
    NP,
    PF,
    TS,
    WITH_ERROR_CODE,
    GuestFault,
    TripleFault,
)
from harness.emulator.cpu.mmu import EFER_LMA, Mmu
from harness.emulator.cpu.state import update_hflags
from harness.emulator.cpu.uc import Engine

INTERRUPT_GATE, TRAP_GATE = 0xE, 0xF
DESC_CODE, DESC_CONFORMING, DESC_S, DESC_P = 1 << 11, 1 << 10, 1 << 12, 1 << 15
CANONICAL_TOP = 47


@dataclass(frozen=True, slots=True)
class Event:
    """What is to be delivered."""

    vector: int
    error_code: int | None = None
    address: int | None = None
    """For CR2."""
    software: bool = False
    """INT n: the gate's privilege level counts, RIP is past the instruction."""
    external: bool = False
    """An interrupt: not a consequence of the instruction at RIP."""

    @classmethod
    def of(cls, fault: GuestFault) -> Event:
        """The event for a fault."""
        code = fault.error_code if fault.vector in WITH_ERROR_CODE else None
        return cls(fault.vector, code, fault.address)


def combine(first: Event, second: GuestFault) -> Event:
    """What a fault during delivery becomes (APM vol. 2, table 8-3)."""
    if first.vector == DF and not first.software and not first.external:
        raise TripleFault
    if first.software or first.external:
        return Event.of(second)
    serious = second.vector in CONTRIBUTORY
    if (first.vector in CONTRIBUTORY and serious) or (
        first.vector == PF and (serious or second.vector == PF)
    ):
        return Event(DF, 0)
    return Event.of(second)


def deliver(engine: Engine, mmu: Mmu, event: Event) -> None:
    """Enter the guest's handler.

    NestedFault says what the host must resolve before the same event is delivered again;
    nothing has changed then.  TripleFault ends the guest.
    """
    current = event
    while True:
        try:
            _enter(engine, mmu, current)
            return
        except GuestFault as fault:
            if fault.address is not None:
                engine.env.cr[2] = fault.address
            current = combine(current, fault)


def _enter(engine: Engine, mmu: Mmu, event: Event) -> None:
    env = engine.env
    if not env.efer & EFER_LMA:
        raise TripleFault  # legacy IDTs are not modelled
    external = 0 if event.software else 1
    cpl = env.hflags & HF_CPL
    gate_error = event.vector << 3 | 2 | external
    if event.vector * 16 + 15 > env.idt.limit:
        raise GuestFault(GP, gate_error)
    low, high = struct.unpack("<QQ", mmu.read(env.idt.base + event.vector * 16, 16))
    if low >> 40 & 0x1F not in (INTERRUPT_GATE, TRAP_GATE):
        raise GuestFault(GP, gate_error)
    if event.software and low >> 45 & 3 < cpl:
        raise GuestFault(GP, gate_error)
    if not low >> 47 & 1:
        raise GuestFault(NP, gate_error)
    selector = low >> 16 & 0xFFFF
    target = low & 0xFFFF | low >> 32 & 0xFFFF0000 | (high & 0xFFFFFFFF) << 32
    flags = _code_segment(engine, mmu, selector, cpl, external)
    level = cpl if flags & DESC_CONFORMING else flags >> DESC_DPL_SHIFT & 3
    stack = _stack(engine, mmu, low >> 32 & 7, level, cpl) & ~0xF
    old = engine.flags
    fault = not event.software and not event.external and event.vector not in (DB, NMI)
    frame = [
        env.eip,
        env.segs[CS].selector,
        old | RF_RF if fault else old,
        env.regs[RSP],
        env.segs[SS].selector,
    ]
    if event.error_code is not None:
        frame.insert(0, event.error_code)
    data = struct.pack(f"<{len(frame)}Q", *frame)
    mmu.write(stack - len(data), data)
    # From here on nothing faults.
    if event.address is not None:
        env.cr[2] = event.address
    env.regs[RSP] = stack - len(data)
    env.eip = target
    new = old & ~(RF_TF | RF_NT | RF_RF | RF_VM)
    if low >> 40 & 0x1F == INTERRUPT_GATE:
        new &= ~RF_IF
    engine.flags = new
    code = env.segs[CS]
    code.selector, code.base, code.limit, code.flags = selector & ~3 | level, 0, 0xFFFFFFFF, flags
    if level != cpl:
        data_segment = env.segs[SS]
        data_segment.selector, data_segment.base, data_segment.limit = level, 0, 0
        data_segment.flags = level << DESC_DPL_SHIFT
    update_hflags(env, level)


def _code_segment(engine: Engine, mmu: Mmu, selector: int, cpl: int, external: int) -> int:
    """Attributes of the handler's code segment."""
    env = engine.env
    error = selector & ~7 | external
    if not selector & ~3:
        raise GuestFault(GP, external)
    table = env.ldt if selector & 4 else env.gdt
    if (selector | 7) > table.limit:
        raise GuestFault(GP, error | selector & 4)
    flags = int.from_bytes(mmu.read(table.base + (selector & ~7) + 4, 4), "little")
    if flags & (DESC_S | DESC_CODE) != DESC_S | DESC_CODE or not flags & DESC_L:
        raise GuestFault(GP, error)
    if flags >> DESC_DPL_SHIFT & 3 > cpl:
        raise GuestFault(GP, error)
    if not flags & DESC_P:
        raise GuestFault(NP, error)
    return flags


def _stack(engine: Engine, mmu: Mmu, ist: int, level: int, cpl: int) -> int:
    """Stack of the handler: from the TSS where the gate or the privilege change asks for it."""
    env = engine.env
    if not ist and level == cpl:
        return int(env.regs[RSP])
    offset = 0x24 + 8 * (ist - 1) if ist else 4 + 8 * level
    if offset + 7 > env.tr.limit:
        raise GuestFault(TS, env.tr.selector & ~3)
    stack = int.from_bytes(mmu.read(env.tr.base + offset, 8), "little")
    if stack >> CANONICAL_TOP not in (0, (1 << 64 - CANONICAL_TOP) - 1):
        raise GuestFault(12)
    return stack
