# SPDX-License-Identifier: GPL-2.0-only
"""A bench for the processor: physical memory with RMP, a guest assembled on the spot, its VMSA."""

from __future__ import annotations

import functools
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.emulator.cpu.cpu import Cpu, Vmcb
from harness.emulator.cpu.exits import Exit
from harness.emulator.cpu.state import PlainState, Segment
from harness.emulator.memory import PhysicalMemory
from harness.emulator.rmp import PageSize, Rmp
from harness.uapi.vmsa import sev_es_save_area

MEMORY = 64 << 20
RMP_BASE = 48 << 20
ASID = 3
CBIT = 1 << 51

HOST = 0x1000000
"""Physical address of guest physical address 0."""
CODE, STACK, DATA, IDT, GDT, TSS, TABLES = (
    0x10000, 0x20000, 0x30000, 0x40000, 0x41000, 0x42000, 0x50000,
)  # fmt: skip
IST_STACK = 0x24000
SHARED = 0x100000
"""GPA of the shared window; mapped without the C-bit at the same virtual address."""
ALIAS = 0x8000000000
"""The low 2 MiB again at this virtual address, without the C-bit."""
UNVALIDATED, UNMAPPED_NPT, READONLY, USER = 0x60000, 0x61000, 0x62000, 0x63000
VMSA_SPA = 0x2000000

PTE = 0x63  # present, writable, accessed, dirty
CODE64, DATA64 = 0x29B, 0xC93
HANDLER = 0x18000
"""Handlers are 16 bytes apart: they push the vector and jump to `common`."""

needs_as = pytest.mark.skipif(
    not shutil.which("as") or not shutil.which("objcopy"), reason="needs GNU as and objcopy"
)


