# SPDX-License-Identifier: GPL-2.0-only
"""The SNP guest on Unicorn with a hypervisor of a few lines: GHCB, #VC handler, faults.

It knows nothing of the emulator.  Each instruction is looked at; those that SEV-ES
intercepts are delivered as #VC through the guest's own IDT, VMGEXIT is answered from a
table.  The page tables have no C-bit here, so both views are the same memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from unicorn import unicorn_const as uc_const
from unicorn import x86_const as x86
from unicorn.unicorn import Uc

from harness import guestimage
from harness.guestimage import Flavour
from harness.vm import boot, launch_digest, layout, mailbox
from harness.vm.mailbox import REFUSED_VECTOR, Command, Header, Op, RawResult, Status, VmgExit
from harness.vm.psc import PscEntry, PscOp, decode_list, encode_list

GHCB_MSR = 0xC0010130
SW_EXITCODE, SW_INFO1, SW_INFO2, SW_SCRATCH = 0x390, 0x398, 0x3A0, 0x3A8
RAX, RCX, RDX, RBX, RSI, XCR0 = 0x1F8, 0x308, 0x310, 0x318, 0x330, 0x3E8
INTERCEPTED = {b"\x0f\xa2": 0x72, b"\x0f\x01\xd9": 0x81}
PORT_OPCODES = bytes([0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF])


class Machine:
    """One vCPU and what answers its exits."""

    def __init__(self) -> None:
        image = guestimage.load(Flavour.SNP)
        make: Any = Uc
        self.uc = make(uc_const.UC_ARCH_X86, uc_const.UC_MODE_64)
        self.uc.ctl_set_cpu_model(x86.UC_CPU_X86_EPYC)
        self.uc.mem_map(0, 16 << 20)
        for part in boot.launch_pages(image, cbit=None, vcpus=1, secrets=False):
            self.uc.mem_write(part.gpa, part.data)
        self.set("CR4", boot.CR4)
        self.set("CR3", layout.PAGE_TABLES_GPA)
        self.uc.reg_write(x86.UC_X86_REG_MSR, (0xC0000080, boot.EFER))
        self.set("CR0", boot.CR0)
        regs = boot.entry_regs(image, 0)
        self.set("RSP", regs.rsp)
        self.set("RDI", regs.rdi)
        self.rip: int = regs.rip
        self.ghcb_msr = 0
        self.notified = 0
        self.exits: list[tuple[int, int, int]] = []
        self.validated: set[int] = set()
        self.nae: dict[int, Callable[[], tuple[int, int]]] = {}
        self.msr_log: list[int] = []
        self.terminated: int | None = None
        self.uc.hook_add(uc_const.UC_HOOK_CODE, self._step)

    def set(self, name: str, value: int) -> None:
        self.uc.reg_write(getattr(x86, f"UC_X86_REG_{name}"), value)

    def get(self, name: str) -> int:
        return int(self.uc.reg_read(getattr(x86, f"UC_X86_REG_{name}")))

    def word(self, offset: int) -> int:
        at = (self.ghcb_msr & ~0xFFF) + offset
        return int.from_bytes(self.uc.mem_read(at, 8), "little")

    def put(self, offset: int, value: int) -> None:
        self.uc.mem_write((self.ghcb_msr & ~0xFFF) + offset, value.to_bytes(8, "little"))

    def valid(self, offset: int) -> bool:
        bitmap = self.word(0x3F0) | self.word(0x3F8) << 64
        return bool(bitmap >> offset // 8 & 1)

    def deliver(self, vector: int, error: int, rip: int) -> None:
        """An exception with error code through the guest's IDT."""
        _, base, limit, _ = self.uc.reg_read(x86.UC_X86_REG_IDTR)
        assert limit == 32 * 16 - 1
        gate = bytes(self.uc.mem_read(base + vector * 16, 16))
        handler = int.from_bytes(gate[0:2] + gate[6:12], "little")
        rsp = self.get("RSP")
        flags = self.get("RFLAGS")
        if gate[4]:
            top = layout.cpu_page(0) + layout.CPU_TSS + 0x24
            stack = int.from_bytes(self.uc.mem_read(top, 8), "little")
        else:
            stack = rsp
        frame = (error, rip, self.get("CS"), flags, rsp, self.get("SS"))
        at = (stack & ~15) - 48
        self.uc.mem_write(at, b"".join(value.to_bytes(8, "little") for value in frame))
        self.set("RSP", at)
        self.set("RIP", handler)

    def _step(self, uc: Any, rip: int, size: int, _: object) -> None:
        code = bytes(uc.mem_read(rip, 4))
        if code[:2] in (b"\x0f\x30", b"\x0f\x32"):
            self._msr(rip, code[1] == 0x30)
        elif code == b"\xf3\x0f\x01\xd9":
            self.set("RIP", rip + 4)
            self._vmgexit()
        elif code in (b"\xf2\x0f\x01\xff", b"\xf3\x0f\x01\xfe"):
            self._page_state(rip, code[0] == 0xF2)
        elif code[:2] == b"\x0f\x0b":
            self.deliver(13, 0, rip)
        else:
            for pattern, reason in INTERCEPTED.items():
                if code.startswith(pattern):
                    self.deliver(29, reason, rip)
                    return
            if code[code[0] == 0x66] in PORT_OPCODES:
                self.deliver(29, 0x7B, rip)

    def _msr(self, rip: int, write: bool) -> None:
        if self.get("ECX") != GHCB_MSR:
            self.deliver(29, 0x7C, rip)
            return
        self.set("RIP", rip + 2)
        if write:
            self.ghcb_msr = self.get("EDX") << 32 | self.get("EAX")
        else:
            self.set("RAX", self.ghcb_msr & 0xFFFFFFFF)
            self.set("RDX", self.ghcb_msr >> 32)

    def _page_state(self, rip: int, is_pvalidate: bool) -> None:
        self.set("RIP", rip + 4)
        page, validate = self.get("RAX"), bool(self.get("RDX") & 1)
        flags = self.get("RFLAGS") & ~1
        if is_pvalidate:
            if (page in self.validated) == validate:
                flags |= 1
            (self.validated.add if validate else self.validated.discard)(page)
        self.set("RFLAGS", flags)
        self.set("RAX", 0 if page < 8 << 20 else 1)

    def _vmgexit(self) -> None:
        request = self.ghcb_msr & 0xFFF
        if request:
            self.msr_log.append(self.ghcb_msr)
        if request == 2:
            self.ghcb_msr = 2 << 48 | 1 << 32 | 51 << 24 | 1
        elif request == 4:
            register = self.ghcb_msr >> 30 & 3
            self.ghcb_msr = (0xC0 + register) << 32 | 5
        elif request == 0x12:
            self.ghcb_msr = (self.ghcb_msr & ~0xFFF) | 0x13
        elif request == 0x100:
            self.terminated = self.ghcb_msr
            self.uc.emu_stop()
        elif request == 0:
            self._nae()

    def _nae(self) -> None:
        code, info1, info2 = self.word(SW_EXITCODE), self.word(SW_INFO1), self.word(SW_INFO2)
        assert all(map(self.valid, (SW_EXITCODE, SW_INFO1, SW_INFO2)))
        self.exits.append((code, info1, info2))
        if code == 0x7B and info1 >> 16 == layout.NOTIFY_PORT:
            self.put(SW_INFO1, 0)
            self.put(SW_INFO2, 0)
            self.notified += 1
            self.uc.emu_stop()
            return
        answer = self.nae.get(code, lambda: (0, 0))()
        self.put(SW_INFO1, answer[0])
        self.put(SW_INFO2, answer[1])

    def enter(self) -> None:
        before = self.notified
        self.uc.emu_start(self.rip, 0, timeout=20_000_000)
        self.rip = self.get("RIP")
        assert self.notified > before or self.terminated is not None

    def header(self) -> Header:
        return Header.decode(bytes(self.uc.mem_read(layout.mailbox(0), 64)))

    def run(self, *commands: Command) -> list[RawResult]:
        base = layout.mailbox(0)
        for number, command in enumerate(commands):
            self.uc.mem_write(base + mailbox.record_offset(number), command.encode())
        self.uc.mem_write(base + mailbox.COUNT_OFFSET, len(commands).to_bytes(4, "little"))
        self.exits.clear()
        self.msr_log.clear()
        self.enter()
        page = bytes(self.uc.mem_read(base, 4096))
        offsets = map(mailbox.record_offset, range(len(commands)))
        return [RawResult.decode(page[at : at + mailbox.RECORD_SIZE]) for at in offsets]


