# SPDX-License-Identifier: GPL-2.0-only
"""A virtual machine that stands for a remote host: it boots, takes logins, dies, comes back.

One QEMU, for all of the host's life: whatever resets it (a reboot, a panic with panic=N, its power
switch) boots the kernel that it was started with, the old one, as a host's default entry does.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import host_packages
from harness.kbuild import KernelBuild, buildid
from harness.machine.psp_process import PspProcess
from harness.ssh import hosts
from harness.ssh.connection import connect_again
from harness.vng.kinds import STOCK, Machine
from harness.vng.machine import Setup
from tests.sshd import Sshd

INIT = Path(__file__).parent / "data" / "box_init.py"
SEEN = "/tmp/disk"
"""Where the host sees its disk."""
UP_TIMEOUT = 180.0
PACKAGES = ("openssh-server", "openssh-client", "qemu-system-x86", "iproute2")
# LINUX_REBOOT_CMD_RESTART of linux/reboot.h: there is no systemd to ask.
REBOOT = """#!/usr/bin/python3 -I
import ctypes
ctypes.CDLL(None).reboot(0x01234567)
"""
# Both commands may go at once: QEMU takes them in their order.
RESET = """
import socket, sys
qmp = socket.socket(socket.AF_UNIX)
qmp.settimeout(20)
qmp.connect(sys.argv[1])
qmp.sendall(b'{"execute": "qmp_capabilities"} {"execute": "system_reset"}')
said = b""
while said.count(b'"return"') < 2:
    got = qmp.recv(4096)
    if not got:
        sys.exit(1)
    said += got
