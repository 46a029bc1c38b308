# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.emulator.cpu import exits
from harness.emulator.memory import PAGE_SIZE
from tests.cpu_guest import CODE, DATA, HOST, READONLY, UNMAPPED_NPT, Bench, needs_as

pytestmark = needs_as

P, W, U, RMP, FINAL = 1, 2, 4, 1 << 31, 1 << 32


@pytest.fixture
def guest() -> Iterator[Bench]:
    bench = Bench(snp=False)
    yield bench
    bench.close()


@pytest.mark.parametrize(
    ("instruction", "exit"),
    [
        ("mov al, 0x41; out 0x80, al", exits.Io(0x80, 1, True, b"A")),
        ("mov dx, 0x5e0; mov eax, 0x1234; out dx, eax", exits.Io(0x5E0, 4, True, b"\x34\x12\0\0")),
        ("in ax, 0x20", exits.Io(0x20, 2, False, b"\0\0")),
        ("mov ecx, 0x1b; mov eax, 5; mov edx, 1; wrmsr", exits.Msr(0x1B, True, 0x1_0000_0005)),
        ("mov ecx, 0x10; rdmsr", exits.Msr(0x10, False)),
        ("mov eax, 12; vmmcall", exits.Vmmcall()),
        ("vmcall", exits.Vmmcall()),
        ("hlt", exits.Hlt()),
    ],
)
def test_exit_and_resume(guest: Bench, instruction: str, exit: exits.Exit) -> None:
    assert guest.run(f"{instruction}; mov rbx, 99; hlt") == exit
    if exit != exits.Hlt():
        assert guest.run() == exits.Hlt()
    else:
        assert guest.run(budget=1) == exits.Intr()
    assert guest.cpu.read_reg(3) == 99


def test_io_read_completes(guest: Bench) -> None:
    assert isinstance(guest.run("mov rax, -1; in al, 0x20; in eax, 0x21; hlt"), exits.Io)
    guest.cpu.complete_io(b"\x55")
    assert guest.cpu.read_reg(0) == 0xFFFFFFFFFFFFFF55
    assert isinstance(guest.run(), exits.Io)
    guest.cpu.complete_io(b"\x01\x02\x03\x04")
    assert guest.cpu.read_reg(0) == 0x04030201


def test_string_io(guest: Bench) -> None:
    source = f"mov dx, 0x20; mov rdi, {DATA}; mov ecx, 2; rep insw; mov rsi, {DATA}; outsb; hlt"
    assert guest.run(source) == exits.Io(0x20, 2, False, b"\0\0")
    guest.cpu.complete_io(b"ab")
    assert guest.run() == exits.Io(0x20, 2, False, b"\0\0")
    guest.cpu.complete_io(b"cd")
    assert guest.memory.read(HOST + DATA, 4) == b"abcd"
    assert guest.run() == exits.Io(0x20, 1, True, b"a")
    assert guest.run() == exits.Hlt()


def test_cpuid_is_answered_inside(guest: Bench) -> None:
    guest.cpu.cpuid = lambda leaf, subleaf: (leaf + 1, subleaf, 3, 4)
    assert guest.run("mov eax, 7; mov ecx, 9; cpuid; hlt") == exits.Hlt()
    assert [guest.cpu.read_reg(n) for n in (0, 3, 1, 2)] == [8, 9, 3, 4]


def test_msr_read_completes(guest: Bench) -> None:
    assert guest.run("mov ecx, 0x10; rdmsr; hlt") == exits.Msr(0x10, False)
    guest.cpu.complete_msr(0x1_0000_0002)
    assert (guest.cpu.read_reg(0), guest.cpu.read_reg(2)) == (2, 1)


def test_registers_go_in_and_out(guest: Bench) -> None:
    state = guest.plain()
    state.regs[8:16] = range(100, 108)
    guest.code("inc r8; hlt")
    guest.cpu.set_plain(state)
    assert guest.run() == exits.Hlt()
    after = guest.cpu.get_plain()
    assert after.regs[8:10] == [101, 101]
    assert after.rip == CODE + 4
    assert after.segments == state.segments
    assert (after.cr0, after.cr3, after.efer) == (state.cr0, state.cr3, state.efer)


@pytest.mark.parametrize(
    ("instruction", "gpa", "bits"),
    [
        (f"mov rax, [{UNMAPPED_NPT + 8}]", UNMAPPED_NPT + 8, U | FINAL),
        (f"mov [{READONLY}], rax", READONLY, P | W | U | FINAL),
    ],
)
def test_nested_page_fault(guest: Bench, instruction: str, gpa: int, bits: int) -> None:
    assert guest.run(f"{instruction}; hlt") == exits.Npf(gpa, bits)


def test_write_to_a_page_of_an_snp_guest(guest: Bench) -> None:
    assert not guest.rmp.rmpupdate(HOST + DATA, assigned=True, gpa=DATA, asid=1)
    assert guest.run(f"mov rax, [{DATA}]; mov [{DATA}], rax; hlt") == exits.Npf(
        DATA, P | W | U | FINAL | RMP
    )


def test_snp_instructions_do_not_exist(guest: Bench) -> None:
    assert guest.run(f"mov rax, {DATA}; pvalidate; hlt") == exits.Hlt()
    assert guest.vector() == 6


def test_triple_fault(guest: Bench) -> None:
    state = guest.plain()
    state.idt = (0, 0)
    guest.code("ud2")
    guest.cpu.set_plain(state)
    assert guest.run() == exits.Shutdown()


def test_raised_exception(guest: Bench) -> None:
    assert isinstance(guest.run("mov ecx, 0x1; rdmsr; hlt"), exits.Msr)
    guest.cpu.raise_exception(13, 0)
    assert guest.run() == exits.Hlt()
    assert guest.vector() == 13


def test_two_megabyte_page_of_the_guest(guest: Bench) -> None:
    guest.memory.write_u64(HOST + 0x53000, 0x63 | 1 << 7)
    assert guest.run(f"mov rax, 5; mov [{DATA + PAGE_SIZE}], rax; hlt") == exits.Hlt()
    assert guest.memory.read_u64(HOST + DATA + PAGE_SIZE) == 5