@pytest.fixture
def machine() -> Machine:
    made = Machine()
    made.enter()
    return made


def test_entry_negotiates_and_registers(machine: Machine) -> None:
    """SEV information, registration of the GHCB, then the first notification by IOIO NAE."""
    header = machine.header()
    assert machine.msr_log == [2, layout.ghcb(0) | 0x12]
    assert header.sev_info == 2 << 48 | 1 << 32 | 51 << 24 | 1
    assert header.registration == layout.ghcb(0) | 0x13
    assert machine.exits == [(0x7B, layout.NOTIFY_PORT << 16 | 1 << 9 | 1 << 6, 0)]
    assert machine.valid(RAX)


def test_cpuid_by_page_and_by_msr(machine: Machine) -> None:
    """CPUID is answered through the GHCB page, or register by register through the MSR."""

    def answer() -> tuple[int, int]:
        assert machine.valid(RAX)
        assert machine.valid(RCX)
        assert machine.valid(XCR0) == (machine.word(RAX) == 0xD)
        leaf = machine.word(RAX)
        for offset, value in ((RAX, 1), (RBX, 2), (RCX, 3), (RDX, 4)):
            machine.put(offset, leaf << 8 | value)
        return 0, 0

    machine.nae[0x72] = answer
    by_page, with_xcr0, by_msr = machine.run(
        Command(Op.CPUID, (7, 1)), Command(Op.CPUID, (0xD, 0)), Command(Op.CPUID, (7,), 1)
    )
    assert by_page.values[:4] == (0x701, 0x702, 0x703, 0x704)
    assert with_xcr0.values[0] == 0xD01
    assert by_msr.values[:4] == (0xC0, 0xC1, 0xC2, 0xC3)
    assert machine.msr_log == [7 << 32 | register << 30 | 4 for register in range(4)]