"""
PARAMETERS = (
    "console=ttyS0",
    "root=/dev/root",
    "rootfstype=9p",
    "rootflags=version=9p2000.L,trans=virtio,access=any,cache=loose",
    "ro",
    "panic=1",
)


class Box:
    """The host: its disk, its console, its power."""

    def __init__(self, keys: Sshd, old: KernelBuild, machine: Machine = STOCK) -> None:
        """`keys` is an sshd that does not run: its keys, its port, its hosts file are used."""
        self.keys = keys
        self.old = old
        self._setup = Setup(old.bzimage, machine, memory="1G")
        self.disk = keys.folder / "disk"
        self.console = keys.folder / "console.log"
        self.monitor = keys.folder / "qmp.sock"
        self._log = keys.folder / "qemu.log"
        self._qemu: subprocess.Popen[bytes] | None = None
        self._network: subprocess.Popen[bytes] | None = None
        self._firmware: PspProcess | None = None
        (self.disk / "bin").mkdir(parents=True)
        self.console.touch()
        (self.disk / "boots").touch()
        self.program("reboot", REBOOT)
        (keys.folder / "reset.py").write_text(RESET)
        shutil.copy(keys.host_key, self.disk / "host_key")
        (self.disk / "host_key").chmod(0o600)
        shutil.copy(keys.folder / "authorized", self.disk / "authorized")
        config = [
            "Port 22",
            f"HostKey {SEEN}/host_key",
            f"AuthorizedKeysFile {SEEN}/authorized",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "PidFile none",
            "PermitRootLogin yes",
            "Subsystem sftp internal-sftp",
            f"SetEnv PATH={SEEN}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ]
        (self.disk / "sshd_config").write_text("\n".join(config) + "\n")
        shutil.copy(INIT, keys.folder / "init.py")

    @property
    def boots(self) -> list[str]:
        """The build id of each kernel that came up, from the first on."""
        lines = (self.disk / "boots").read_text().split()
        return [buildid.of_notes(bytes.fromhex(line)) for line in lines]

    @property
    def power_cycle(self) -> str:
        """A command that presses the reset button."""
        words = [sys.executable, str(self.keys.folder / "reset.py"), str(self.monitor)]
        return shlex.join(words)

    def program(self, name: str, text: str) -> None:
        """Put a program into the host's path."""
        path = self.disk / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def get_kexec(self) -> None:
        """Give the host kexec-tools: unpacked, for installed they would serve this machine."""
        packages = self.keys.folder / "packages"
        (packages / "partial").mkdir(parents=True)
        command = ["apt-get", "-y", "-q", "--download-only", "--no-install-recommends"]
        command += ["-o", f"Dir::Cache::archives={packages}", "install", "kexec-tools"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert not done.returncode, done.stderr
        for package in packages.glob("*.deb"):
            where = str(self.disk / "packages")
            subprocess.run(["dpkg", "-x", str(package), where], check=True, timeout=60)
        folders = {str(path.parent.relative_to(self.disk)) for path in self.disk.rglob("*.so*")}
        libraries = ":".join(f"{SEEN}/{folder}" for folder in sorted(folders))
        program = f"{SEEN}/packages/sbin/kexec"
        self.program("kexec", f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {program} "$@"\n')

    def write_hosts(self, boot: str, **values: str) -> None:
        """Write the hosts file: `box` is this one; `boot` is an inline table's content."""
        self.keys.write_hosts(
            folder=f'"{SEEN}/kernels"',
            lock='"/run/lock/snptest.lock"',
            console=f"\"tail -n +1 -F '{self.console}'\"",
            boot=f"{{ {boot} }}",
            **({"boot_timeout": "150", "silence": "15"} | values),
        )

    def start(self) -> None:
        """Switch it on."""
        if self._setup.machine.psp:
            self._firmware = PspProcess(self._psp, self.keys.folder / "firmware.log")
            self._network = self._run(self._network_command(), "network.log")
            until = time.monotonic() + UP_TIMEOUT
            while not self._cable.exists():
                assert self._network.poll() is None
                assert time.monotonic() < until, "the network does not come up"
                time.sleep(0.1)
        self._qemu = self._run(self._command(), self._log.name)

    def _run(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.keys.folder / log).open("wb") as file:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def wait(self, boots: int = 1) -> None:
        """Wait until it has come up so often, and takes logins; `write_hosts` comes first."""
        assert self._qemu is not None
        until = time.monotonic() + UP_TIMEOUT
        while len(self.boots) < boots:
            assert self._qemu.poll() is None, self._log.read_text(errors="replace")
            assert time.monotonic() < until, self.console.read_text(errors="replace")[-2000:]
            time.sleep(0.1)
        connect_again(hosts.get("box"), until).close()

    def stop(self) -> None:
        """Switch it off."""
        for process in (self._qemu, self._network):
            if process is not None:
                process.kill()
                process.wait(30)
        if self._firmware is not None:
            self._firmware.stop()

    @property
    def _cable(self) -> Path:
        return self.keys.folder / "net.sock"

    @property
    def _users(self) -> str:
        """QEMU's own network, where the port of `keys` leads to the host's sshd."""
        forward = f"hostfwd=tcp:127.0.0.1:{self.keys.port}-10.0.2.15:22"
        return f"user,id=users,restrict=on,{forward}"

    def _network_command(self) -> list[str]:
        """Another QEMU that is nothing but that network: the SNP machine's has none built in."""
        return [
            STOCK.qemu,
            *("-machine", "none", "-nodefaults", "-display", "none"),
            *("-netdev", self._users),
            *("-netdev", f"stream,id=cable,server=on,addr.type=unix,addr.path={self._cable}"),
            *("-netdev", "hubport,id=one,hubid=0,netdev=users"),
            *("-netdev", "hubport,id=other,hubid=0,netdev=cable"),
        ]

    @property
    def _psp(self) -> Path:
        return self.keys.folder / "psp.sock"

    def _command(self) -> list[str]:
        machine = self._setup.machine
        shared = "security_model=none,multidevs=remap"
        cable = f"stream,id=users,server=off,addr.type=unix,addr.path={self._cable}"
        init = f"init=/usr/bin/python3 -- -I -S {self.keys.folder / 'init.py'}"
        return [
            machine.qemu,
            *("-m", self._setup.memory, "-smp", "2", "-display", "none", "-nodefaults"),
            *(self._setup.qemu_options(self._psp) if machine.psp else machine.options),
            *("-chardev", f"file,id=console,path={self.console},append=on"),
            *("-serial", "chardev:console"),
            *("-qmp", f"unix:{self.monitor},server=on,wait=off"),
            *("-virtfs", f"local,id=root,path=/,mount_tag=/dev/root,readonly=on,{shared}"),
            *("-virtfs", f"local,id=disk,path={self.disk},mount_tag=disk,{shared}"),
            *("-netdev", cable if machine.psp else self._users),
            *("-device", "virtio-net-pci,netdev=users,romfile="),
            *("-kernel", str(self.old.bzimage)),
            *("-append", " ".join((*PARAMETERS, init))),
        ]


def make(
    folder: Path, patch: pytest.MonkeyPatch, old: KernelBuild, machine: Machine = STOCK
) -> Box:
    """Make a host, switched off, and have hosts be found in its hosts file."""
    if os.geteuid() != 0:
        pytest.skip("the box's disk and its logins are root's")
    host_packages.ensure_packages(PACKAGES, "for tests of ssh")
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    patch.setenv("XDG_CACHE_HOME", cache)  # built kernels stay where they are
    keys = Sshd(folder)
    patch.setenv("HOME", str(keys.home))
    patch.setenv("SNPTEST_SSH_CONFIG", str(keys.configure()))
    patch.delenv("SSH_AUTH_SOCK", raising=False)
    patch.setenv("SNPTEST_HOSTS", str(keys.folder / "hosts.toml"))
    keys.trust()
    return Box(keys, old, machine)