@functools.cache
def assemble(source: str, origin: int = CODE) -> bytes:
    """Machine code of GNU assembler source (Intel syntax)."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "code"
        base.with_suffix(".s").write_text(f".intel_syntax noprefix\n.code64\n{source}\n")
        obj, elf, flat = (base.with_suffix(end) for end in (".o", ".elf", ".bin"))
        for command in (
            ["as", "-o", str(obj), str(base.with_suffix(".s"))],
            ["ld", "-Ttext", hex(origin), "-e", "0", "-o", str(elf), str(obj)],
            ["objcopy", "-O", "binary", "-j", ".text", str(elf), str(flat)],
        ):
            subprocess.run(command, check=True, timeout=30, capture_output=True)
        return flat.read_bytes()


class Npt:
    """A nested page table in a dict."""

    def __init__(self) -> None:
        self.entries: dict[int, tuple[int, bool, PageSize]] = {}

    def lookup(self, gfn: int) -> tuple[int, bool, PageSize] | None:
        return self.entries.get(gfn)


@dataclass
class Bench:
    """One guest on one processor."""

    snp: bool
    memory: PhysicalMemory = field(init=False)
    rmp: Rmp = field(init=False)
    npt: Npt = field(default_factory=Npt)
    vmcb: Vmcb = field(default_factory=Vmcb)
    vmsa: sev_es_save_area = field(default_factory=sev_es_save_area)

    def __post_init__(self) -> None:
        self.memory = PhysicalMemory(MEMORY)
        self.rmp = Rmp(self.memory, RMP_BASE, RMP_BASE >> 12)
        for gpa in range(0, 0x200000, 0x1000):
            if gpa == UNMAPPED_NPT:
                continue
            self.npt.entries[gpa >> 12] = (HOST + gpa, gpa != READONLY, PageSize.PG_4K)
            if self.snp and gpa < SHARED:
                self.assign(gpa, validate=gpa != UNVALIDATED)
        self._tables()
        self._descriptors()
        self.cpu = Cpu(self.memory, self.rmp)
        self.registers()

    def close(self) -> None:
        self.cpu.close()
        self.memory.close()

    def assign(self, gpa: int, *, validate: bool = True) -> None:
        """Make a page private."""
        assert not self.rmp.rmpupdate(HOST + gpa, assigned=True, gpa=gpa, asid=ASID)
        if validate:
            self.rmp.pvalidate(HOST + gpa, gpa, ASID, size=PageSize.PG_4K, validate=True)

    def _tables(self) -> None:
        """Identity map of the low 2 MiB, private but for the shared window; and the alias."""
        cbit = CBIT if self.snp else 0
        pml4, low, high, pd, pd_alias, pt, pt_alias = (TABLES + n * 0x1000 for n in range(7))

        def put(at: int, value: int) -> None:
            self.memory.write_u64(HOST + at, value)

        put(pml4, low | PTE | 4 | cbit)
        put(pml4 + 8, high | PTE | cbit)
        put(low, pd | PTE | 4 | cbit)
        put(high, pd_alias | PTE | cbit)
        put(pd, pt | PTE | 4 | cbit)
        put(pd_alias, pt_alias | PTE | cbit)
        for n in range(512):
            gpa = n << 12
            private = cbit if gpa < SHARED else 0
            put(pt + 8 * n, gpa | PTE | private | (4 if gpa == USER else 0))
            put(pt_alias + 8 * n, gpa | PTE)

    def _descriptors(self) -> None:
        """GDT, IDT with a handler for every exception, TSS; #DF runs on IST 1."""
        gdt = [0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF]
        self.memory.write(HOST + GDT, struct.pack("<5Q", *gdt))
        for vector in range(32):
            target = HANDLER + vector * 16
            low = target & 0xFFFF | 8 << 16 | 0x8E << 40 | target >> 16 << 48
            if vector == 8:
                low |= 1 << 32
            self.memory.write(HOST + IDT + vector * 16, struct.pack("<QQ", low, 0))
            # mov byte ptr [DATA+0xf00], vector; hlt
            code = bytes.fromhex("c60425") + struct.pack("<IB", DATA + 0xF00, vector) + b"\xf4"
            self.memory.write(HOST + target, code)
        tss = bytearray(0x68)
        tss[4:12] = struct.pack("<Q", STACK)
        tss[0x24:0x2C] = struct.pack("<Q", IST_STACK)
        self.memory.write(HOST + TSS, bytes(tss))

    def registers(self) -> None:
        """64-bit mode, supervisor, at CODE."""
        v = self.vmsa
        v.rip, v.rsp, v.rflags = CODE, STACK, 2
        v.cr0, v.cr3, v.cr4 = 0x80010033, TABLES | (CBIT if self.snp else 0), 0x620
        v.efer = 0x1D01
        v.cs.selector, v.cs.attrib, v.cs.limit = 8, CODE64, 0xFFFFFFFF
        for name in ("ss", "ds", "es", "fs", "gs"):
            seg = getattr(v, name)
            seg.selector, seg.attrib, seg.limit = 0x10, DATA64, 0xFFFFFFFF
        v.gdtr.base, v.gdtr.limit = GDT, 0x27
        v.idtr.base, v.idtr.limit = IDT, 0x1FF
        v.tr.base, v.tr.limit, v.tr.selector, v.tr.attrib = TSS, 0x67, 0x28, 0x8B
        v.dr6, v.dr7 = 0xFFFF0FF0, 0x400
        v.xcr0, v.mxcsr, v.x87_fcw, v.g_pat = 1, 0x1F80, 0x37F, 0x7040600070406
        v.sev_features = 1

    def code(self, source: str, at: int = CODE) -> None:
        """Put a program there."""
        self.memory.write(HOST + at, assemble(source, at))

    def store_vmsa(self, spa: int = VMSA_SPA) -> None:
        """Write the VMSA page and make it one in the RMP."""
        self.memory.write(spa, bytes(self.vmsa))
        if not self.rmp.entry(spa).assigned:
            assert not self.rmp.rmpupdate(spa, assigned=True, gpa=0x1FF000, asid=ASID)
            self.rmp.pvalidate(spa, 0x1FF000, ASID, size=PageSize.PG_4K, validate=True)
            self.rmp.rmpadjust(
                spa,
                0x1FF000,
                ASID,
                size=PageSize.PG_4K,
                target_vmpl=1,
                perms=0,
                vmsa=True,
                current_vmpl=0,
            )

    def run(self, source: str | None = None, budget: int = 10_000) -> Exit:
        """Run the guest from the loaded state, or a new program from its start."""
        if source is not None:
            self.code(source)
            if self.snp:
                self.cpu.invalidate(VMSA_SPA)
                self.store_vmsa()
            else:
                self.cpu.set_plain(self.plain())
        if self.snp:
            return self.cpu.vmrun(VMSA_SPA, ASID, self.npt, self.vmcb, budget)
        return self.cpu.run_plain(self.npt, self.vmcb, budget)

    def plain(self) -> PlainState:
        """The same registers for a guest without encryption."""
        v = self.vmsa
        names = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
        state = PlainState(rip=v.rip, rflags=v.rflags, cr0=v.cr0, cr3=v.cr3, cr4=v.cr4)
        for name in names:
            seg = getattr(v, name)
            state.segments[name] = Segment(seg.selector, seg.base, seg.limit, seg.attrib)
        state.gdt, state.idt = (GDT, 0x27), (IDT, 0x1FF)
        state.efer = 0xD01
        state.regs[4] = STACK
        return state

    def saved(self) -> sev_es_save_area:
        """The VMSA as saved by the processor."""
        self.cpu.save()
        return sev_es_save_area.from_buffer_copy(self.memory.read(VMSA_SPA, 0x1000))

    def vector(self) -> int:
        """The exception that a handler saw last."""
        return self.memory.read(HOST + DATA + 0xF00, 1)[0]

    def frame(self, size: int = 6, stack: int = STACK) -> tuple[int, ...]:
        """What the last exception pushed: [error code] RIP CS RFLAGS RSP SS."""
        return struct.unpack(f"<{size}Q", self.memory.read(HOST + stack - 8 * size, 8 * size))
