# SPDX-License-Identifier: GPL-2.0-only
"""The machine's processor without a kernel: what none has a reason to do to the RMP.

A firmware of 64 KiB (tests/data/snp_bios) is host and guest: large RMP entries, PSMASH, pages
that VMRUN, VMSAVE and VM_HSAVE_PA are refused, PVALIDATE and RMPADJUST of another size than the
page has, VMPL1.  It tells what came of each step; what must come of it stands here.  Sections and
tables are those of the AMD64 Architecture Programmer's Manual, volume 2.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import machines
from tests.marks import real
from tests.qtest_machine import find_qemu, firmware_folders

snp_machine = machines.snp_machine
pytestmark = [
    *real("builds QEMU", 120),
    pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc and binutils"),
]

SOURCE = Path(__file__).parent / "data/snp_bios"
SECONDS = 60
_CFLAGS = (
    "-O1 -Wall -Wextra -Werror -Wno-main -ffreestanding -fno-pic -no-pie -mno-red-zone "
    "-mgeneral-regs-only -fno-stack-protector -fcf-protection=none -nostdlib -static "
    "-fno-asynchronous-unwind-tables -Wl,--build-id=none -Wl,--no-warn-rwx-segments"
)

OK, FAIL_INPUT, FAIL_PERMISSION, FAIL_OVERLAP, FAIL_SIZEMISMATCH = 0, 1, 2, 4, 6
GP = 13 << 32
PF_RMP_WRITE = 14 << 32 | 0x80000003
NPF, VMGEXIT = 0x400, 0x403
READ_CR0, READ_CR4, WRITE_CR0, CR0_SEL_WRITE, HLT = 0x00, 0x04, 0x10, 0x65, 0x78
MOV_CR = 1 << 63
GPA, ENC, SIZEM, VMPL = 1 << 32, 1 << 34, 1 << 35, 1 << 36
RMP, USER, WRITE, PRESENT = 1 << 31, 4, 2, 1
ASSIGNED, LARGE, ASID = 1, 2, 1 << 51

STEPS: dict[str, tuple[int, ...]] = {
    # RMPUPDATE and PSMASH: volume 3; a 4 KiB page may not lie in one of 2 MiB, nor that over it
    "update-2m": (OK,),
    "update-2m-misaligned": (FAIL_INPUT,),
    "update-2m-gpa-misaligned": (FAIL_INPUT,),
    "update-4k-in-2m": (FAIL_OVERLAP,),
    "update-4k": (OK,),
    "update-2m-over-4k": (FAIL_OVERLAP,),
    "entry-2m": (ASSIGNED | LARGE | 0x40000000 | ASID, ASSIGNED),
    "smash-inside": (FAIL_INPUT,),
    "smash": (OK,),
    "entry-smashed": (ASSIGNED | 0x40000000 | ASID, ASSIGNED | 0x40007000 | ASID),
    "smash-again": (FAIL_INPUT,),
    "smash-nobodys": (FAIL_INPUT,),
    # the host writes what is hypervisor-owned, all of a large mapping: 15.36.10, table 15-39
    "write-in-2m": (PF_RMP_WRITE,),
    "read-in-2m": (OK,),
    "write-beside-by-2m": (PF_RMP_WRITE,),
    "write-beside-by-4k": (OK,),
    "write-it-by-4k": (PF_RMP_WRITE,),
    "write-nobodys": (OK,),
    # ... also where the CPU has written it before, and its TLB knows how
    "update-written": (OK,),
    "write-taken": (PF_RMP_WRITE,),
    "update-again": (OK,),
    "write-given-back": (OK,),
    "write-rmp": (PF_RMP_WRITE,),
    # other writes: 15.36.12, table 15-41 and "Other Checks"
    "hsave-assigned": (GP,),
    "hsave": (OK,),
    "vmsave-assigned": (GP,),
    "vmsave": (OK,),
    "vmrun-without-hsave": (GP,),
    "vmrun-assigned": (GP,),
    # EVENTINJ: 15.20.  The last column counts the interrupt's deliveries
    "interrupt-once": (OK, VMGEXIT, 0, OK, 1),
    # sizes: 15.36.11, table 15-40.  A guest's line: fault, exit, EXITINFO1, result, carry
    "guest-2m": (OK,),
    "validate-2m": (OK, VMGEXIT, 0, OK, 0),
    "validate-4k-of-2m": (OK, NPF, GPA | ENC | SIZEM | RMP | USER | PRESENT, OK, 0),
    "guest-smash": (OK,),
    "validate-4k-npt-2m": (OK, NPF, GPA | ENC | SIZEM | RMP | USER | PRESENT, OK, 0),
    "validate-4k": (OK, VMGEXIT, 0, OK, 1),
    "validate-2m-of-4k": (OK, VMGEXIT, 0, FAIL_SIZEMISMATCH, 1),
    # VMPLs: 15.36.7.  RMPQUERY's RDX is in the last column
    "adjust-vmpl1": (OK, VMGEXIT, 0, OK, 1),
    "adjust-vmpl0": (OK, VMGEXIT, 0, FAIL_PERMISSION, 1),
    "query-vmpl1": (OK, VMGEXIT, 0, OK, 0x101),
    "vmpl1-adjusts-itself": (OK, VMGEXIT, 0, FAIL_PERMISSION, 0),
    "vmpl1-validates": (OK, VMGEXIT, 0, FAIL_PERMISSION, 0),
    "vmpl1-reads": (OK, VMGEXIT, 0, 0, 0),
    "vmpl1-writes": (OK, NPF, GPA | ENC | VMPL | RMP | USER | WRITE | PRESENT, 0, 0),
    # decode assists of MOV to CR0: 15.33.1.  A line of that guest: fault, exit, EXITINFO1
    "cr0-from-rdi": (OK, CR0_SEL_WRITE, MOV_CR | 7),
    "cr0-from-r9": (OK, CR0_SEL_WRITE, MOV_CR | 9),
    "cr0-any-from-rdi": (OK, WRITE_CR0, MOV_CR | 7),
    "cr0-any-from-r9": (OK, WRITE_CR0, MOV_CR | 9),
    "hlt": (OK, HLT, 0),
    # reads of CR4 and CR0 exit, the one of CR3 before them does not
    "cr4-to-r9": (OK, READ_CR4, MOV_CR | 9),
    "cr0-to-rdi": (OK, READ_CR0, MOV_CR | 7),
    "hlt-behind-reads": (OK, HLT, 0),
    # TLB entries have an ASID: 15.16.  The hypervisor changes a mapping each time; what it forgets
    # to flush is seen.  A line is what the guest reads
    "tlb-of-another-asid": (1,),
    "tlb-kept": (1,),
    "tlb-flush-asid": (2,),
    "tlb-flush-all": (1,),
    "tlb-flush-not-global": (2,),
    "tlb-of-the-first-asid": (1,),
    "tlb-guest-loads-cr3": (3,),
}


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, ...]]:
    """What the firmware said, by step, in its order."""
    folder = tmp_path_factory.mktemp("bios")
    words = ["gcc", "-m64", *_CFLAGS.split(), f"-Wl,-T,{SOURCE / 'bios.lds'}", "-o", "bios.elf"]
    words += [str(SOURCE / "start.S"), str(SOURCE / "main.c")]
    subprocess.run(words, cwd=folder, check=True, timeout=SECONDS)
    copy = ["objcopy", "-O", "binary", "bios.elf", "bios.bin"]
    subprocess.run(copy, cwd=folder, check=True, timeout=SECONDS)
    qemu = find_qemu() or str(request.getfixturevalue("snp_machine").qemu)
    words = [qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    words += ["-machine", "q35,accel=tcg,x-snp-host=on", "-m", "128M", "-serial", "stdio"]
    words += ["-cpu", "EPYC-Milan,-hypervisor,+svm,x-snp-host=on,xlevel=0x80000021"]
    for each in firmware_folders():
        words += ["-L", str(each)]
    done = subprocess.run(
        [*words, "-bios", "bios.bin"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert lines, done.stderr
    assert lines[-1] == ["end"], done.stdout
    return {name: tuple(int(value, 16) for value in values) for name, *values in lines[:-1]}


def test_every_step_is_known(told: dict[str, tuple[int, ...]]) -> None:
    assert set(told) == {"syscfg", *STEPS}
    assert told["syscfg"] == (7 << 23,)


@pytest.mark.parametrize("step", STEPS)
def test_step(told: dict[str, tuple[int, ...]], step: str) -> None:
    assert [hex(each) for each in told[step]] == [hex(each) for each in STEPS[step]]
