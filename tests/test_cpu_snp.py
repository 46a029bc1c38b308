# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.emulator.cpu import exits
from harness.emulator.cpu.cpu import Vmcb
from harness.emulator.cpu.delivery import Event
from harness.emulator.rmp import PageSize, RmpCode
from harness.uapi import svm
from tests.cpu_guest import (
    ALIAS,
    ASID,
    CBIT,
    CODE,
    CODE64,
    DATA,
    DATA64,
    HOST,
    IDT,
    IST_STACK,
    READONLY,
    SHARED,
    STACK,
    TABLES,
    UNMAPPED_NPT,
    UNVALIDATED,
    USER,
    VMSA_SPA,
    Bench,
    needs_as,
)

pytestmark = needs_as

P, W, U, F = 1, 2, 4, 16
RMP, FINAL, PAGE, ENC = 1 << 31, 1 << 32, 1 << 33, 1 << 34
VC, GP, PF, UD, DF = 29, 13, 14, 6, 8


@pytest.fixture
def guest() -> Iterator[Bench]:
    bench = Bench(snp=True)
    yield bench
    bench.close()


def test_ghcb_msr_and_vmgexit(guest: Bench) -> None:
    source = """
        mov ecx, 0xc0010130; mov eax, 0x1234; mov edx, 5; wrmsr; rdmsr; mov rbx, rax
        rep; vmmcall; hlt"""
    assert guest.run(source) == exits.VmgExit()
    assert guest.vmcb.ghcb_gpa == 0x5_0000_1234
    assert guest.run() == exits.Hlt()
    assert guest.saved().rbx == 0x1234


def test_vmgexit_callback_keeps_the_guest_running(guest: Bench) -> None:
    seen = []

    def answer(vmcb: Vmcb) -> bool:
        assert VMSA_SPA >> 12 not in guest.rmp.in_use
        seen.append(vmcb.ghcb_gpa)
        vmcb.ghcb_gpa = 0x77
        return len(seen) < 3

    guest.cpu.on_vmgexit = answer
    source = "mov ecx, 0xc0010130; 1: rep; vmmcall; rdmsr; mov ebx, eax; jmp 1b"
    assert guest.run(source) == exits.VmgExit()
    assert seen == [0, 0x77, 0x77]
    assert guest.saved().rbx == 0x77


def test_sev_status_is_native(guest: Bench) -> None:
    assert guest.run("mov ecx, 0xc0010131; rdmsr; hlt") == exits.Hlt()
    assert guest.saved().rax == 7


@pytest.mark.parametrize(
    ("instruction", "code"),
    [
        ("cpuid", 0x72),
        ("rdmsr", 0x7C),
        ("wrmsr", 0x7C),
        ("in al, 0x60", 0x7B),
        ("in eax, dx", 0x7B),
        ("out 0x80, al", 0x7B),
        ("rep outsb", 0x7B),
        ("insb", 0x7B),
        ("vmmcall", 0x81),
        ("wbinvd", 0x89),
        ("invd", 0x76),
        ("rdpmc", 0x6F),
        ("monitor", 0x8A),
        ("mwait", 0x8B),
        ("mov dr7, rax", 0x37),
        ("mov rax, dr7", 0x27),
    ],
)
def test_intercepted_instruction_raises_vc(guest: Bench, instruction: str, code: int) -> None:
    source = f"mov eax, 0x11; mov rsi, {DATA}; mov rdi, {DATA}; xor ecx, ecx; inc ecx; dec ecx;"
    prepare = "mov ecx, 1; " if "rep" in instruction else ""
    assert guest.run(f"{source} {prepare} here: {instruction}; nop; nop; hlt") == exits.Hlt()
    assert guest.vector() == VC
    error, rip, cs, *_ = guest.frame()
    body = guest.memory.read(HOST + rip, 1)
    assert (error, cs) == (code, 8)
    assert body != b"\x90"
    saved = guest.saved()
    assert (saved.rax, saved.rsi, saved.rdi) == (0x11, DATA, DATA)


