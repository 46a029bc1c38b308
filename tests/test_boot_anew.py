# SPDX-License-Identifier: GPL-2.0-only
"""A target whose kernel ends and another one boots behind the same stream (Kernel.boot_anew)."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import backends
from harness.backends import local
from harness.frames import drop_until_greeting
from harness.linuxguest.placement import place
from harness.operations import Close, Open, TargetError, TargetTimeoutError
from harness.target import Target
from harness.vng.kinds import STOCK
from harness.vng.machine import Paths
from harness.vng.qemu import Qemu
from harness.wire import RemoteKernel
from suites.host.restarting import target_program

STAND_IN = Path(__file__).parent / "data" / "boots.py"
DIE = ["sh", "-c", "kill -9 $PPID"]
"""Ends the agent as a kernel's end would: it says nothing any more."""


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteKernel]:
    monkeypatch.chdir(tmp_path)
    with local.start_agent("machine", STAND_IN) as kernel:
        yield kernel


def test_the_next_agent_answers(kernel: RemoteKernel) -> None:
    before = kernel.hello["pid"]
    fd = kernel.open("/dev/null")
    kernel.boot_anew(DIE, 30)
    assert kernel.hello["pid"] != before
    assert kernel.boots == 1
    assert kernel.call(Close(fd)).errno == errno.EBADF
    assert kernel.run_program(["echo", "there"]).output == b"there\n"
    kernel.boot_anew(DIE, 30)
    assert kernel.boots == 2
    assert kernel.open("/dev/null") >= 0


def test_what_was_under_way_is_lost_and_says_so(kernel: RemoteKernel, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    batch = kernel.start([Open(str(fifo), os.O_RDONLY)], thread=1)
    program = kernel.start_program(["cat"], channels=1)
    kernel.boot_anew(DIE, 30)
    assert kernel.wait_any([batch], 0) == batch
    with pytest.raises(TargetError, match="ended with the boot it was started in"):
        kernel.wait(batch, 10)
    with pytest.raises(TargetError, match="ended with the boot it was started in"):
        program.wait(10)
    with kernel.start_program(["cat"]) as again:
        assert again.wait(10).status == 0


def test_a_frame_that_was_cut_is_not_taken_for_the_next_boots(
    kernel: RemoteKernel, tmp_path: Path
) -> None:
    (tmp_path / "half").write_bytes(struct.pack("<I", 1 << 20) + b"R" + bytes(100))
    kernel.boot_anew(DIE, 30)
    assert kernel.read_file("/proc/self/comm") is not None


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["sh", "-c", "echo no kernel is loaded; exit 3"], "status 3: no kernel is loaded"),
        (["/does/not/exist"], "No such file"),
    ],
)
def test_a_kernel_that_runs_on_is_told(kernel: RemoteKernel, argv: list[str], why: str) -> None:
    with pytest.raises(TargetError, match=f"{argv[0]} did not boot it anew: .*{why}"):
        kernel.boot_anew(argv, 30)
    assert kernel.boots == 0
    assert kernel.open("/dev/null") >= 0


def test_a_boot_that_does_not_come_is_a_timeout(kernel: RemoteKernel) -> None:
    with pytest.raises(TargetTimeoutError, match="was to boot it anew; no agent spoke within 0"):
        kernel.boot_anew(["sleep", "5"], 0.2)


def test_a_machine_that_ends_is_lost(kernel: RemoteKernel) -> None:
    kernel.boot_anew(DIE, 30)
    kernel.boot_anew(DIE, 30)
    with pytest.raises(TargetError, match="the agent has gone"):
        kernel.boot_anew(DIE, 30)


def test_an_agent_that_nobody_awaits_is_an_error(kernel: RemoteKernel) -> None:
    with pytest.raises(TargetError, match="unknown frame b'H'"):
        kernel.run_program(DIE, 30)


def test_nothing_is_sent_before_the_next_boot_has_spoken(kernel: RemoteKernel) -> None:
    ticket = kernel.start([Open("/dev/null")])
    kernel.wait(ticket)
    kernel._next_boot = True
    with pytest.raises(TargetError, match="it is being booted anew"):
        kernel.start([Open("/dev/null")])
    kernel._next_boot = False


def test_files_are_placed_again(
    kernel: RemoteKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent to the target's memory is gone with the boot."""
    seen: list[Path] = []

    def placed(_: object, path: Path) -> str:
        seen.append(path)
        return str(path)

    monkeypatch.setattr("harness.linuxguest.placement._place", placed)
    for _ in range(2):
        place(kernel, tmp_path)
        place(kernel, tmp_path)
        kernel.boot_anew(DIE, 30)
    assert seen == [tmp_path, tmp_path]


def test_memory_for_a_crash_kernel_goes_to_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    booted: list[dict[str, object]] = []
    monkeypatch.setattr("harness.backends.vng.kbuild.get", lambda name: name)
    monkeypatch.setattr("harness.backends.vng.choose", lambda name, kernel: STOCK)
    monkeypatch.setattr("harness.backends.vng.boot", lambda kernel, **how: booted.append(how))
    changes = {"crashkernel": "256M", "sev": False}
    backends.get("vng").open(Target("vng", kernel="mine"), changes)
    assert booted[0]["parameters"] == ("kvm_amd.sev=0", "crashkernel=256M")
    backends.get("vng").open(Target("vng", kernel="mine"), {})
    assert booted[1]["parameters"] == ()


def test_the_resets_of_earlier_boots_are_no_triple_faults_of_this_one(tmp_path: Path) -> None:
    qemu = Qemu.__new__(Qemu)
    qemu._paths, qemu._earlier = Paths(tmp_path, tmp_path / "console.log"), 0
    qemu.forget_resets()
    assert not qemu.triple_fault()
    qemu._paths.resets.write_text("CPU Reset (CPU 0)\nTriple fault\n")
    assert qemu.triple_fault()
    qemu.forget_resets()
    assert not qemu.triple_fault()
    with qemu._paths.resets.open("a") as log:
        log.write("CPU Reset (CPU 0)\n")
    assert not qemu.triple_fault()


def test_only_what_comes_before_a_greeting_is_dropped() -> None:
    greeting = b"\x40\0\0\0" + b'H{"magic": "snptest-agent", "version": 3}'
    for rest in (b"", b"half a frame", bytes(70000)):
        buffer = bytearray(rest + greeting + b"more")
        drop_until_greeting(buffer)
        assert buffer == greeting + b"more"
    for rest in (b"", b"half", greeting[4:]):
        buffer = bytearray(rest)
        drop_until_greeting(buffer)
        assert buffer == rest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["load", "/does/not/exist", "quiet"], "load: No such file or directory"),
        (["load-crash", "/dev/null", "quiet"], "load-crash: "),
    ],
)
def test_what_cannot_be_loaded_is_told(words: list[str], said: str) -> None:
    done = subprocess.run(target_program(*words), check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith(said)
