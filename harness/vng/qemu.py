# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU process: on a leash, with its console in a file and its end known."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TextIO

from harness import leash as leash_program
from harness.operations import TargetError
from harness.vng.consolelog import ConsoleLog
from harness.vng.init import MARK
from harness.vng.machine import Paths
from harness.vng.monitor import Monitor
from harness.vng.snp import Firmware

STOP_TIMEOUT = 10.0


_STOPPED = ("T", "t")
_CONSOLE = re.compile(r"^(file,id=console,path=/proc/self/fd/)2$")


class Qemu:
    """One QEMU and what it prints: its messages and the console of its guest."""

    def __init__(
        self, paths: Paths, command: list[str], *, stdio: bool = False, psp: bool = False
    ) -> None:
        """Start it; with `stdio` our input and output are its own, but for the console.

        With `psp` the firmware of its PSP is started first.
        """
        self._paths = paths
        self._earlier = 0
        """Bytes of its log of CPU resets that are of earlier boots."""
        self._firmware = Firmware(paths.psp, paths.firmware) if psp else None
        scratch = paths.scratch
        reader, writer = os.pipe2(os.O_CLOEXEC)
        command = [_CONSOLE.sub(rf"\g<1>{writer}", word) for word in command]
        leash = [sys.executable, "-I", "-S", str(Path(leash_program.__file__)), str(scratch)]
        if stdio and not os.isatty(0):
            # The leash has a standard input of its own.
            source = os.dup(0)
            leash.append(f"stdin:{source}")
        else:
            source = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.leash = subprocess.Popen(
            [*leash, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if stdio else writer,
            stderr=subprocess.PIPE if stdio else writer,
            pass_fds=(writer, source),
            env={**os.environ, "TMPDIR": str(scratch)},
            start_new_session=True,
        )
        os.close(writer)
        os.close(source)
        # Not our own: QEMU opens them anew, which empties a file and writes from its start.
        self._pumps = [
            threading.Thread(target=_pump, args=(pipe, own), daemon=True)
            for pipe, own in ((self.leash.stdout, sys.stdout), (self.leash.stderr, sys.stderr))
            if pipe is not None
        ]
        for pump in self._pumps:
            pump.start()
        self.console = ConsoleLog(paths.console, reader)
        self.monitor = Monitor(paths.monitor)
        if self._firmware is not None:
            assert self.leash.stdin is not None
            self._firmware.watch(self._runs, self.leash.stdin.close)

    @property
    def firmware_death(self) -> str | None:
        """What the firmware of its PSP died of; None where it lives, or QEMU went first."""
        return self._firmware.death if self._firmware is not None else None

    def _runs(self, seconds: float) -> bool:
        """Whether it does not end within some seconds."""
        return self.ended(seconds) is None

    def accept(self, listener: socket.socket, deadline: float) -> socket.socket:
        """Wait for QEMU to connect; TargetError when it ends or takes too long."""
        ended = os.pidfd_open(self.leash.pid)
        try:
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            poll.register(ended, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(max(deadline - time.monotonic(), 0) * 1000)}
        finally:
            os.close(ended)
        if listener.fileno() in ready:
            return listener.accept()[0]
        if ready:
            raise TargetError(f"QEMU did not start (status {self.leash.wait(1)})")
        raise TargetError("QEMU did not connect in time")

    def ended(self, timeout: float = 0.0) -> int | None:
        """Return the exit status (128 + signal where one killed it); None while it runs."""
        try:
            return self.leash.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stopped(self) -> bool:
        """Whether somebody stopped the process (SIGSTOP, a debugger)."""
        for pid in _children(self.leash.pid):
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if stat[stat.rindex(")") + 2 :].split()[0] in _STOPPED:
                return True
        return False

    def triple_fault(self) -> bool:
        """Whether a CPU faulted its way out (known without acceleration only)."""
        return b"Triple fault" in self._resets()[self._earlier :]

    def forget_resets(self) -> None:
        """Count none of the resets that were, for they led to the boot that runs."""
        self._earlier = len(self._resets())

    def _resets(self) -> bytes:
        try:
            return self._paths.resets.read_bytes()
        except FileNotFoundError:
            return b""

    def guest_has_gone(self) -> bool:
        """Whether the console or the monitor says that the guest is at its end."""
        last = self.console.tail()
        ending = ("Kernel panic", "reboot: ", MARK, "sysrq: Resetting")
        return self.monitor.shutdown_reason is not None or any(each in last for each in ending)

    def drain(self, timeout: float = 10.0) -> None:
        """Wait until all that an ended QEMU printed has been passed on."""
        for pump in self._pumps:
            pump.join(timeout)

    def stop(self) -> None:
        """Let go of the leash: QEMU and all are killed."""
        self.monitor.close()
        assert self.leash.stdin is not None
        self.leash.stdin.close()
        if self.ended(STOP_TIMEOUT) is None:
            self.leash.kill()
            self.leash.wait(STOP_TIMEOUT)
        if self._firmware is not None:
            self._firmware.stop()
        self.console.close()
        self._paths.resets.unlink(missing_ok=True)


def _pump(pipe: IO[bytes], own: TextIO) -> None:
    """Pass on what comes; by the command line's own stream, which notices what gets lost."""
    with pipe:
        while data := os.read(pipe.fileno(), 1 << 16):
            # Our reader may have gone; QEMU must not be held up.
            with contextlib.suppress(OSError):
                own.buffer.write(data)
                own.buffer.flush()


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