def test_msrs(machine: Machine) -> None:
    """RDMSR and WRMSR exit with ECX, EDX:EAX; an injected #GP becomes a fault record."""
    seen: list[tuple[int, int, int]] = []

    def answer() -> tuple[int, int]:
        index = machine.word(RCX)
        if index == 0x666:
            return 1, 1 << 31 | 1 << 11 | 3 << 8 | 13
        if machine.word(SW_INFO1):
            seen.append((index, machine.word(RAX), machine.word(RDX)))
        machine.put(RAX, 0x11)
        machine.put(RDX, 0x22)
        return 0, 0

    machine.nae[0x7C] = answer
    read, write, refused = machine.run(
        Command(Op.RDMSR, (0x10,)),
        Command(Op.WRMSR, (0x20, 0x3300000044)),
        Command(Op.RDMSR, (0x666,)),
    )
    assert read.values[0] == 0x22_00000011
    assert write.status == Status.OK
    assert seen == [(0x20, 0x44, 0x33)]
    assert (refused.status, refused.vector) == (Status.FAULT, 13)


def test_ports_of_all_widths(machine: Machine) -> None:
    """IN and OUT of 1, 2 and 4 bytes name port, size and direction as 56421 says."""

    def answer() -> tuple[int, int]:
        machine.put(RAX, 0xAABBCCDD)
        return 0, 0

    machine.nae[0x7B] = answer
    results = machine.run(
        *(Command(Op.IN, (0x70, width)) for width in (1, 2, 4)),
        *(Command(Op.OUT, (0x71, width, 0x12345678)) for width in (1, 2, 4)),
    )
    assert [result.values[0] for result in results[:3]] == [0xDD, 0xCCDD, 0xAABBCCDD]
    infos = [info1 for _, info1, _ in machine.exits[:6]]
    assert infos[:3] == [0x70 << 16 | 1 << 9 | width << 4 | 1 for width in (1, 2, 4)]
    assert infos[3:] == [0x71 << 16 | 1 << 9 | width << 4 for width in (1, 2, 4)]


def test_hypervisor_refusing_the_handler(machine: Machine) -> None:
    """Malformed input, the hypervisor says: the command faults with its reason."""
    machine.nae[0x72] = lambda: (2, 5)
    (result,) = machine.run(Command(Op.CPUID, (0,)))
    assert (result.status, result.vector) == (Status.FAULT, REFUSED_VECTOR + 5)


def test_vmmcall(machine: Machine) -> None:
    """A hypercall hands over RAX, RBX, RCX, RDX, RSI and the CPL."""

    def answer() -> tuple[int, int]:
        assert all(map(machine.valid, (RAX, RBX, RCX, RDX, RSI, 0xC8)))
        total = sum(map(machine.word, (RAX, RBX, RCX, RDX, RSI)))
        machine.put(RAX, total)
        return 0, 0

    machine.nae[0x81] = answer
    (result,) = machine.run(Command(Op.HYPERCALL, (1, 20, 300, 4000, 50000)))
    assert result.values[0] == 54321