def test_vc_returns_by_iretq(guest: Bench) -> None:
    handler = "add qword ptr [rsp+8], 2; add rsp, 8; inc rbx; iretq"
    guest.code(handler, at=0x18000 + VC * 16)
    assert guest.run("xor ebx, ebx; mov ecx, 10; 1: cpuid; dec ecx; jnz 1b; hlt") == exits.Hlt()
    assert guest.saved().rbx == 10


def test_hlt_saves_rip_past_it(guest: Bench) -> None:
    assert guest.run("nop; hlt; inc rax") == exits.Hlt()
    assert guest.saved().rip == CODE + 2


def test_passed_through_msrs(guest: Bench) -> None:
    source = """
        mov ecx, 0xc0000101; mov eax, 0x30000; xor edx, edx; wrmsr
        mov rbx, 0x123; mov gs:[8], rbx
        mov ecx, 0xc0000082; mov eax, 0x5678; wrmsr; hlt"""
    assert guest.run(source) == exits.Hlt()
    saved = guest.saved()
    assert (saved.gs.base, saved.lstar) == (0x30000, 0x5678)
    assert guest.memory.read_u64(HOST + DATA + 8) == 0x123


@pytest.mark.parametrize("register", [0, 4])
def test_cr_write_trap_follows_the_write(guest: Bench, register: int) -> None:
    exit = guest.run(f"mov rax, cr{register}; or rax, 8; mov cr{register}, rax; nop; hlt")
    assert isinstance(exit, exits.CrWrite)
    assert exit.register == register
    assert exit.value & 8
    assert guest.run() == exits.Hlt()
    assert getattr(guest.saved(), f"cr{register}") == exit.value


def test_efer_write_trap(guest: Bench) -> None:
    exit = guest.run("mov ecx, 0xc0000080; rdmsr; and eax, ~1; wrmsr; hlt")
    assert exit == exits.EferWrite(0x1D00)
    assert guest.run() == exits.Hlt()


def test_state_survives_save_and_load(guest: Bench) -> None:
    v = guest.vmsa
    for number, name in enumerate(("rbx", "rbp", "rsi", "rdi", "r8", "r15")):
        setattr(v, name, 0x1111111111111111 * (number + 1))
    v.fpreg_xmm[16:32] = list(range(16))
    v.fpreg_ymm[0:16] = list(range(100, 116))
    v.fpreg_x87[0:8] = list((0x8000000000000000).to_bytes(8, "little"))
    v.fpreg_x87[64:66] = list((0x3FFF).to_bytes(2, "little"))
    v.x87_fsw, v.x87_ftw = 7 << 11, 0x80
    v.rflags, v.cr2, v.dr0, v.kernel_gs_base = 0xED7 & ~0x100, 0x99, 0x55, 0x77
    guest.code("nop; nop")
    guest.store_vmsa()
    before = bytes(guest.memory.read(VMSA_SPA, 0x670))
    assert guest.run(budget=1) == exits.Intr()
    guest.vmsa.rip = CODE + 1
    after = guest.saved()
    after.rip = CODE
    differences = [n for n, (a, b) in enumerate(zip(before, bytes(after), strict=False)) if a != b]
    assert differences == []


def test_syscall_and_sysret(guest: Bench) -> None:
    guest.vmsa.star, guest.vmsa.lstar, guest.vmsa.sfmask = 0x10 << 48 | 8 << 32, USER, 0x200
    guest.vmsa.rflags = 0x202
    guest.code("mov rbx, rcx; pushfq; pop rsi; hlt", at=USER)
    assert guest.run("syscall; hlt") == exits.Hlt()
    saved = guest.saved()
    assert (saved.rbx, saved.r11, saved.rsi) == (CODE + 2, 0x202, 2)
    assert (saved.cs.selector, saved.ss.selector, saved.cpl) == (8, 0x10, 0)


