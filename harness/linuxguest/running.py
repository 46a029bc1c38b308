# SPDX-License-Identifier: GPL-2.0-only
"""A Linux guest that runs on the host under test: console, commands, QEMU's monitor, its end."""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Self

from harness.kernel import Kernel
from harness.linuxguest.console import Console
from harness.linuxguest.definition import CHANNELS, COMMANDS, CONSOLE, MONITOR, LinuxGuest
from harness.operations import TargetError, TargetTimeoutError
from harness.report import sanitize
from harness.splats import find_splats
from harness.vng.monitor import Monitor, MonitorError

USERSPACE = r"SNPTEST-GUEST userspace"
"""What a guest's init prints when it is ready (guests/linux/init)."""
LIFETIME = 1800.0
"""Seconds after which the host ends a guest, whoever may have forgotten it."""
BOOT_TIMEOUT = 900.0
COMMAND_TIMEOUT = 300.0
END_TIMEOUT = 120.0
_SETTLE = 2.0
"""Seconds that QEMU's last event may take behind its end."""
_POLL = 0.2
_STOPPED = "internal-error"
"""State of a guest that QEMU does not run any more, and does not end (qapi/run-state.json)."""
_TERMINATION = re.compile(r"^KVM: unknown exit reason 24$", re.MULTILINE)
"""KVM_EXIT_SYSTEM_EVENT, of which QEMU 10 knows all of x86 but KVM_SYSTEM_EVENT_SEV_TERM."""


class GuestError(AssertionError):
    """The guest did not do what was waited for: it is silent, failed a command, or has ended."""


class How(Enum):
    """What became of a guest."""

    POWERED_OFF = "powered itself off"
    RESET = "reset itself"
    PANICKED = "told the host of a panic"
    TERMINATED = "asked the host to terminate it"
    """By the GHCB protocol.  QEMU 10 stops its vCPUs and goes on itself; 11 tells of a panic."""
    KILLED = "was killed"
    STOPPED = "was stopped by QEMU"
    """QEMU does not know how to go on with a vCPU."""
    FAILED = "was ended by QEMU"


