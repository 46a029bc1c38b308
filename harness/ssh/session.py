# SPDX-License-Identifier: GPL-2.0-only
"""One run's use of one host: connections come and go, the host and its kernel stay the same."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import secrets
import socket
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from harness.errors import HostError, UserError
from harness.kbuild import buildid
from harness.kernel import Death, ReadFile, TargetError, Ticket, WriteFile
from harness.preflight import examine
from harness.preflight.judge import why_not
from harness.report import sanitize
from harness.ssh.connection import RETRY, Connection, Unreachable, connect_again
from harness.ssh.console import Console
from harness.ssh.hosts import Host
from harness.ssh.link import AgentLink, Loss, LossKind
from harness.ssh.remote import look
from harness.vng.autopsy import Evidence, Kind, judge
from harness.wire import RemoteKernel

ANSWER_TIMEOUT = 5.0
POWER_TIMEOUT = 120.0
"""Seconds that a power-cycle command may take."""
_LAST_THREAD = 0xFFFF

CONNECTION_LOST = "connection lost"
HOST_LOST = "host lost"
HOST_SILENT = "host silent"
AGENT_HANGS = "agent hangs"
"""Kinds of death beside those of harness/vng/autopsy.py."""


@dataclass(frozen=True, slots=True)
class Boot:
    """Which kernel runs on a host, and since which boot."""

    id: str
    release: str
    version: str
    build_id: str
    """From /sys/kernel/notes; "" where they have none."""

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Boot:
        """Read what the host said."""
        names = ("boot_id", "release", "version")
        try:
            notes = bytes.fromhex(str(facts.get("notes", "")))
        except ValueError:
            notes = b""
        boot, release, version = (sanitize.line(str(facts.get(name, "")), 200) for name in names)
        return cls(boot, release, version, buildid.of_notes(notes))

    def same_kernel(self, other: Boot) -> bool:
        """Whether both are boots of the same build."""
        mine, theirs = (self.release, self.version), (other.release, other.version)
        return mine == theirs and self.build_id == other.build_id

    def __str__(self) -> str:
        return f"{self.release} {self.version} (build id {self.build_id[:12] or 'none'})"


class Session:
    """A host for the time of a run."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.boot: Boot | None = None
        """What ran when the host was used first: results are of that kernel."""
        self.snp_hint: str | None = None
        """Why no SNP guests run there, in one line; None where they do, or before `open`."""
        self._examined = False
        self.console = Console(host)
        self._token = secrets.token_hex(16)
        self._connection: Connection | None = None
        self._met = 0.0
        """When that was, by the host's clock."""

    def open(self) -> SshKernel:
        """Start an agent there; HostError where the host is not fit, or not what it was.

        The first time it answers at once or not at all; later it is waited for.
        """
        deadline = time.monotonic() + self.host.boot_timeout
        while True:
            try:
                return self._opened(deadline)
            except Unreachable:
                self._disconnect()
                if self.boot is None or time.monotonic() + RETRY > deadline:
                    raise
            time.sleep(RETRY)

    def _opened(self, deadline: float) -> SshKernel:
        link = AgentLink(self._connected(deadline), self._token, _who())
        try:
            self._compare(link.facts)
            if why := self._unfit(link.facts):
                raise HostError(
                    f"{self.host.name}: {sanitize.line(why, 200)}",
                    f"snptest doctor --host {self.host.name}",
                )
            if not self._examined:
                self._examine()
            self.console.start()
            self.console.mark()
            return SshKernel(self, link)
        except TargetError as error:
            link.close()
            raise HostError(f"{self.host.name}: the agent did not start: {error}") from None
        except BaseException:
            link.close()
            raise

    def close(self) -> None:
        """Give the connection up, and the console."""
        self._disconnect()
        self.console.close()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self, deadline: float) -> Connection:
        if self._connection is not None and self._connection.active:
            return self._connection
        self._disconnect()
        if self.boot is None:
            self._connection = Connection(self.host)
        else:
            self._connection = connect_again(self.host, deadline)
        return self._connection

    def _examine(self) -> None:
        """Find out, once, whether SNP guests can run there: tests that need it skip with that."""
        self._examined = True
        assert self._connection is not None
        try:
            findings, _ = examine.there(self._connection)
        except HostError as error:
            self.snp_hint = f"the host could not be examined: {error.message}"
            return
        self.snp_hint = why_not(findings)

    @staticmethod
    def _unfit(facts: dict[str, Any]) -> str | None:
        """Say why nothing can be tested there, though one can log in."""
        return str(facts["kvm"]) if facts.get("kvm") else None

    def _compare(self, facts: dict[str, Any]) -> None:
        found = Boot.of(facts)
        if self.boot is not None and not found.same_kernel(self.boot):
            raise HostError(
                f"{self.host.name}: it came back with another kernel: {found}, not {self.boot}",
                "what has run so far was the latter; make it the default, or run again",
            )
        self.boot = found
        now = facts.get("now")
        self._met = float(now) if isinstance(now, int | float) else 0.0

    def what_happened(self, loss: Loss) -> tuple[Death, str]:
        """Find out, after the connection was lost, what became of the host; its last words too."""
        assert self.boot is not None
        began = time.monotonic()
        self._disconnect()
        try:
            facts = self._look_again(began + self.host.boot_timeout)
        except UserError as error:
            return self._gone(loss, error, time.monotonic() - began)
        waited = f"{time.monotonic() - began:.0f} s"
        if Boot.of(facts).id == self.boot.id:
            summary = f"{loss.text}; the host runs on, found again after {waited}"
            return Death(CONNECTION_LOST, summary, blameless=True), ""
        # pstore keeps the levels that dmesg leaves out.
        kept = re.sub(r"^<\d+>", "", str(facts.get("pstore", "")), flags=re.MULTILINE)
        words = kept if kept.strip() else self.console.said()
        back = f"the host was back, booted anew, after {waited}"
        death = _judged(words)
        if death is None:
            return Death(Kind.RESET.value, f"{back}; neither pstore nor console says why"), words
        return Death(death.kind, f"{death.summary}; {back}"), words

    def _look_again(self, deadline: float) -> dict[str, Any]:
        while True:
            self._connection = connect_again(self.host, deadline)
            try:
                return look(self._connection, self._met)
            except Unreachable:
                # It went down behind the connection: sshd is among the last to stop.
                self._disconnect()
                if time.monotonic() > deadline:
                    raise

    def _gone(self, loss: Loss, error: UserError, waited: float) -> tuple[Death, str]:
        """Judge a host that did not come back."""
        said = sanitize.line(error.message, 200)
        if not isinstance(error, Unreachable) or error.refused:
            # Its kernel answers; that nobody can log in is not the kernel's doing.
            summary = f"{loss.text}; after {waited:.0f} s: {said}"
            return Death(HOST_LOST, summary, blameless=True), ""
        words = self.console.said()
        away = f"it did not come back within {waited:.0f} s"
        cycled = self._power_cycle()
        death = _judged(words)
        if death is not None:
            return Death(death.kind, f"{death.summary}; {away}{cycled}"), words
        what = "panic without reboot, hang, or network"
        return Death(HOST_SILENT, f"{loss.text}; {away}: {what}{cycled}"), words

    def _power_cycle(self) -> str:
        """Switch the host off and on, where that is possible; say so."""
        command = self.host.power_cycle
        if command is None:
            return ""
        try:
            done = subprocess.run(
                command,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=POWER_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"; power-cycle did not end in {POWER_TIMEOUT:.0f} s"
        # Neither the command nor what it prints: either may hold a password.
        if done.returncode:
            return f"; power-cycle failed with status {done.returncode}"
        return "; power-cycled"


def _judged(words: str) -> Death | None:
    """Say what a kernel's last words tell of its death, None where nothing."""
    death = judge(Evidence(console=words, exit_status=0, shutdown_reason="guest-reset"))
    return death if death.kind != Kind.RESET else None


def _who() -> dict[str, str]:
    """Name this run to others who want the host, wherever they are."""
    return {
        "who": f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}",
        "began": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


class SshKernel(RemoteKernel):
    """The kernel that runs on a host, driven by the agent there."""

    def __init__(self, session: Session, link: AgentLink) -> None:
        self._session = session
        self._link = link
        self._words = ""
        self._marking: Ticket | None = None
        assert session.boot is not None
        self.release = session.boot.release
        fd = link.take_fd()
        super().__init__(
            session.host.name,
            fd,
            fd,
            last_seen=self._last_seen_of_link,
            on_close=link.close,
            hello_timeout=30.0,
        )
        self.snp_hint = session.snp_hint
        self.environment = session.host.has | ({"snp"} if self.snp_hint is None else set())

    def _last_seen_of_link(self) -> str:
        lines = [self._link.loss.text if self._link.loss else "", self._session.console.tail()]
        return "\n".join(line for line in lines if line)

    def log(self) -> str:
        """Return the kernel log; of a host that died, what pstore or its console has."""
        return self._words or super().log()

    def mark(self, text: str) -> None:
        """Put a line into the kernel's log: pstore and console then say which test it was."""
        line = f"snptest: {sanitize.line(text, 200)}\n"
        marking, self._marking = self._marking, None
        with contextlib.suppress(TargetError):
            if marking is not None:
                self.wait(marking, ANSWER_TIMEOUT)
            # Without root it is refused, which does not matter.
            self._marking = self.start([WriteFile("/dev/kmsg", line.encode())])

    def autopsy(self) -> Death:
        """Find out what became of the host, or of the connection to it."""
        if self._link.loss is None:
            if self._answers():
                summary = "the kernel and the agent answer; what the test waited for did not come"
                return Death(Kind.STUCK.value, summary)
            if self._link.alive(self._session.host.silence + ANSWER_TIMEOUT):
                return Death(AGENT_HANGS, "the host gives signs of life, the agent does not answer")
        loss = self._link.loss
        if loss is None:
            loss = Loss(LossKind.SILENT, f"no sign of life from {self.name}")
        if loss.kind is LossKind.AGENT:
            killed = loss.status is None or loss.status < 0
            kind = Kind.AGENT_KILLED if killed else Kind.AGENT_EXITED
            return Death(kind.value, loss.text)
        death, self._words = self._session.what_happened(loss)
        return Death(death.kind, sanitize.line(death.summary, 400), death.blameless)

    def _answers(self) -> bool:
        try:
            self.call(ReadFile("/proc/uptime"), thread=_LAST_THREAD, timeout=ANSWER_TIMEOUT)
        except (TargetError, ValueError):
            return False
        return True
