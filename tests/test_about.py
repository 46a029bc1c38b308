# SPDX-License-Identifier: GPL-2.0-only
"""What a running kernel says about itself."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.kernel import Kernel
from harness.operations import ReadFile, Result, TargetError
from harness.report import about
from harness.splats.watch import LogWatch

LOG = """[    0.000000] Linux version 6.12.1-snptest (a@b) (gcc) #1 SMP
[    9.119762] ccp 0000:00:0a.0: SEV API:1.55 build:40
[    9.119763] ccp 0000:00:0a.0: SEV-SNP API:1.55 build:40
"""


def note(name: bytes, kind: int, content: bytes) -> bytes:
    padded = (each + bytes(-len(each) % 4) for each in (name, content))
    return struct.pack("<III", len(name), len(content), kind) + b"".join(padded)


class Speaker:
    """As much of a kernel as is asked."""

    def __init__(
        self, notes: bytes | None, log: str, release: str = "", dead: bool = False
    ) -> None:
        self.notes, self.text, self.release, self.dead = notes, log, release, dead

    def log(self) -> str:
        return self.text

    def call(self, op: ReadFile) -> Result:
        if self.dead:
            raise TargetError("gone")
        assert op.path == "/sys/kernel/notes"
        return Result(0, data=self.notes) if self.notes is not None else Result(0, errno=2)


def said(speaker: Speaker) -> dict[str, str]:
    kernel: Kernel = speaker  # type: ignore[assignment]
    watch = LogWatch(kernel)
    watch.read()
    return about.about(kernel, watch)


def test_release_build_id_and_firmware() -> None:
    notes = note(b"Xen\0", 6, b"linux") + note(b"GNU\0", 3, bytes(range(20))) + b"rest"
    assert said(Speaker(notes, LOG)) == {
        "release": "6.12.1-snptest",
        "build_id": bytes(range(20)).hex(),
        "firmware": "1.55 build:40",
    }


def test_what_is_not_known_is_empty() -> None:
    found = said(Speaker(None, "nothing", release="6.1"))
    assert found == {"release": "6.1", "build_id": "", "firmware": ""}
    assert said(Speaker(None, LOG, dead=True)) == {}


@pytest.mark.parametrize(
    "notes",
    [b"", b"x" * 11, struct.pack("<III", 4, 0xFFFFFFFF, 3) + b"GNX\0", b"\xff" * 64],
)
def test_notes_that_are_none(notes: bytes) -> None:
    assert about.build_id(notes) == ""


def test_our_own_kernel_has_a_build_id() -> None:
    path = Path(about.NOTES)
    if not path.exists():
        pytest.skip("this kernel shows no notes")
    assert len(about.build_id(path.read_bytes())) in (0, 32, 40)
