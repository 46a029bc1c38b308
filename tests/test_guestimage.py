# SPDX-License-Identifier: GPL-2.0-only
"""The guest's image: reproducible, complete, and its plain flavour runs on a bare CPU model."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from unicorn import unicorn_const as uc_const
from unicorn import x86_const as x86
from unicorn.unicorn import Uc

from harness import guestimage
from harness.guestimage import Flavour, GuestImageError
from harness.vm import boot, launch_digest, layout, mailbox
from harness.vm.guest_commands import checksum_of
from harness.vm.mailbox import Command, Header, Op, RawResult, Status

needs_gcc = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("gcc", "ld", "objcopy")),
    reason="gcc and binutils are not installed",
)


@needs_gcc
@pytest.mark.parametrize("flavour", list(Flavour))
def test_build_is_reproducible(flavour: Flavour) -> None:
    """The same compiler makes the same bytes twice, in different directories."""
    assert guestimage.build(flavour) == guestimage.build(flavour)


@needs_gcc
def test_nothing_of_the_caller_s_environment_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cross toolchain's shell has it; the cache would keep such an image for every run."""
    expected = guestimage.build(Flavour.SNP)
    (tmp_path / "stdint.h").write_text("#error another C library's\n")
    monkeypatch.setenv("C_INCLUDE_PATH", str(tmp_path))
    monkeypatch.setenv("GNUTARGET", "elf32-i386")
    monkeypatch.setenv("DEPENDENCIES_OUTPUT", str(tmp_path / "dependencies"))
    assert guestimage.build(Flavour.SNP) == expected
    assert not (tmp_path / "dependencies").exists()


def test_cache_is_keyed_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the layout changes the key; the cache gives back what was built."""
    monkeypatch.setenv("SNPTEST_CACHE", str(tmp_path))
    guestimage.load.cache_clear()
    first = guestimage.load(Flavour.SNP)
    (cached,) = (tmp_path / "guests").iterdir()
    assert cached.read_bytes() == first.data
    before = guestimage.source_key()
    monkeypatch.setattr(layout, "NOTIFY_PORT", 0x5E1)
    assert guestimage.source_key() != before
    guestimage.load.cache_clear()


@pytest.mark.parametrize("flavour", list(Flavour))
def test_prebuilt_is_of_these_sources(flavour: Flavour) -> None:
    """The prebuilt image is not stale (python -m harness.guestimage --prebuilt renews it)."""
    image = guestimage.load_prebuilt(flavour)
    assert image.origin == "prebuilt"
    assert len(image.data) <= 12 * layout.PAGE_SIZE


def test_prebuilt_damage_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One changed bit, a stale manifest or a missing file is refused with advice."""
    shutil.copytree(guestimage.PREBUILT, tmp_path / "prebuilt")
    monkeypatch.setattr(guestimage, "PREBUILT", tmp_path / "prebuilt")
    path = tmp_path / "prebuilt" / "snp.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(GuestImageError, match=r"damaged.*apt install gcc binutils"):
        guestimage.load_prebuilt(Flavour.SNP)
    manifest = tmp_path / "prebuilt" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"sources": "other"}))
    with pytest.raises(GuestImageError, match="not built from these sources"):
        guestimage.load_prebuilt(Flavour.PLAIN)
    path.unlink()
    manifest.unlink()
    with pytest.raises(GuestImageError, match="no prebuilt guest image"):
        guestimage.load_prebuilt(Flavour.SNP)


