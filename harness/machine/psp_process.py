# SPDX-License-Identifier: GPL-2.0-only
"""Starting and ending the firmware process, for whoever starts QEMU."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from harness.errors import BootError
from harness.machine.control import ask
from harness.places import ROOT

START_SECONDS = 60.0
STOP_SECONDS = 10.0
_TAIL = 2000


class PspProcess:
    """The firmware of one machine, listening at `socket` once this is made.

    It ends with the machine (the device's connection) and with this process's thread that
    started it.  What it says goes to `log`.  BootError when it does not come up.
    """

    def __init__(self, socket: Path, log: Path, *, seed: int = 0) -> None:
        self.socket, self.log = socket, log
        command = [sys.executable, "-m", "harness.machine.psp_server", "--socket", str(socket)]
        command += ["--seed", str(seed), "--parent", str(os.getpid())]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert self._process.stdout is not None
        if not _says_listening(self._process.stdout):
            self.stop()
            tail = log.read_text(errors="replace")[-_TAIL:].strip()
            raise BootError("the PSP firmware process did not start", tail or f"see {log}")

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def state(self) -> dict[str, Any]:
        """Guests, ASIDs in use, commands so far: see harness.machine.control."""
        return ask(self.socket)

    def endorsement(self, name: str) -> bytes:
        """A certificate of the machine's chip in DER, or a hashstick; ValueError where unknown."""
        answer = ask(self.socket, {"endorsement": name})
        if "error" in answer:
            raise ValueError(answer["error"])
        return bytes.fromhex(answer["endorsement"])

    def wait(self, timeout: float = STOP_SECONDS) -> int:
        """The exit code; subprocess.TimeoutExpired while it still runs."""
        return self._process.wait(timeout)

    def stop(self) -> None:
        """End it, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _says_listening(output: IO[bytes]) -> bool:
    line, end = b"", time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(end - time.monotonic(), 0)):
                return False
            part = os.read(output.fileno(), 1)
            if not part:
                return False
            line += part
    return line == b"listening\n"
