# SPDX-License-Identifier: GPL-2.0-only
"""A second socket to the firmware process, on which the harness reads its state.

One line of JSON each way per connection.  `{}` is answered with Firmware.state(),
`{"endorsement": NAME}` with `{"endorsement": HEX}`, `{"rmp": ADDRESS}` with the fields of that
page's entry, `{"memory": ADDRESS, "length": N}` with `{"memory": HEX}` (a page at most),
`{"count": "assigned_pages"}` with the number of the guests' pages, `{"count": "firmware_pages"}`
with that of its own, anything else with `{"error": WHY}`.
"""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

from harness.emulator.memory import PAGE_SIZE, BusError
from harness.emulator.psp.status import Refused
from harness.machine.firmware import Firmware

SECONDS = 10.0
"""A client that has not asked or not read its answer by then is dropped."""

_LINE = 4096


def control_path(path: Path) -> Path:
    """Where the control socket of the firmware at `path` is."""
    return path.with_name(path.name + ".ctl")


def ask(path: Path, question: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the firmware whose socket is at `path`; OSError when nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(SECONDS)
        client.connect(str(control_path(path)))
        client.sendall(json.dumps(question or {}).encode() + b"\n")
        with client.makefile("rb") as lines:
            answer = json.loads(lines.readline() or b"null")
    if not isinstance(answer, dict):
        raise ConnectionError("the firmware process closed its control socket")
    return answer


class Control(threading.Thread):
    """Answers questions on a listening socket until the process ends."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(name="control", daemon=True)
        self._listener = listener
        self.firmware: Firmware | None = None
        """Set when the device has greeted."""

    def run(self) -> None:
        """Serve one client after the other."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the process ends
                return
            with client:
                client.settimeout(SECONDS)
                try:
                    self._serve(client)
                except OSError as error:  # the client's loss, not ours
                    print(f"control: {error}", flush=True)

    def _serve(self, client: socket.socket) -> None:
        with client.makefile("rb") as lines:
            line = lines.readline(_LINE)
        client.sendall(json.dumps(self.answer(line)).encode() + b"\n")

    def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to one line."""
        try:
            question = json.loads(line or b"{}")
        except ValueError as error:
            return {"error": f"not JSON: {error}"}
        if self.firmware is None:
            return {"error": "no machine yet"}
        if question == {}:
            return self.firmware.state()
        try:
            return _look(self.firmware, question)
        except (Refused, ValueError, BusError) as error:
            return {"error": str(error)}


def _look(firmware: Firmware, question: object) -> dict[str, Any]:
    match question:
        case {"endorsement": str(name)}:
            return {"endorsement": firmware.endorsement(name).hex()}
        case {"rmp": int(address)}:
            entry = firmware.entry(address)
            fields = ("assigned", "asid", "gpa", "validated", "vmsa", "immutable")
            return {name: getattr(entry, name) for name in fields} | {"size": int(entry.size)}
        case {"memory": int(address), "length": int(length)} if 0 <= length <= PAGE_SIZE:
            return {"memory": firmware.memory(address, length).hex()}
        case {"count": "assigned_pages"}:
            return {"assigned_pages": firmware.assigned_pages()}
        case {"count": "firmware_pages"}:
            return {"firmware_pages": firmware.firmware_pages()}
    raise ValueError("unknown question")