@dataclass(frozen=True, slots=True)
class End:
    """How a guest ended."""

    how: How
    detail: str
    """QEMU's status and last words."""

    def __str__(self) -> str:
        return f"{self.how.value} ({self.detail})"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command in the guest gave."""

    status: int
    output: str
    """Standard output and error; untrusted."""


class RunningGuest:
    """A guest, from the start of its QEMU on; as a context manager it is killed at the end.

    GuestError tells of the guest's faults, TargetError of the host's.
    """

    def __init__(
        self, kernel: Kernel, guest: LinuxGuest, qemu: Sequence[str], lifetime: float = LIFETIME
    ) -> None:
        """Start QEMU on a host: `qemu` is the program there, with options of its own."""
        self.guest = guest
        self._numbers = itertools.count(1)
        self._killed = False
        self._stops = 0
        self._stopped = False
        self._began = time.monotonic()
        argv = [*qemu, *guest.arguments()]
        self._program = kernel.start_program(argv, channels=CHANNELS, timeout=lifetime)
        self.said = Console(self._program.output)
        """What QEMU prints."""
        self.console = Console(self._program.channel(CONSOLE))
        self._commands = Console(self._program.channel(COMMANDS))
        self._socket = self._program.bridge(MONITOR)
        self._monitor = Monitor(self._socket)

    @property
    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    @property
    def ended(self) -> bool:
        """Whether its life is over: QEMU has ended, or has stopped it for good."""
        return self._gone or self._stopped_for_good()

    @property
    def _gone(self) -> bool:
        """Whether QEMU has ended."""
        return self._program.ended is not None

    def _stopped_for_good(self) -> bool:
        """Ask QEMU for the guest's state, once for each time that it was stopped."""
        count = len(self.events("STOP"))
        if count != self._stops:
            try:
                self._stopped = self._monitor.ask("query-status")["status"] == _STOPPED
            except MonitorError:
                return self._stopped  # it ends, and is asked no more
            self._stops = count
        return self._stopped

    def see(self, pattern: str, timeout: float) -> str:
        """Wait until the guest has printed a pattern; return what matched."""
        match = self.console.wait(pattern, timeout, lambda: self.ended)
        if match is None:
            raise self._missed(f"{pattern!r} on its console", timeout)
        return match[0]

    def userspace(self, timeout: float = BOOT_TIMEOUT) -> Self:
        """Wait until the guest's init takes commands; return the guest."""
        self.see(USERSPACE, timeout)
        self._connected(COMMAND_TIMEOUT)  # or its end would be told to nobody
        return self

    def run(self, command: str, timeout: float = COMMAND_TIMEOUT) -> Answer:
        """Run a command of the guest's shell; return its status and what it printed."""
        number = self.begin(command)
        match = self._commands.wait(
            rf"^BEGIN {number}\r?\n((?:[A-Za-z0-9+/=]*\r?\n)*)END {number} (\d+)\r?$",
            timeout,
            lambda: self.ended,
        )
        if match is None:
            raise self._missed(f"the end of {sanitize.line(command, 80)!r}", timeout)
        output = base64.b64decode(match[1]).decode(errors="replace")
        return Answer(int(match[2]), output)

    def begin(self, command: str) -> int:
        """Start a command and go on: for one that ends the guest."""
        number = next(self._numbers)
        line = f"{number} {base64.b64encode(command.encode()).decode()}\n"
        try:
            self._program.channel(COMMANDS).send(line.encode())
        except BrokenPipeError:
            raise self._missed(f"{sanitize.line(command, 80)!r} to be taken", 0) from None
        return number

    def shell(self, command: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a command that has to succeed; return what it printed."""
        answer = self.run(command, timeout)
        if answer.status:
            said = sanitize.line(answer.output.strip() or "nothing", 160)
            raise GuestError(
                f"{sanitize.line(command, 80)!r} gave {answer.status} in the guest: {said}"
            )
        return answer.output

    def press(self, keys: bytes) -> None:
        """Send bytes to the guest's console; BrokenPipeError where QEMU has gone."""
        self._program.channel(CONSOLE).send(keys)

    def ask(self, command: str, timeout: float = 30.0, **arguments: object) -> Any:
        """Put a question to QEMU's monitor; GuestError where it refuses or is silent."""
        self._connected(timeout)
        try:
            return self._monitor.ask(command, timeout, **arguments)
        except MonitorError as error:
            raise GuestError(f"QEMU's monitor: {error}") from None

    def _connected(self, timeout: float) -> None:
        """Wait for QEMU's monitor."""
        try:
            self._monitor.connected(timeout)
        except MonitorError as error:
            raise GuestError(str(error)) from None

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what QEMU told of events of a name, in their order."""
        return [each for each in self._monitor.events if each.get("event") == name]

    def kill(self) -> None:
        """End QEMU by SIGKILL, and wait for that."""
        self._killed = True
        self._program.kill()
        self._program.wait(END_TIMEOUT)

    def end(self, timeout: float = END_TIMEOUT) -> End:
        """Wait until the guest has ended; return how."""
        until = time.monotonic() + timeout
        while not self.ended:
            left = until - time.monotonic()
            if left <= 0:
                raise self._missed("its end", timeout)
            with contextlib.suppress(TargetTimeoutError):
                self._program.wait(min(left, _POLL))
        return self._end()

    def close(self) -> None:
        """Kill it where it still runs, and give back what belongs to it."""
        try:
            if not self._gone:
                self.kill()
        finally:
            self._monitor.close()
            self._socket.close()

    def _end(self) -> End:
        ending = self._program.ended
        if ending is None:
            return self._stop()
        last = [line for line in self.said.tail.splitlines() if line.strip()][-1]
        detail = f"QEMU {ending}"
        if ending.status != 0:
            return End(How.KILLED if self._killed else How.FAILED, f"{detail}: {last}")
        until = time.monotonic() + _SETTLE
        while self._monitor.shutdown_reason is None and time.monotonic() < until:
            time.sleep(0.01)
        reason = self._monitor.shutdown_reason
        how = {
            "guest-shutdown": How.POWERED_OFF,
            "guest-reset": How.RESET,
            "guest-panic": How.PANICKED,
        }.get(reason or "", How.FAILED)
        if how is How.PANICKED and self._panic_type() == "sev":
            how = How.TERMINATED
        return End(how, f"{detail}, reason {reason}")

    def _panic_type(self) -> str:
        """Return what QEMU says a panic is of: 11 and newer tell a termination so."""
        told = [each["data"].get("info", {}) for each in self.events("GUEST_PANICKED")]
        return str(told[-1].get("type", "")) if told else ""

    def _stop(self) -> End:
        """Say why QEMU has stopped a guest."""
        said = sanitize.text(self.said.text)
        how = How.TERMINATED if _TERMINATION.search(said) else How.STOPPED
        reasons = [line for line in said.splitlines() if line.startswith(("KVM: ", "error: "))]
        return End(how, f"QEMU runs, state {_STOPPED}: {sanitize.line(' '.join(reasons[-1:]))}")

    def _missed(self, what: str, timeout: float) -> GuestError:
        """Say what was waited for, and what was seen last."""
        if self.console.at_end and not self._gone:
            self._program.wait(END_TIMEOUT)  # QEMU closes it a moment before it ends
        if self.ended:
            return GuestError(
                f"waited for {what}, but the guest {self._end()}\n{self._complaint()}"
                f"its console ended with:\n{self.console.tail}"
            )
        return GuestError(
            f"waited for {what}: not within {timeout:.0f} s\n{self._complaint()}"
            f"its console ended with:\n{self.console.tail}\nQEMU said: {self.said.tail}"
        )

    def _complaint(self) -> str:
        """Return what the guest's kernel complained of first, if it did: lines to be shown."""
        splats = find_splats(self.console.text.replace("\r", ""))
        return f"its kernel complained first:\n{splats[0].block}\n" if splats else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except TargetError:
            if error is None:
                raise  # else the first error tells more
