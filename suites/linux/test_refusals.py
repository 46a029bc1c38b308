# SPDX-License-Identifier: GPL-2.0-only
"""OVMF holds kernel, initrd and command line to their hashes, and boots nothing else."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.kernel import Kernel
from harness.linuxguest.parts import Parts
from harness.linuxguest.running import RunningGuest
from harness.target import Target
from suites.linux.conftest import BOOT_DEADLINE
from suites.linux.measuring import small_parts

pytestmark = [
    pytest.mark.patches(10, 11),
    pytest.mark.areas("measurement", "whole guests"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(2 * BOOT_DEADLINE),
]

Start = Callable[..., RunningGuest]
REWRITE = (Path(__file__).parent / "rewrite.py").read_text()
REWRITE_TIMEOUT = 120.0
BEFORE, AFTER = b"snptest.word=before", b"snptest.word=after."
BOOTED = "console of the guest: it boots Linux, want that OVMF does not boot it"
PART = 64
"""Bytes of a file by which it is found in QEMU's memory."""
_numbers = itertools.count(1)


def change(kernel: Kernel, word: str, old: bytes, new: bytes) -> None:
    """Change bytes in the memory of the QEMU that has a word on its command line."""
    command = ["python3", "-c", REWRITE, word, old.hex(), new.hex()]
    done = kernel.run_program(command, REWRITE_TIMEOUT)
    said = done.output.decode(errors="replace").strip()
    assert done.status == 0, f"changing QEMU's memory: {done.failure or said}, want it done"
    assert int(said) > 0, "QEMU's memory: no such bytes, want the part that is measured"


def middle(file: Path) -> bytes:
    """Return bytes of a compressed file that are there once."""
    data = file.read_bytes()
    found = data[len(data) // 2 :][:PART]
    assert data.count(found) == 1, (
        f"{file.name}: {data.count(found)} places with these bytes, want 1"
    )
    return found


def old_and_new(made: Parts, part: str) -> tuple[bytes, bytes]:
    """Return bytes of a part, and what an attacker puts there: as many."""
    if part == "command line":
        return BEFORE, AFTER
    old = middle(made.kernel.image if part == "kernel" else made.initrd)
    return old, bytes([old[0] ^ 1]) + old[1:]


@pytest.fixture
def hashing_parts(target: Target) -> Parts:
    """Parts whose firmware checks kernel hashes, as far as that is known."""
    made = small_parts(target)
    if not made.firmware.kernel_hashes or made.firmware.checks_hashes is False:
        pytest.skip(f"firmware {made.firmware.name} does not check kernel hashes")
    return made


def held(start: Start, made: Parts) -> tuple[RunningGuest, str]:
    """Start a guest that is measured and does not run yet; return it and a word of its QEMU's."""
    word = f"snptest-refusals-{os.getpid()}-{next(_numbers)}"
    guest = start(BEFORE.decode(), parts=made, devices=("-S", "-name", word))
    status = guest.ask("query-status", BOOT_DEADLINE)["status"]
    assert status == "prelaunch", f"QEMU's status: {status}, want prelaunch"
    return guest, word


@pytest.mark.parametrize("part", ["kernel", "initrd", "command line"])
def test_what_changes_after_its_hash_is_not_booted(
    kernel: Kernel, start: Start, hashing_parts: Parts, part: str
) -> None:
    """A VMM that measures one thing and hands over another gets no Linux to run it.

    OVMF says nothing then, and stands still: it has had as long as a guest that was started after
    it, whose VMM put the same bytes back, and that got to userspace.
    """
    old, new = old_and_new(hashing_parts, part)
    attacked, word = held(start, hashing_parts)
    change(kernel, word, old, new)
    other, word = held(start, hashing_parts)
    change(kernel, word, old, old)
    attacked.ask("cont")
    other.ask("cont")
    other.userspace(2 * BOOT_DEADLINE)
    line = other.shell("cat /proc/cmdline")
    assert BEFORE.decode() in line, f"/proc/cmdline: {line!r}, want {BEFORE.decode()} in it"
    assert "Linux version" not in attacked.console.text, BOOTED
    assert not attacked.ended, f"the guest {attacked.end()}, want it standing still"


def test_nothing_is_booted_without_hashes(target: Target, start: Start) -> None:
    """OVMF's AmdSev build does not boot a kernel that nobody has measured, and says so."""
    guest = start(parts=small_parts(target, "sid"), kernel_hashes=False)
    guest.see(r"BdsDxe: No bootable option", BOOT_DEADLINE)
    assert "Linux version" not in guest.console.text, BOOTED