def test_free_form_exit(machine: Machine) -> None:
    """Fields, valid bits, version and usage are what the command says."""

    def answer() -> tuple[int, int]:
        assert machine.valid(RAX)
        assert machine.valid(SW_SCRATCH)
        assert not machine.valid(RBX)
        at = layout.ghcb(0)
        assert bytes(machine.uc.mem_read(at + 0xFFA, 6)) == bytes([9, 0, 0xEF, 0xBE, 0xAD, 0xDE])
        return 0x77, 0x88

    machine.nae[0x80000099] = answer
    flags = VmgExit.RAX | VmgExit.SCRATCH | VmgExit.VERSION | VmgExit.USAGE
    args = (0x80000099, 1, 2, 0x1000, 5, 6, 7, 8, 0, 9, 0xDEADBEEF)
    (result,) = machine.run(Command(Op.VMGEXIT, args, flags))
    assert result.values[:3] == (0x77, 0x88, 5)
    assert machine.exits[0] == (0x80000099, 1, 2)


def test_page_state_list_is_resumed(machine: Machine) -> None:
    """The guest exits again while entries are left, and stops at the hypervisor's error."""
    shared = layout.ghcb(0) + 0x800
    entries = [PscEntry(0x400 + n, PscOp.PRIVATE) for n in range(5)]

    def answer() -> tuple[int, int]:
        assert machine.word(SW_SCRATCH) == shared
        cur, _, _ = decode_list(bytes(machine.uc.mem_read(shared, 48)))
        machine.uc.mem_write(shared, (cur + 2).to_bytes(2, "little"))
        return 0, 0

    machine.nae[0x80000010] = answer
    machine.uc.mem_write(shared, encode_list(entries))
    (result,) = machine.run(Command(Op.PSC, (100,)))
    assert result.values[:5] == (0, 0, 3, 6, 4)

    machine.nae[0x80000010] = lambda: (0, 0x100 << 32)
    machine.uc.mem_write(shared, encode_list(entries))
    (result,) = machine.run(Command(Op.PSC, (100,)))
    assert result.values[:5] == (0, 0x100 << 32, 1, 0, 4)

    machine.nae[0x80000010] = lambda: (0, 0)
    machine.uc.mem_write(shared, encode_list(entries))
    (result,) = machine.run(Command(Op.PSC, (7,)))
    assert (result.status, result.values[2]) == (Status.LIMIT, 7)


def test_pvalidate_ranges(machine: Machine) -> None:
    """Codes and carry of each page come back; the range ends at the first code."""
    first, again, beyond = machine.run(
        Command(Op.PVALIDATE, (0x400000, 0, 1, 4)),
        Command(Op.PVALIDATE, (0x403000, 0, 1, 2)),
        Command(Op.PVALIDATE, (0x7FF000, 0, 1, 3)),
    )
    assert first.values[:4] == (0, 0, 4, 4)
    assert again.values[:4] == (0, 0, 2, 1)
    assert beyond.values[:4] == (1, 0, 1, 1)


def test_build_vmsa(machine: Machine) -> None:
    """The VMSA made by the guest starts a vCPU as the measured one would."""
    (result,) = machine.run(
        Command(Op.BUILD_VMSA, (0x500000, layout.IMAGE_GPA, layout.stack_top(1), 1, 0x21, 0))
    )
    assert (result.status, result.values[0]) == (Status.OK, 0)
    image = guestimage.load(Flavour.SNP)
    measured = launch_digest.entry_vmsa(image, 1, vmsa_features=0x20)
    built = bytes(machine.uc.mem_read(0x500000, 4096))
    different = [at for at in range(0, 4096, 8) if built[at : at + 8] != measured[at : at + 8]]
    assert different == []


def test_fault_is_recorded_and_the_batch_goes_on(machine: Machine) -> None:
    """An exception in the middle of a batch costs that command only."""
    machine.uc.mem_write(0x430000, b"\x90\x0f\x0b")
    good, bad, after = machine.run(
        Command(Op.NOP, (1, 2)),
        Command(Op.EXECUTE, (0x430000,)),
        Command(Op.LOAD, (0x430000, 1)),
    )
    assert good.values[:2] == (1, 2)
    assert (bad.status, bad.vector, bad.rip) == (Status.FAULT, 13, 0x430001)
    assert after.values[0] == 0x90


def test_terminate(machine: Machine) -> None:
    """Set and code are in the value of the MSR."""
    machine.run(Command(Op.TERMINATE, (3, 0x42)))
    assert machine.terminated == 0x42 << 16 | 3 << 12 | 0x100
