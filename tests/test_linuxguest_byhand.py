# SPDX-License-Identifier: GPL-2.0-only
"""`snptest guest` up to the boot: its options, and the console on a terminal."""

from __future__ import annotations

import os
import pty
import select
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.backends import local
from harness.errors import UsageError
from harness.kernel import Kernel
from harness.linuxguest import byhand, terminal
from harness.linuxguest.definition import Kind, LinuxGuest
from harness.linuxguest.running import RunningGuest
from tests.test_cli import snptest

FAKE = Path(__file__).parent / "data/fake_qemu.py"
SECONDS = 30.0


@pytest.fixture
def guest() -> Iterator[RunningGuest]:
    """A guest that echoes on its console what is typed there."""
    with local.start_agent("test") as kernel, _guest(kernel, "echoes") as started:
        yield started


def _guest(kernel: Kernel, how: str) -> RunningGuest:
    words = (sys.executable, "-I", "-S", str(FAKE), how)
    return RunningGuest(kernel, LinuxGuest(firmware="f"), words, 60)


@pytest.mark.parametrize(("text", "size"), [("512M", 512), ("2G", 2048), ("256M", 256)])
def test_sizes(text: str, size: int) -> None:
    assert byhand.mebibytes(text) == size


def test_what_is_no_size_of_a_guest() -> None:
    with pytest.raises(UsageError, match="128M is too little"):
        byhand.mebibytes("128M")
    with pytest.raises(UsageError, match="no size of memory"):
        byhand.mebibytes("lots")


def test_types_and_policies() -> None:
    assert byhand.kind_of("sev-es") is Kind.SEV_ES
    with pytest.raises(UsageError, match="no type of guest is called 'tdx'"):
        byhand.kind_of("tdx")
    assert (byhand.number(""), byhand.number("0xb0000"), byhand.number("5")) == (0, 0xB0000, 5)
    with pytest.raises(UsageError, match="is no number"):
        byhand.number("all")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["guest", "--vcpus", "2"], "a guest needs a kernel that runs it"),
        (["guest", "--kernel", "no-such", "--type", "x"], "no type of guest is called 'x'"),
        (["guest", "--kernel", "no-such-kernel"], "no-such-kernel"),
        (["guest", "--kernel", "no-such", "--memory", "1M"], "1M is too little"),
    ],
)
def test_faults_of_the_command_line(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    code, _, error = snptest(capsys, *words)
    assert code == 2
    assert said in error
    assert len(error.strip().splitlines()) <= 2


def test_without_a_terminal_the_console_is_printed(
    guest: RunningGuest, capfd: pytest.CaptureFixture[str]
) -> None:
    """Until the guest ends; what was typed comes from nowhere."""
    guest.see("speaks", SECONDS)
    threading.Timer(0.3, guest.press, [b"over\n"]).start()
    assert terminal.attach(guest)
    assert capfd.readouterr().out == "OVMF speaks\r\nover\n"


def test_keys_reach_the_guest_and_leaving_does_not(
    guest: RunningGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal keys go as they are typed, Ctrl-C too; Ctrl-] leaves; it is as before then."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    with os.fdopen(theirs, "r+b", buffering=0) as end, os.fdopen(os.dup(theirs), "wb") as out:
        monkeypatch.setattr(sys, "stdin", end)
        monkeypatch.setattr(sys, "stdout", out)
        done: list[bool] = []
        thread = threading.Thread(target=lambda: done.append(terminal.attach(guest)))
        thread.start()
        _read_until(ours, b"speaks\r\n")
        os.write(ours, b"a\x03b")
        _read_until(ours, b"a\x03b")
        os.write(ours, b"c\x1dnever")
        thread.join(SECONDS)
        assert done == [False]
        guest.see("c", SECONDS)
        assert "never" not in guest.console.text
        assert termios.tcgetattr(theirs) == before
    os.close(ours)


def _read_until(fd: int, wanted: bytes) -> None:
    data = b""
    until = time.monotonic() + SECONDS
    while wanted not in data:
        left = until - time.monotonic()
        assert left > 0, f"{wanted!r} did not come, but {data!r}"
        if select.select([fd], [], [], left)[0]:
            data += os.read(fd, 4096)