# -- VMRUN's checks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("efer", 0xD01),
        ("efer", 1 << 40 | 0x1D01),
        ("cr0", 1 << 32 | 0x80010033),
        ("cr0", 0xA0010033),
        ("cr4", 0),
        ("dr6", 1 << 32),
        ("dr7", 1 << 32),
        ("sev_features", 0),
        ("sev_features", 1 << 20 | 1),
        ("vmpl", 4),
    ],
)
def test_illegal_vmsa_is_refused(guest: Bench, field: str, value: int) -> None:
    setattr(guest.vmsa, field, value)
    assert isinstance(guest.run("hlt"), exits.Invalid)
    assert guest.cpu.loaded_vmsa is None


def test_vmsa_page_must_be_one(guest: Bench) -> None:
    guest.store_vmsa()
    assert isinstance(guest.cpu.vmrun(HOST + DATA, ASID, guest.npt, guest.vmcb, 10), exits.Invalid)
    other = guest.cpu.vmrun(VMSA_SPA, ASID + 1, guest.npt, guest.vmcb, 10)
    assert isinstance(other, exits.Invalid)
    guest.rmp.pvalidate(VMSA_SPA, 0x1FF000, ASID, size=PageSize.PG_4K, validate=False)
    assert isinstance(guest.run(), exits.Invalid)


def test_vmsa_is_in_use_only_while_the_guest_runs(guest: Bench) -> None:
    assert guest.run("hlt") == exits.Hlt()
    assert guest.rmp.in_use == set()
    assert guest.cpu.loaded_vmsa == VMSA_SPA


# -- memory ------------------------------------------------------------------------------------


def test_unvalidated_page_raises_vc_404(guest: Bench) -> None:
    assert guest.run(f"mov rax, [{UNVALIDATED + 0x128}]; hlt") == exits.Hlt()
    assert guest.vector() == VC
    assert guest.frame()[:2] == (svm.SVM_EXIT_PAGE_NOT_VALIDATED, CODE)
    assert guest.saved().cr2 == UNVALIDATED + 0x128


@pytest.mark.parametrize(
    ("instruction", "gpa", "bits"),
    [
        (f"mov rax, [{UNMAPPED_NPT + 0x18}]", UNMAPPED_NPT + 0x18, U | FINAL | ENC),
        (f"mov [{UNMAPPED_NPT + 0x18}], rax", UNMAPPED_NPT + 0x18, W | U | FINAL | ENC),
        (f"mov rax, {UNMAPPED_NPT}; jmp rax", UNMAPPED_NPT, F | U | FINAL | ENC),
        (f"mov [{READONLY}], rax", READONLY, P | W | U | FINAL | ENC),
        # private in the RMP, accessed as shared
        (f"mov rbx, {ALIAS + DATA}; mov [rbx], rax", DATA, P | W | U | FINAL | RMP),
        # shared in the RMP, executed: fetches are private
        (f"mov rax, {SHARED}; jmp rax", SHARED, P | F | U | FINAL | RMP | ENC),
    ],
)
def test_npf_error_code(guest: Bench, instruction: str, gpa: int, bits: int) -> None:
    assert guest.run(f"{instruction}; hlt") == exits.Npf(gpa, bits)


def test_private_access_to_a_shared_page(guest: Bench) -> None:
    guest.memory.write_u64(HOST + TABLES + 0x5000 + 8 * (SHARED >> 12), SHARED | 0x63 | CBIT)
    expected = exits.Npf(SHARED, P | U | FINAL | RMP | ENC)
    assert guest.run(f"mov rax, [{SHARED}]; hlt") == expected


def test_private_page_of_another_address(guest: Bench) -> None:
    guest.npt.entries[DATA >> 12] = (HOST + STACK, True, PageSize.PG_4K)
    expected = exits.Npf(DATA, P | U | FINAL | RMP | ENC)
    assert guest.run(f"mov rax, [{DATA}]; hlt") == expected


def test_shared_page_table_faults_at_the_table(guest: Bench) -> None:
    """Tables are private accesses whatever the C-bit says."""
    guest.memory.write_u64(HOST + TABLES + 8 * 2, SHARED | 0x63)
    expected = exits.Npf(SHARED, P | W | U | PAGE | RMP | ENC)
    assert guest.run("mov rax, 0x10000000000; mov rax, [rax]; hlt") == expected


