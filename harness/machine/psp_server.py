# SPDX-License-Identifier: GPL-2.0-only
"""The firmware process: python -m harness.machine.psp_server --socket PATH.

It waits at PATH for one machine's PSP device, answers its commands, and ends when the device or
the parent is gone.  It says "listening" on its output once a device may connect, and reports
refused commands and exceptions of the model on its error output.  PATH.ctl is for the harness
(harness.machine.control).  Exit code 0: the device closed the connection; 1: anything else.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from harness.machine.control import Control, control_path
from harness.machine.firmware import HARDWARE_ERROR, Firmware, Log
from harness.machine.protocol import (
    VERSION,
    Channel,
    Frame,
    FrameType,
    Hello,
    ProtocolError,
    pair,
)
from harness.orphan import die_with
from harness.uapi.psp import command_name

CONNECT_SECONDS = 120.0
"""Whoever starts the process starts QEMU right behind it."""

REFUSED = 1
"""Status of a WELCOME: this machine cannot be served."""


class Server:
    """Serves one device."""

    def __init__(self, channel: Channel, control: Control, seed: int, log: Log) -> None:
        self._channel, self._control, self._seed, self._log = channel, control, seed, log

    def serve(self) -> None:
        """Answer frames until the connection ends; ProtocolError, OSError, ValueError."""
        frame = self._channel.receive(CONNECT_SECONDS)
        if frame is None:
            return
        if frame.kind != FrameType.HELLO:
            raise ProtocolError(f"{frame.kind.name} before HELLO")
        firmware = self._greet(frame)
        while frame := self._channel.receive():
            match frame.kind:
                case FrameType.COMMAND:
                    status = self._command(firmware, *frame.command())
                    self._channel.send(pair(FrameType.RESULT, status))
                case FrameType.IOMMU:
                    firmware.set_iommu(frame.iommu())
                case FrameType.RESET:
                    firmware.reset()
                    self._log("reset")
                    self._welcome(0)
                case _:
                    _close(frame)
                    raise ProtocolError(f"{frame.kind.name} out of turn")

    def _greet(self, frame: Frame) -> Firmware:
        try:
            hello = Hello.decode(frame.payload, list(frame.fds))
            firmware = Firmware(hello, seed=self._seed, log=self._log)
        except (ProtocolError, ValueError, OSError):
            self._welcome(REFUSED)
            raise
        finally:
            _close(frame)
        self._control.firmware = firmware
        self._welcome(0)
        return firmware

    def _welcome(self, status: int) -> None:
        self._channel.send(pair(FrameType.WELCOME, VERSION, status))

    def _command(self, firmware: Firmware, number: int, address: int) -> int:
        try:
            return firmware.command(number, address)
        except Exception:  # noqa: BLE001  a bug of the model must not end the machine
            self._log(f"{command_name(number)} at 0x{address:x}: exception in the model")
            self._log(traceback.format_exc())
            return HARDWARE_ERROR


def _close(frame: Frame) -> None:
    for fd in frame.fds:
        os.close(fd)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    return listener


def _stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _listening() -> None:
    print("listening", flush=True)


def run(path: Path, seed: int, log: Log, listening: Callable[[], None]) -> int:
    """Listen, say so, serve one device, clean up; the exit code."""
    with _listen(path) as listener, _listen(control_path(path)) as queries:
        try:
            control = Control(queries)
            control.start()
            listening()
            listener.settimeout(CONNECT_SECONDS)
            connection, _ = listener.accept()
            channel = Channel(connection)
            try:
                Server(channel, control, seed, log).serve()
            finally:
                channel.close()
        except (ProtocolError, OSError, ValueError) as error:
            log(f"psp_server: {error}")
            return 1
        finally:
            path.unlink(missing_ok=True)
            control_path(path).unlink(missing_ok=True)
    return 0


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="psp_server", description="PSP firmware of a machine")
    parser.add_argument("--socket", type=Path, required=True, help="where the device connects")
    parser.add_argument("--seed", type=int, default=0, help="chip and keys (default: 0)")
    parser.add_argument("--parent", type=int, help="process without which this one is to end")
    arguments = parser.parse_args()
    if arguments.parent is not None:
        die_with(arguments.parent)
    try:
        return run(arguments.socket, arguments.seed, _stderr, _listening)
    except OSError as error:
        _stderr(f"psp_server: {arguments.socket}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
