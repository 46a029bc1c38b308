# SPDX-License-Identifier: GPL-2.0-only
"""Build ids of kernels, held against readelf and the running kernel."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.kbuild import buildid


def note(name: bytes, kind: int, content: bytes) -> bytes:
    head = struct.pack("<III", len(name), len(content), kind)
    return (
        head + name.ljust(len(name) + -len(name) % 4, b"\0") + content + b"\0" * (-len(content) % 4)
    )


ID = bytes(range(20))
OURS = note(b"GNU\0", buildid.NT_GNU_BUILD_ID, ID)


def test_the_build_id_is_found_among_other_notes() -> None:
    notes = note(b"Xen\0", 6, b"linux") + note(b"Linux\0", 3, b"\1") + OURS + note(b"x\0", 1, b"")
    assert buildid.of_notes(notes) == ID.hex()
    assert buildid.of_notes(note(b"GNU\0", 1, ID)) == ""
    assert buildid.of_notes(b"") == ""


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_damaged_notes_have_none(cut: int) -> None:
    assert buildid.of_notes(OURS[:-cut]) == ""


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100))
def test_random_notes_end(notes: bytes) -> None:
    assert re.fullmatch(r"[0-9a-f]*", buildid.of_notes(notes))


def test_an_elf_file_as_readelf_sees_it(tmp_path: Path) -> None:
    source, program = tmp_path / "a.c", tmp_path / "a.out"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-Wl,--build-id=sha1", "-o", program, source], check=True, timeout=60)
    said = subprocess.run(
        ["readelf", "-n", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    match = re.search(r"Build ID: ([0-9a-f]{40})", said)
    assert match is not None
    assert buildid.of_elf(program) == match[1]
    data = program.read_bytes()
    for length in (0, 20, 64, 100):
        (tmp_path / "cut").write_bytes(data[:length])
        assert buildid.of_elf(tmp_path / "cut") == ""
    assert buildid.of_elf(Path(sys.executable).parent) == ""
    assert buildid.of_elf(source) == ""


def test_a_module_has_its_id_in_a_section(tmp_path: Path) -> None:
    """Modules are relocatable files: they have no segments."""
    command = ["gcc", "-x", "c", "-", "-c", "-o", str(tmp_path / "a.o")]
    subprocess.run(command, input=b"int a;", check=True, timeout=60)
    module = tmp_path / "a.ko"
    link = ["ld", "-r", f"--build-id=0x{ID.hex()}", "-o", str(module), str(tmp_path / "a.o")]
    subprocess.run(link, check=True, timeout=60)
    assert buildid.of_elf(module) == ID.hex()
    assert buildid.of_elf(tmp_path / "a.o") == ""