def test_npf_is_resolved_and_the_instruction_runs_again(guest: Bench) -> None:
    source = f"mov eax, 7; mov [{UNMAPPED_NPT}], rax; inc dword ptr [{UNMAPPED_NPT}]; hlt"
    assert isinstance(guest.run(source), exits.Npf)
    guest.assign(UNMAPPED_NPT)
    guest.npt.entries[UNMAPPED_NPT >> 12] = (HOST + UNMAPPED_NPT, True, PageSize.PG_4K)
    assert guest.run() == exits.Hlt()
    assert guest.memory.read_u64(HOST + UNMAPPED_NPT) == 8


def test_npf_while_an_exception_is_delivered(guest: Bench) -> None:
    entry = guest.npt.entries.pop(IDT >> 12)
    exit = guest.run("ud2")
    assert exit == exits.Npf(IDT + UD * 16, U | FINAL | ENC)
    guest.npt.entries[IDT >> 12] = entry
    assert guest.run() == exits.Hlt()
    assert guest.vector() == UD
    assert guest.frame(5)[0] == CODE


def test_stale_translation_lives_until_the_flush(guest: Bench) -> None:
    source = f"1: mov rax, [{DATA}]; jmp 1b"
    assert guest.run(source, budget=100) == exits.Intr()
    guest.npt.entries.pop(DATA >> 12)
    assert guest.run(budget=100) == exits.Intr()
    guest.cpu.flush_tlb()
    assert guest.run(budget=100) == exits.Npf(DATA, U | FINAL | ENC)


def test_page_fault_in_the_guest(guest: Bench) -> None:
    guest.memory.write_u64(HOST + TABLES + 0x5000 + 8 * (DATA + 0x1000 >> 12), 0)
    assert guest.run(f"mov [{DATA + 0x1008}], rax; hlt") == exits.Hlt()
    assert guest.vector() == PF
    assert guest.frame()[:2] == (W, CODE)
    assert guest.saved().cr2 == DATA + 0x1008


def test_accessed_and_dirty_bits(guest: Bench) -> None:
    entry = HOST + TABLES + 0x5000 + 8 * (DATA >> 12)
    guest.memory.write_u64(entry, DATA | 3 | CBIT)
    assert guest.run(f"mov rax, [{DATA}]; hlt") == exits.Hlt()
    assert guest.memory.read_u64(entry) == DATA | 0x23 | CBIT
    assert guest.run(f"mov rax, [{DATA}]; mov [{DATA}], rax; hlt") == exits.Hlt()
    assert guest.memory.read_u64(entry) == DATA | 0x63 | CBIT


def test_code_changed_by_another(guest: Bench) -> None:
    assert guest.run("1: mov ebx, 1; jmp 1b", budget=100) == exits.Intr()
    guest.code("1: mov ebx, 2; hlt")
    assert guest.run(budget=100) == exits.Hlt()
    assert guest.saved().rbx == 2


def test_code_changed_by_the_guest_itself(guest: Bench) -> None:
    source = "mov byte ptr [rip + 1f + 1], 5; mov eax, 1; jmp 1f; 1: mov bl, 1; hlt"
    assert guest.run(source) == exits.Hlt()
    assert guest.saved().rbx == 5


# -- instructions of SNP -------------------------------------------------------------------------

CODES = {"ok": RmpCode.SUCCESS, "input": RmpCode.FAIL_INPUT, "size": RmpCode.FAIL_SIZEMISMATCH}


