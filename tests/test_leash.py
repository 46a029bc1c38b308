# SPDX-License-Identifier: GPL-2.0-only
"""What is on the leash ends with whoever holds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness import leash

PROGRAM = [sys.executable, str(Path(leash.__file__))]


def start(scratch: Path, *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, str(scratch), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until, f"process {pid} is still there"
        time.sleep(0.02)


def test_status_and_output_are_the_commands(tmp_path: Path) -> None:
    process = start(tmp_path / "none", "sh", "-c", "echo out; exit 7")
    assert process.stdout is not None
    assert process.stdout.read() == b"out\n"
    assert process.wait(10) == 7


def test_letting_go_kills_the_whole_group(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = start(scratch, "sh", "-c", "trap '' TERM INT; sleep 100 & echo $!; wait")
    assert process.stdout is not None
    assert process.stdin is not None
    below = int(process.stdout.readline())
    process.stdin.close()
    assert process.wait(10) == 128 + signal.SIGKILL
    wait_until_gone(below)
    assert not scratch.exists()


def test_what_the_command_leaves_behind_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "sh", "-c", "sleep 100 >/dev/null & echo $!")
    assert process.stdout is not None
    below = int(process.stdout.readline())
    assert process.wait(10) == 0
    wait_until_gone(below)


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time\n"
            "subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)\ntime.sleep(100)",
            *PROGRAM,
            str(tmp_path / "none"),
            "sh",
            "-c",
            "echo $$; exec sleep 100",
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    below = int(holder.stdout.readline())
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait(10)
    wait_until_gone(below)
