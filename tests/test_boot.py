# SPDX-License-Identifier: GPL-2.0-only
"""`snptest boot`: one command in a real kernel, its streams and status apart from the console."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from harness.errors import BootError
from harness.vng import init, shell
from harness.vng.machine import Paths, Setup, _without_ports
from harness.vng.share import make_scratch
from tests import test_vng
from tests.mutants.mutant import ROOT
from tests.runs import run

update = test_vng.update
pytestmark = test_vng.pytestmark


def snptest(*words: str, given: str = "", timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *words],
        cwd=ROOT,
        input=given,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_a_commands_streams_and_status_are_its_own(update: test_vng.Update) -> None:
    script = "cat; uname -r; echo err >&2; lsmod; exit 5"
    done = snptest("boot", update.kernel.name, "--", "sh", "-c", script, given="given\n")
    assert done.returncode == 5
    assert done.stderr == "err\n"
    given, release, *modules = done.stdout.splitlines()
    assert (given, release) == ("given", update.kernel.release)
    assert {"kvm", "kvm_amd"} <= {line.split()[0] for line in modules}


def test_output_goes_on_where_a_file_ends(update: test_vng.Update, tmp_path: Path) -> None:
    """What stands in the file stays, and neither stream overwrites the other."""
    output = tmp_path / "output"
    output.write_text("before\n")
    with output.open("a") as file:
        status = subprocess.call(
            [sys.executable, "-m", "harness", "boot", update.kernel.name]
            + ["--", "sh", "-c", "seq 2000; echo err >&2"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=300,
        )
    assert status == 0
    lines = output.read_text().splitlines()
    assert lines[0] == "before"
    assert [line for line in lines[1:] if line != "err"] == [str(n) for n in range(1, 2001)]
    assert lines.count("err") == 1


def test_output_that_cannot_be_written_is_told(update: test_vng.Update) -> None:
    """A command whose output is lost has not done what it was run for."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harness", "boot", update.kernel.name, "--", "echo", "x"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=300,
            check=False,
        )
    assert done.returncode == 3
    said = b"snptest: cannot write to standard output: No space left on device"
    assert said in done.stderr.splitlines()


