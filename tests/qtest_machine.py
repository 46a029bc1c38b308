# SPDX-License-Identifier: GPL-2.0-only
"""The machine's QEMU with its CPUs stopped, driven through the qtest protocol.

What a CPU would do to devices and memory, qtest does from here (QEMU, system/qtest.c).
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from harness.machine import installed

MEMORY = 128 << 20
SECONDS = 30.0
BAR, BAR_INDEX = 0xE0000000, 2
_CONFIG_ADDRESS, _CONFIG_DATA = 0xCF8, 0xCFC
_SLOT = 5
_FIRMWARE = Path("/usr/share/seabios"), Path("/usr/share/qemu")


def find_qemu() -> str | None:
    """The QEMU that SNPTEST_MACHINE_QEMU names, if it does."""
    named = os.environ.get("SNPTEST_MACHINE_QEMU")
    return shutil.which(named) if named else None


def firmware_folders() -> list[Path]:
    """Where QEMU finds SeaBIOS: beside what was built, else in the distribution's packages."""
    built = installed.find()
    return [built.firmware] if built is not None else list(_FIRMWARE)


class _Lines:
    """A unix socket on which both sides speak in lines."""

    def __init__(self, listener: socket.socket, peer: int) -> None:
        """Take the connection of process `peer`, which may end instead: ConnectionError."""
        ended = os.pidfd_open(peer)
        try:
            ready, _, _ = select.select([listener.fileno(), ended], [], [], SECONDS)
        finally:
            os.close(ended)
        if listener.fileno() not in ready:
            raise ConnectionError("QEMU ended" if ready else "QEMU does not connect")
        self._socket, _ = listener.accept()
        self._socket.settimeout(SECONDS)
        self._file = self._socket.makefile("rb")

    def send(self, line: str) -> None:
        self._socket.sendall(line.encode() + b"\n")

    def receive(self) -> str:
        line = self._file.readline()
        if not line:
            raise ConnectionError("QEMU ended")
        return line.decode().rstrip()

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class QtestMachine:
    """A machine with a PSP whose firmware listens at `firmware`, and its PCI functions."""

    def __init__(self, qemu: str, firmware: Path, directory: Path, *extra: str) -> None:
        listeners = {}
        for name in ("qtest", "qmp"):
            listeners[name] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listeners[name].bind(str(directory / name))
            listeners[name].listen()
        self.log = directory / "qemu.log"
        command = [qemu, "-nodefaults", "-no-user-config", "-display", "none", "-S"]
        command += ["-machine", "q35,accel=tcg,x-snp-host=on,memory-backend=ram"]
        command += ["-cpu", "EPYC-Milan,xlevel=0x80000021,x-snp-host=on", "-m", f"{MEMORY >> 20}M"]
        command += ["-object", f"memory-backend-memfd,id=ram,size={MEMORY},share=on"]
        command += ["-chardev", f"socket,id=psp,path={firmware}"]
        command += ["-device", f"snp-psp,id=psp,chardev=psp,addr={_SLOT},timeout-ms=2000"]
        command += ["-qtest", f"unix:{directory / 'qtest'}", "-qtest-log", "none"]
        command += ["-qmp", f"unix:{directory / 'qmp'}", *extra]
        for where in firmware_folders():
            command += ["-L", str(where)]
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            self._qmp = _Lines(listeners["qmp"], self._process.pid)
            self._qtest = _Lines(listeners["qtest"], self._process.pid)
        except ConnectionError as error:
            self._process.kill()
            self._process.wait(SECONDS)
            raise AssertionError(f"{error}: {self.log.read_text()}") from None
        finally:
            for listener in listeners.values():
                listener.close()
        self._events: list[str] = []
        self._qmp.receive()
        self.qmp("qmp_capabilities")

    def close(self) -> None:
        """End QEMU."""
        self._process.kill()
        self._process.wait(SECONDS)
        self._qtest.close()
        self._qmp.close()

    def ended(self) -> int:
        """Wait for QEMU to end by itself; its exit code."""
        return self._process.wait(SECONDS)

    # -- the two protocols -----------------------------------------------------------------

    def qtest(self, *words: object) -> str:
        """One command; what follows OK."""
        self._qtest.send(" ".join(str(word) for word in words))
        while (line := self._qtest.receive()).startswith("IRQ "):
            pass
        assert line.split()[0] == "OK", line
        return line[3:]

    def qmp(self, command: str, **arguments: Any) -> Any:
        """One command; its result."""
        self._qmp.send(json.dumps({"execute": command, "arguments": arguments}))
        while True:
            answer = json.loads(self._qmp.receive())
            if "event" in answer:
                self._events.append(answer["event"])
            else:
                assert "error" not in answer, answer
                return answer["return"]

    def until(self, event: str) -> None:
        """Wait for a QMP event that was not waited for before."""
        while event not in self._events:
            self._events.append(json.loads(self._qmp.receive())["event"])
        self._events.clear()

    # -- memory and registers --------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        """Bytes of physical memory."""
        return bytes.fromhex(self.qtest("read", hex(address), length)[2:])

    def write(self, address: int, data: bytes) -> None:
        """Bytes into physical memory."""
        if data:
            self.qtest("write", hex(address), len(data), "0x" + data.hex())

    def readl(self, address: int) -> int:
        """A 32-bit access."""
        return int(self.qtest("readl", hex(address)), 16)

    def writel(self, address: int, value: int) -> None:
        """A 32-bit access."""
        self.qtest("writel", hex(address), hex(value))

    def config(self, offset: int, value: int | None = None) -> int:
        """Read or write a dword of the PSP's configuration space."""
        self.qtest("outl", _CONFIG_ADDRESS, hex(1 << 31 | _SLOT << 11 | offset))
        if value is not None:
            self.qtest("outl", _CONFIG_DATA, hex(value))
        return int(self.qtest("inl", _CONFIG_DATA), 16)

    def map_psp(self, message: int, data: int) -> None:
        """What the PCI core and the driver do: BAR, bus master, MSI to a place in memory."""
        self.config(0x10 + 4 * BAR_INDEX, BAR)
        self.config(0x04, 0x6)
        capability = self.config(0x34) & 0xFF
        while self.config(capability) & 0xFF != 0x05:
            capability = self.config(capability) >> 8 & 0xFF
        self.config(capability + 4, message)
        self.config(capability + 8, 0)
        self.config(capability + 12, data)
        self.config(capability, self.config(capability) | 1 << 16)