@pytest.mark.parametrize(
    ("gva", "size", "validate", "code", "carry"),
    [
        (UNVALIDATED, 0, 1, "ok", 0),
        (UNVALIDATED, 0, 0, "ok", 1),
        (DATA, 0, 1, "ok", 1),
        (DATA, 0, 0, "ok", 0),
        (DATA, 0xA5A5A500, 0x5A5A5A01, "ok", 1),  # only bit 0 of each counts
        (UNVALIDATED, 0xFFFFFFFE, 0xFFFFFFFF, "ok", 0),
        (DATA, 2, 0xFFFFFFFE, "ok", 0),
        (DATA, 0xFFFFFFFF, 1, "input", 0),
        (DATA, 1, 1, "input", 0),
        (0, 1, 1, "size", 0),
    ],
)
def test_pvalidate(guest: Bench, gva: int, size: int, validate: int, code: str, carry: int) -> None:
    source = f"""
        mov rax, {gva}; mov ecx, {size}; mov edx, {validate}; pvalidate
        setc bl; setz bh; hlt"""
    assert guest.run(source) == exits.Hlt()
    saved = guest.saved()
    expected = CODES[code]
    assert (saved.rax, saved.rbx & 0xFF, saved.rbx >> 8) == (expected, carry, expected == 0)
    if code == "ok" and gva:
        assert guest.rmp.entry(HOST + gva).validated == bool(validate & 1)


def test_pvalidated_page_is_usable_and_again_not(guest: Bench) -> None:
    pvalidate = f"mov rax, {UNVALIDATED}; xor ecx, ecx; pvalidate;"
    touch = f"mov rbx, {UNVALIDATED}; mov qword ptr [rbx], 5;"
    exit = guest.run(f"mov edx, 1; {pvalidate} {touch} xor edx, edx; {pvalidate} {touch} hlt")
    assert exit == exits.Hlt()
    assert guest.memory.read_u64(HOST + UNVALIDATED) == 5
    assert (guest.vector(), guest.frame()[0]) == (VC, 0x404)


def test_pvalidate_of_a_shared_page(guest: Bench) -> None:
    assert guest.run(f"mov rax, {SHARED}; xor ecx, ecx; mov edx, 1; pvalidate; hlt") == exits.Hlt()
    assert guest.vector() == GP


def test_pvalidate_of_a_page_the_guest_does_not_own(guest: Bench) -> None:
    assert not guest.rmp.rmpupdate(HOST + DATA, assigned=False)
    expected = exits.Npf(DATA, P | U | FINAL | RMP | ENC)
    assert guest.run(f"mov rax, {DATA}; xor ecx, ecx; mov edx, 1; pvalidate; hlt") == expected
    guest.assign(DATA, validate=False)
    assert guest.run() == exits.Hlt()
    assert guest.rmp.entry(HOST + DATA).validated


@pytest.mark.parametrize(
    ("attributes", "code"),
    [(0x101, 0), (0x10001, 0), (0xF03, 0), (0x100, 2), (0x104, 1), (0x1001, 1)],
)
def test_rmpadjust(guest: Bench, attributes: int, code: int) -> None:
    source = f"mov rax, {DATA}; xor ecx, ecx; mov rdx, {attributes}; rmpadjust; hlt"
    assert guest.run(source) == exits.Hlt()
    assert guest.saved().rax == code
    entry = guest.rmp.entry(HOST + DATA)
    if not code:
        assert entry.perms[attributes & 0xFF] == attributes >> 8 & 0xFF
        assert entry.vmsa == bool(attributes >> 16)


def test_rmpadjust_of_an_unvalidated_page(guest: Bench) -> None:
    source = f"mov rax, {UNVALIDATED}; xor ecx, ecx; mov rdx, 0x101; rmpadjust; hlt"
    assert guest.run(source) == exits.Hlt()
    assert (guest.vector(), guest.frame()[0]) == (VC, 0x404)


def test_rmpadjust_of_the_vmsa_in_use(guest: Bench) -> None:
    guest.npt.entries[0x1FF] = (VMSA_SPA, True, PageSize.PG_4K)
    guest.memory.write_u64(HOST + TABLES + 0x5000 + 8 * 0x1FF, 0x1FF000 | 0x63 | CBIT)
    assert guest.run("mov rax, 0x1ff000; xor ecx, ecx; mov edx, 1; rmpadjust; hlt") == exits.Hlt()
    assert guest.saved().rax == RmpCode.FAIL_INUSE


