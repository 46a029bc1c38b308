# SPDX-License-Identifier: GPL-2.0-only
"""The firmware process's server in a thread of the test: a second less than a process."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Any

from harness.machine.control import ask
from harness.machine.psp_server import run

SECONDS = 20.0


class FirmwareThread:
    """Listens at a path until one device has come and gone."""

    def __init__(self, path: Path, *, seed: int = 0) -> None:
        self.socket, self.lines = path, list[str]()
        self._codes: list[int] = []
        listening = threading.Event()
        self._thread = threading.Thread(
            target=lambda: self._codes.append(run(path, seed, self.lines.append, listening.set)),
            daemon=True,
        )
        self._thread.start()
        assert listening.wait(SECONDS)

    def wait(self) -> int:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the server goes on"
        return self._codes[0]

    def log(self) -> str:
        return "\n".join(self.lines)

    def state(self) -> dict[str, Any]:
        return ask(self.socket)

    def end(self) -> None:
        """Where no device came, let one come, only to leave again."""
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
            contextlib.suppress(FileNotFoundError, ConnectionRefusedError),
        ):
            client.connect(str(self.socket))
        self.wait()