def test_without_compiler_the_prebuilt_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users without gcc get the prebuilt image."""
    guestimage.load.cache_clear()
    monkeypatch.setattr(guestimage, "_compiler", lambda: None)
    assert guestimage.load(Flavour.SNP).origin == "prebuilt"
    guestimage.load.cache_clear()


def test_page_tables() -> None:
    """Both views map all of the low 512 GiB; only the private one has the C-bit."""
    words = memoryview(boot.page_tables(51)).cast("Q")
    cbit = 1 << 51
    assert words[0] == layout.PAGE_TABLES_GPA + 0x1000 | cbit | 3
    assert words[1] == layout.PAGE_TABLES_GPA + 0x2000 | cbit | 3
    assert set(words[2:512]) == {0}
    assert list(words[512:1024]) == [gib << 30 | cbit | 0x83 for gib in range(512)]
    assert list(words[1024:]) == [gib << 30 | 0x83 for gib in range(512)]
    assert not any(word & cbit for word in memoryview(boot.page_tables(None)).cast("Q"))


def test_launch_digest_by_hand() -> None:
    """One normal page and one VMSA, chained by hand as 56860 says (PAGE_INFO)."""
    page, vmsa = b"\x5a" * 4096, b"\xa5" * 4096

    def extend(digest: bytes, contents: bytes, kind: int, gpa: int) -> bytes:
        info = digest + hashlib.sha384(contents).digest() + (0x70).to_bytes(2, "little")
        info += bytes([kind, 0, 0, 0, 0, 0]) + gpa.to_bytes(8, "little")
        assert len(info) == 0x70
        return hashlib.sha384(info).digest()

    expected = extend(bytes(48), page, 1, 0x1000)
    expected = extend(expected, vmsa, 2, 0xFFFFFFFFF000)
    part = boot.LaunchPages(0x1000, page, 1)
    assert launch_digest.launch_digest([part], [vmsa]) == expected


def test_entry_vmsa_fields() -> None:
    """What must be in the measured VMSA, at its offsets of APM table B-4."""
    vmsa = launch_digest.entry_vmsa(guestimage.load(Flavour.SNP), 3, vmsa_features=0x20)
    assert len(vmsa) == 4096

    def u64(offset: int) -> int:
        return int.from_bytes(vmsa[offset : offset + 8], "little")

    assert vmsa[0x10:0x20] == bytes.fromhex("08009b0affffffff") + bytes(8)
    assert u64(0xD0) == 0x1500
    assert u64(0x150) == layout.PAGE_TABLES_GPA
    assert u64(0x178) == layout.IMAGE_GPA
    assert u64(0x1D8) == layout.CPU_GPA + 4 * 0x1000
    assert u64(0x338) == 3
    assert u64(0x3B0) == 0x21
    assert u64(0x3E8) == 1


class Bare:
    """The plain guest on a bare Unicorn: no hypervisor, a notification stops it."""

    def __init__(self) -> None:
        image = guestimage.load(Flavour.PLAIN)
        make: Any = Uc
        uc = make(uc_const.UC_ARCH_X86, uc_const.UC_MODE_64)
        uc.ctl_set_cpu_model(x86.UC_CPU_X86_EPYC)
        uc.mem_map(0, 16 << 20)
        for part in boot.launch_pages(image, cbit=None, vcpus=2, secrets=False):
            uc.mem_write(part.gpa, part.data)
        uc.reg_write(x86.UC_X86_REG_CR4, boot.CR4)
        uc.reg_write(x86.UC_X86_REG_CR3, layout.PAGE_TABLES_GPA)
        uc.reg_write(x86.UC_X86_REG_MSR, (0xC0000080, boot.EFER))
        uc.reg_write(x86.UC_X86_REG_CR0, boot.CR0)
        regs = boot.entry_regs(image, 1)
        uc.reg_write(x86.UC_X86_REG_RSP, regs.rsp)
        uc.reg_write(x86.UC_X86_REG_RDI, regs.rdi)
        uc.hook_add(uc_const.UC_HOOK_INSN, self._out, None, 1, 0, x86.UC_X86_INS_OUT)
        self.uc = uc
        self.rip = regs.rip
        self.notified: list[tuple[int, int, int]] = []

    def _out(self, uc: Any, port: int, size: int, value: int, _: object) -> None:
        self.notified.append((port, size, value))
        uc.emu_stop()

    def enter(self) -> None:
        self.uc.emu_start(self.rip, 0, timeout=10_000_000)
        self.rip = self.uc.reg_read(x86.UC_X86_REG_RIP)

    def header(self) -> Header:
        return Header.decode(bytes(self.uc.mem_read(layout.mailbox(1), 64)))

    def run(self, *commands: Command) -> list[RawResult]:
        base = layout.mailbox(1)
        for number, command in enumerate(commands):
            self.uc.mem_write(base + mailbox.record_offset(number), command.encode())
        count = len(commands).to_bytes(4, "little")
        self.uc.mem_write(base + mailbox.COUNT_OFFSET, count)
        self.enter()
        page = bytes(self.uc.mem_read(base, 4096))
        offsets = map(mailbox.record_offset, range(len(commands)))
        return [RawResult.decode(page[at : at + mailbox.RECORD_SIZE]) for at in offsets]


@pytest.fixture(scope="module")
def bare() -> Bare:
    guest = Bare()
    guest.enter()
    return guest


def test_entry_notifies(bare: Bare) -> None:
    """A vCPU says that it is there, and which one it is."""
    header = bare.header()
    assert bare.notified[0] == (layout.NOTIFY_PORT, 4, 0)
    assert (header.magic, header.protocol) == (mailbox.MAGIC, mailbox.PROTOCOL)
    assert (header.boots, header.index, header.fatal_vector) == (1, 1, 0)


def test_memory_commands(bare: Bare) -> None:
    """Fill, compare, checksum, copy, load and store agree with Python's idea of them."""
    at, to = 0x400000, 0x401000
    shared = layout.shared(to)
    results = bare.run(
        Command(Op.FILL, (at, 4096, 5, 3)),
        Command(Op.COPY, (shared, at, 4093)),
        Command(Op.VERIFY, (to, 4096, 5, 3)),
        Command(Op.CHECKSUM, (at, 4096)),
        Command(Op.STORE, (at + 1, 2, 0x1234567)),
        Command(Op.LOAD, (at, 4)),
        Command(Op.XCHG, (at, 9)),
        Command(Op.LOCKED_ADD, (at, 2, 10)),
    )
    assert {result.status for result in results} == {Status.OK}
    words = b"".join((5 + 3 * i).to_bytes(8, "little") for i in range(512))
    assert bytes(bare.uc.mem_read(to, 4093)) == words[:4093]
    assert results[2].values[0] == 0  # the last word's upper bytes are zero anyway
    assert results[3].values[:2] == checksum_of(words)
    assert results[5].values[0] == 0x456705
    assert results[6].values[0] == 0x456705
    assert results[7].values[0] == 29