def test_vmpl_permissions_bind(guest: Bench) -> None:
    for page in range(0, SHARED, 0x1000):
        if page in (UNMAPPED_NPT, UNVALIDATED):
            continue
        perms = 1 if page == DATA else 0xF
        assert not guest.rmp.rmpadjust(
            HOST + page, page, ASID, size=PageSize.PG_4K, target_vmpl=1, perms=perms,
            vmsa=False, current_vmpl=0,
        )  # fmt: skip
    guest.vmsa.vmpl = 1
    expected = exits.Npf(DATA, P | W | U | FINAL | RMP | ENC | 1 << 36)
    assert guest.run(f"mov rax, [{DATA}]; mov [{DATA}], rax; hlt") == expected


# -- exceptions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instruction", "vector", "error"),
    [
        ("ud2", UD, None),
        ("xor edx, edx; xor ecx, ecx; div ecx", 0, None),
        ("mov rax, 0x8000000000000000; mov rax, [rax]", GP, 0),
        ("mov ax, 0x48; mov ds, ax", GP, 0x48),
        ("vmrun", UD, None),
    ],
)
def test_exception(guest: Bench, instruction: str, vector: int, error: int | None) -> None:
    assert guest.run(f"{instruction}; hlt") == exits.Hlt()
    assert guest.vector() == vector
    if error is not None:
        assert guest.frame()[0] == error


def test_software_interrupt_returns_behind_it(guest: Bench) -> None:
    assert guest.run("int3; hlt") == exits.Hlt()
    assert guest.vector() == 3
    assert guest.frame(5)[0] == CODE + 1


def test_two_faults_in_a_row_are_two_faults(guest: Bench) -> None:
    guest.code("add qword ptr [rsp], 2; inc ebx; iretq", at=0x18000)
    source = "xor ebx, ebx; xor edx, edx; xor ecx, ecx; div ecx; div ecx; div ecx; hlt"
    assert guest.run(source) == exits.Hlt()
    assert guest.saved().rbx == 3


def test_double_fault_runs_on_its_ist_stack(guest: Bench) -> None:
    assert guest.run("mov rsp, 0x8000000000000000; ud2; hlt") == exits.Hlt()
    assert guest.vector() == DF
    guest.memory.write(HOST + IDT + 13 * 16, bytes(16))
    assert guest.run("mov rax, 0x8000000000000000; mov rax, [rax]; hlt") == exits.Hlt()
    assert guest.vector() == DF
    error, rip, *_rest = guest.frame(6, IST_STACK)
    assert error == 0
    assert rip == CODE + 10


def test_triple_fault_is_shutdown(guest: Bench) -> None:
    guest.vmsa.idtr.limit = 0
    assert guest.run("ud2") == exits.Shutdown()


def test_exception_from_user_mode_takes_the_stack_of_the_tss(guest: Bench) -> None:
    guest.code("ud2", at=USER)
    tables = (TABLES, TABLES + 0x1000, TABLES + 0x3000, TABLES + 0x5000 + 8 * (USER >> 12))
    assert all(guest.memory.read_u64(HOST + at) & 4 for at in tables)
    source = f"push 0x1b; push {DATA + 0x800}; push 2; push 0x23; push {USER}; iretq"
    assert guest.run(source) == exits.Hlt()
    assert guest.vector() == UD
    rip, cs, _flags, rsp, ss = guest.frame(5)
    assert (rip, cs, rsp, ss) == (USER, 0x23, DATA + 0x800, 0x1B)
    saved = guest.saved()
    assert (saved.cpl, saved.cs.selector, saved.ss.selector) == (0, 8, 0)


def test_user_mode_may_not_touch_the_supervisor(guest: Bench) -> None:
    guest.code(f"mov rax, [{DATA}]", at=USER)
    source = f"push 0x1b; push {DATA + 0x800}; push 2; push 0x23; push {USER}; iretq"
    assert guest.run(source) == exits.Hlt()
    assert (guest.vector(), guest.frame()[0]) == (PF, P | U)


def test_injected_event(guest: Bench) -> None:
    guest.vmcb.event = Event(2, external=True)
    assert guest.run("nop; hlt") == exits.Hlt()
    assert guest.vector() == 2
    assert guest.frame(5)[0] == CODE
    assert guest.vmcb.event is None


