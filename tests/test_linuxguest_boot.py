# SPDX-License-Identifier: GPL-2.0-only
"""Debian's kernels boot into our initrd, on a plain machine without KVM: init does its work."""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from harness.linuxguest import catalogue
from harness.linuxguest.parts import Parts, parts
from harness.machine.installed import MachineBuild
from tests import machines
from tests.marks import real

SECONDS = 120.0
snp_machine = machines.snp_machine
pytestmark = [*real("fetches kernels, and boots them", 900)]
KERNELS = list(catalogue.load().kernels)


@cache
def made(kernel: str) -> Parts:
    return parts(kernel=kernel)


class Guest:
    """A kernel in QEMU; the console is a file, the second port a socket."""

    def __init__(
        self, machine: MachineBuild, kernel: Parts, folder: Path, line: str, port: bool
    ) -> None:
        self.console = folder / "console"
        self._port = folder / "port"
        command: list[str | Path] = [
            machine.qemu,
            "-machine",
            "q35",
            "-accel",
            "tcg",
            "-cpu",
            "qemu64",
        ]
        command += ["-m", "512M", "-nodefaults", "-display", "none", "-no-reboot"]
        command += ["-L", machine.firmware]
        command += ["-kernel", kernel.kernel.image, "-initrd", kernel.initrd]
        command += ["-append", f"console=ttyS0 {line}", "-serial", f"file:{self.console}"]
        if port:
            command += ["-chardev", f"socket,id=port,path={self._port},server=on,wait=off"]
            command += ["-serial", "chardev:port"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def printed(self) -> str:
        """Return what is on the console."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def wait_for(self, text: str) -> None:
        until = time.monotonic() + SECONDS
        while text not in self.printed():
            assert self.process.poll() is None, self.printed()[-2000:]
            assert time.monotonic() < until, self.printed()[-2000:]
            time.sleep(0.1)

    def ends(self) -> int:
        return self.process.wait(SECONDS)

    @contextmanager
    def connected(self) -> Iterator[Port]:
        with socket.socket(socket.AF_UNIX) as port:
            port.settimeout(SECONDS)
            port.connect(str(self._port))
            yield Port(port)


class Port:
    """The other end of the guest's second serial port."""

    def __init__(self, port: socket.socket) -> None:
        self._file = port.makefile("rwb")

    def send(self, raw: bytes) -> None:
        self._file.write(raw)
        self._file.flush()

    def ask(self, number: int, command: str) -> tuple[int, str]:
        """Run a command; return its status, and what it printed."""
        self.send(f"{number} {base64.b64encode(command.encode()).decode()}\n".encode())
        lines = []
        while not (line := self._file.readline()).startswith(b"END"):
            assert line, "the guest is gone"
            lines.append(line)
        assert lines[0] == f"BEGIN {number}\n".encode()
        _, seen, status = line.split()
        assert int(seen) == number
        return int(status), base64.b64decode(b"".join(lines[1:])).decode()


Start = Callable[..., Guest]


@pytest.fixture
def start(snp_machine: MachineBuild, tmp_path: Path) -> Iterator[Start]:
    """What starts a guest, which is gone after the test."""
    started: list[Guest] = []

    def guest(kernel: str, line: str = "", port: bool = True) -> Guest:
        started.append(Guest(snp_machine, made(kernel), tmp_path, line, port))
        return started[-1]

    yield guest
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.mark.parametrize("kernel", KERNELS)
def test_commands_are_served(start: Start, kernel: str) -> None:
    """Of each kernel: its modules are loaded, its file systems mounted, commands run."""
    booted = start(kernel)
    booted.wait_for("SNPTEST-GUEST userspace")
    with booted.connected() as port:
        port.send(b"noise\n\n\xff\xfe 1\n")
        assert port.ask(1, "uname -r; exit 7") == (7, f"{made(kernel).kernel.release}\n")
        loaded = port.ask(2, "cut -d' ' -f1 /proc/modules")[1].split()
        selected = [Path(each).name.partition(".")[0] for each in made(kernel).selection.files]
        wanted = {each.replace("-", "_") for each in selected} - {"sev_guest"}  # no SNP here
        assert wanted <= set(loaded)
        mounted = port.ask(3, "cat /proc/mounts")[1]
        for folder in ("/proc", "/sys", "/dev", "/tmp", "/sys/kernel/config"):
            assert f" {folder} " in mounted
        assert port.ask(4, "guestreq memory 20") == (0, "pages: 5120\nrounds: 1\nwrong: 0\n")
        assert re.fullmatch(r"value: 0x0*d01\n", port.ask(5, "guestreq msr 0xc0000080")[1])
        status, long = port.ask(6, f"#{'x' * 9000}\nseq 5000")
        assert (status, long.split()[-1]) == (0, "5000")
        port.send(f"7 {base64.b64encode(b'poweroff -f').decode()}\n".encode())
        assert booted.ends() == 0
    said = [line.partition("GUEST ")[2] for line in booted.printed().split("\n") if "GUEST" in line]
    failed = [line for line in said if line.startswith("module") and "sev_guest" not in line]
    assert failed == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("snptest.run=poweroff", "SNPTEST-GUEST userspace"),
        ("", "SNPTEST-GUEST has nothing to do: no second serial port"),
    ],
)
def test_a_guest_without_a_second_port_powers_off(start: Start, line: str, said: str) -> None:
    booted = start(catalogue.load().default_kernel, line, port=False)
    assert booted.ends() == 0
    assert said in booted.printed()
    assert "Power down" in booted.printed()
    assert "Kernel panic" not in booted.printed()