def test_a_reproducer_in_tmp_is_found(update: test_vng.Update, tmp_path: Path) -> None:
    """The folder and what lies in it, words as they are, standard input; but it is read-only."""
    work = tmp_path / "a b"
    work.mkdir()
    (work / "data").write_text("data\n")
    program = work / "repro"
    program.write_text("#!/bin/sh\nprintf '<%s>' \"$@\"; echo; pwd; cat data -; : > new\n")
    program.chmod(0o755)
    words = ["a b", "it's", '"q"', ""]
    done = subprocess.run(
        [sys.executable, "-m", "harness", "boot", update.kernel.name, "--", "./repro", *words],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input="given\n",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.splitlines() == ['<a b><it\'s><"q"><>', str(work), "data", "given"]
    assert "Read-only file system" in done.stderr
    assert not (work / "new").exists()


def test_a_kernel_that_dies_is_exit_3_with_its_console(update: test_vng.Update) -> None:
    done = snptest("boot", update.kernel.name, "--", "sh", "-c", "echo c > /proc/sysrq-trigger")
    assert done.returncode == 3
    assert "panic: sysrq triggered crash" in done.stderr
    assert "sysrq_handle_crash" in done.stderr
    assert done.stdout == ""


def test_a_command_that_does_not_end_is_ended(update: test_vng.Update) -> None:
    began = time.monotonic()
    done = snptest("boot", update.kernel.name, "--timeout", "30", "--", "sleep", "1000")
    assert done.returncode == 3
    assert "has not ended within 30 s" in done.stderr
    assert time.monotonic() - began < 120


def test_a_command_that_is_not_there(update: test_vng.Update) -> None:
    done = snptest("boot", update.kernel.name, "--", "/does/not/exist")
    assert done.returncode == 127
    assert "No such file" in done.stderr


def test_parameters_reach_the_kernel(update: test_vng.Update) -> None:
    words = ("-p", "snptest.word=1", "--memory", "512M", "--cpus", "1")
    done = snptest("boot", update.kernel.name, *words, "--", "sh", "-c", "cat /proc/cmdline; nproc")
    cmdline, cpus = done.stdout.splitlines()
    assert "snptest.word=1" in cmdline.split()
    assert cpus == "1"


def test_parameters_reach_modules(update: test_vng.Update) -> None:
    words = ("-p", "kvm_amd.avic=0", "-p", "kvm-amd.npt=0", "-p", "kvm.tdp_mmu=0")
    look = "cd /sys/module; cat kvm_amd/parameters/npt kvm/parameters/tdp_mmu"
    done = snptest("boot", update.kernel.name, *words, "--", "sh", "-c", look)
    assert done.stdout.split() == ["N", "N"]


@pytest.mark.parametrize(
    ("module", "words", "given"),
    [
        ("kvm-amd", "kvm_amd.sev=1 quiet kvm-amd.npt=0 kvm.x=1 root=a.b", "sev=1 npt=0"),
        ("kvm", "kvm_amd.sev=1 kvm.flag kvm.a=b.c", "flag a=b.c"),
        ("kvm", "ro console=ttyS0", ""),
    ],
)
def test_what_the_command_line_says_for_a_module(module: str, words: str, given: str) -> None:
    assert init.parameters(module, words.split()) == given


def test_a_shell_needs_a_terminal(update: test_vng.Update) -> None:
    done = snptest("boot", update.kernel.name)
    assert done.returncode == 2
    assert "terminal" in done.stderr


def shell_in(kernel: str, program: str) -> tuple[int, bytes]:
    """Run `snptest boot KERNEL` on a terminal, with $SHELL; return its status and the screen."""
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "boot", kernel, "--machine", "stock"],
        cwd=ROOT,
        env=os.environ | {"SHELL": program, "TERM": "dumb"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    screen = b""
    until = time.monotonic() + 200
    try:
        while select.select([controller], [], [], max(0.0, until - time.monotonic()))[0]:
            try:
                chunk = os.read(controller, 1 << 16)
            except OSError:  # EIO: nobody has the terminal open any more
                break
            screen += chunk
        return process.wait(30), screen
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        os.close(controller)


def test_a_shells_status_is_passed_on(update: test_vng.Update) -> None:
    """A shell that ends by itself with a status that nothing else here has: timeout(1)'s usage."""
    code, screen = shell_in(update.kernel.name, "/usr/bin/timeout")
    assert code == 125, screen[-2000:]


def test_a_machine_that_ends_before_its_shell_is_told(
    update: test_vng.Update, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "shell_command", lambda *_: ["sh", "-c", "exit 4"])
    said = r"ended before its shell did \(QEMU ended with 4\)"
    with pytest.raises(BootError, match=said):
        shell.explore(update.kernel, Setup(update.kernel.bzimage))


def test_a_machine_that_is_not_there(update: test_vng.Update) -> None:
    done = snptest("boot", update.kernel.name, "--machine", "pdp11", "--", "true")
    assert done.returncode == 2
    assert "there are stock" in done.stderr


def test_a_size_of_memory_that_is_none(update: test_vng.Update) -> None:
    for words in (("boot", update.kernel.name), ("run", "gmem", "--kernel", update.kernel.name)):
        done = snptest(*words, "--memory", "2 bananas")
        assert done.returncode == 2
        assert "512M" in done.stderr


def test_a_scripts_ports_are_left_out() -> None:
    port = ["-chardev", "file,id=out,path=/proc/self/fd/1", "-device", "virtio-serial-pci"]
    port += ["-device", "virtserialport,name=virtme.stdout,chardev=out"]
    rest = ["qemu", "-m", "1G", "-device", "i6300esb,id=watchdog0", "-serial", "chardev:console"]
    console = ["-chardev", "file,id=console,path=/proc/self/fd/2"]
    assert _without_ports([*rest, *port, *console]) == [*rest, *console]


@pytest.mark.deadline(3000)  # it may wait for another build
def test_one_command_builds_boots_and_runs(update: test_vng.Update, tmp_path: Path) -> None:
    """What was built already is found; the kernel is known by the name that --kernel gives."""
    words = ("suites/launch/test_types.py", "--base", update.kernel.base, "--config", "selftest")
    names = ("--series", str(update.series), "--kernel", "selftest-one")
    done = run(*words, *names, folder=tmp_path, timeout=3000)
    assert done.code == 0, done.text
    assert any(each["outcome"] == "pass" for each in done.results)


def test_a_deep_tmpdir_holds_no_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path has 107 bytes at the most."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    for place in (deep, tmp_path):
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        scratch = make_scratch()
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(Paths(scratch, tmp_path / "console").agent))
        finally:
            shutil.rmtree(scratch)