def test_host_may_raise_vc(guest: Bench) -> None:
    assert isinstance(guest.run(f"mov rax, [{UNMAPPED_NPT}]"), exits.Npf)
    guest.cpu.raise_vc(svm.SVM_EXIT_NPF)
    assert guest.run() == exits.Hlt()
    assert (guest.vector(), guest.frame()[:2]) == (VC, (svm.SVM_EXIT_NPF, CODE))


# -- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 2, 7, 100])
def test_budget_is_exact(guest: Bench, budget: int) -> None:
    assert guest.run("xor ebx, ebx\n" + "1: " + "inc ebx\n" * 200, budget=budget) == exits.Intr()
    assert guest.cpu.instructions == budget
    assert guest.saved().rbx == budget - 1


def test_budget_counts_over_faults(guest: Bench) -> None:
    source = "xor ebx, ebx; " + "inc ebx; " * 5 + f"mov rax, [{UNMAPPED_NPT}];" + "inc ebx; " * 50
    assert isinstance(guest.run(source, budget=20), exits.Npf)
    assert guest.cpu.instructions == 6
    guest.assign(UNMAPPED_NPT)
    guest.npt.entries[UNMAPPED_NPT >> 12] = (HOST + UNMAPPED_NPT, True, PageSize.PG_4K)
    assert guest.run(budget=4) == exits.Intr()
    assert guest.saved().rbx == 8


def test_slices_add_up_to_one_run() -> None:
    source = f"""
        mov rcx, 300; xor ebx, ebx
        1: rdtsc; add rbx, rax; mov [{DATA}], rbx; add rbx, [{DATA}]; dec rcx; jnz 1b; hlt"""
    results = []
    for budget in (10_000, 13):
        bench = Bench(snp=True)
        exit = bench.run(source, budget=budget)
        while exit == exits.Intr():
            exit = bench.run(budget=budget)
        assert exit == exits.Hlt()
        results.append((bench.cpu.instructions, bytes(bench.saved())))
        bench.close()
    assert results[0] == results[1]


def test_two_processors_share_memory(guest: Bench) -> None:
    """Round robin on one thread makes locked and unlocked increments exact."""
    from harness.emulator.cpu.cpu import Cpu

    source = f"mov ecx, 1000; 1: lock inc qword ptr [{DATA}]; dec ecx; jnz 1b; hlt"
    other = Cpu(guest.memory, guest.rmp)
    second = VMSA_SPA + 0x1000
    guest.code(source)
    guest.store_vmsa()
    guest.store_vmsa(second)
    pending = {VMSA_SPA: guest.cpu, second: other}
    while pending:
        for vmsa, cpu in list(pending.items()):
            if cpu.vmrun(vmsa, ASID, guest.npt, Vmcb(), 77) == exits.Hlt():
                del pending[vmsa]
    other.close()
    assert guest.memory.read_u64(HOST + DATA) == 2000


def test_one_processor_takes_turns_between_vmsas(guest: Bench) -> None:
    guest.code("1: inc rbx; jmp 1b")
    guest.store_vmsa()
    second = VMSA_SPA + 0x1000
    guest.vmsa.rbx = 1000
    guest.store_vmsa(second)
    for _ in range(3):
        for vmsa in (VMSA_SPA, second):
            assert guest.cpu.vmrun(vmsa, ASID, guest.npt, Vmcb(), 10) == exits.Intr()
    guest.cpu.save()
    rbx = [guest.memory.read_u64(vmsa + 0x318) for vmsa in (VMSA_SPA, second)]
    assert rbx == [15, 1015]


def test_descriptor_constants_are_those_of_the_gdt(guest: Bench) -> None:
    """The bench's VMSA holds what loading its own selectors would."""
    source = "mov ax, 0x10; mov ds, ax; mov es, ax; mov ss, ax; push 8; lea rax, [rip+1f]; push rax"
    assert guest.run(f"{source}; retfq; 1: hlt") == exits.Hlt()
    saved = guest.saved()
    assert (saved.ds.attrib, saved.cs.attrib) == (DATA64, CODE64 | 0x800)