def test_verify_reports_the_first_difference(bare: Bare) -> None:
    """Offset and value of the first wrong word, and how many there are."""
    at = 0x410000
    bare.run(
        Command(Op.FILL, (at, 4096, 7, 0)),
        Command(Op.STORE, (at + 24, 8, 1)),
        Command(Op.STORE, (at + 64, 8, 2)),
    )
    (result,) = bare.run(Command(Op.VERIFY, (at, 4096, 7, 0)))
    assert result.values[:3] == (2, 24, 1)


def test_state_and_tables(bare: Bare) -> None:
    """The guest runs on its own GDT and TSS, on its own stack, as vCPU 1."""
    (result,) = bare.run(Command(Op.STATE))
    cr0, cr3, cr4, _, rsp, cs, tr, index = result.values
    assert (cr0, cr3, cr4) == (boot.CR0, layout.PAGE_TABLES_GPA, boot.CR4)
    assert layout.cpu_page(1) + layout.CPU_IST_TOP < rsp < layout.stack_top(1)
    assert (cs, tr, index) == (layout.CODE_SELECTOR, layout.TSS_SELECTOR, 1)


def test_xmm_registers(bare: Bare) -> None:
    """All sixteen registers keep what they were given."""
    data = bytes(range(256))
    bare.uc.mem_write(0x420000, data)
    results = bare.run(Command(Op.XMM_SET, (0x420000,)), Command(Op.XMM_GET, (0x421000,)))
    assert [result.status for result in results] == [Status.OK, Status.OK]
    assert bytes(bare.uc.mem_read(0x421000, 256)) == data


def test_execute(bare: Bare) -> None:
    """Code anywhere in memory runs with three arguments and returns RAX."""
    code = bytes.fromhex("488d0437 4801d0 c3")  # lea rax,[rdi+rsi]; add rax,rdx; ret
    bare.uc.mem_write(0x430000, code)
    (result,) = bare.run(Command(Op.EXECUTE, (0x430000, 1, 20, 300)))
    assert result.values[0] == 321


def test_limits_and_unknown_operations(bare: Bare) -> None:
    """A spin has an end, an unknown operation and one of the other flavour say so."""
    at = 0x440000
    results = bare.run(
        Command(Op.SPIN_UNTIL, (at, 1, ~0, 50)),
        Command(Op.SPIN_UNTIL, (at, 0, ~0, 50)),
        Command(Op.PVALIDATE, (at, 0, 1, 1)),
        Command(Op.LOAD, (at, 3)),
    )
    statuses = [result.status for result in results]
    assert statuses == [Status.LIMIT, Status.OK, Status.UNSUPPORTED, Status.BAD_OP]
    base = layout.mailbox(1)
    bare.uc.mem_write(base + mailbox.HEADER_SIZE, (0x7FFFFFFF).to_bytes(4, "little"))
    bare.uc.mem_write(base + mailbox.COUNT_OFFSET, (1).to_bytes(4, "little"))
    bare.enter()
    page = bytes(bare.uc.mem_read(base, 4096))
    assert RawResult.decode(page[mailbox.HEADER_SIZE :]).status == Status.BAD_OP


def test_too_many_records_are_refused(bare: Bare) -> None:
    """A count beyond the page runs nothing."""
    base = layout.mailbox(1)
    bare.uc.mem_write(base + mailbox.COUNT_OFFSET, (22).to_bytes(4, "little"))
    before = len(bare.notified)
    bare.enter()
    assert bare.notified[before:] == [(layout.NOTIFY_PORT, 4, 0)]


def test_store_loop_wraps(bare: Bare) -> None:
    """Stores go round the span they were given."""
    at = 0x450000
    (result,) = bare.run(Command(Op.STORE_LOOP, (at, 1, 5, 8, 16)))
    assert result.values[0] == 5
    assert bytes(bare.uc.mem_read(at, 24)) == b"".join(
        value.to_bytes(8, "little") for value in (5, 4, 0)
    )
