# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that runs on a remote host, as tests see it."""

from __future__ import annotations

import contextlib
from typing import Protocol

from harness.kbuild import KernelBuild
from harness.kernel import Death
from harness.operations import ReadFile, TargetError, Ticket, WriteFile
from harness.report import sanitize
from harness.splats.symbols import Symbols
from harness.ssh.console import Console
from harness.ssh.fate import AGENT_HANGS, Boot
from harness.ssh.hosts import Host
from harness.ssh.link import AgentLink, Loss, LossKind
from harness.vng.autopsy import Kind
from harness.wire import RemoteKernel

ANSWER_TIMEOUT = 5.0
_LAST_THREAD = 0xFFFF


class Session(Protocol):
    """What a kernel asks of the session that it belongs to: harness/ssh/session.py."""

    host: Host
    build: KernelBuild | None
    boot: Boot | None
    snp_hint: str | None
    console: Console

    def what_happened(self, loss: Loss) -> tuple[Death, str]:
        """Find out what became of the host, and what its last words were."""


class SshKernel(RemoteKernel):
    """The kernel that runs on a host, driven by the agent there."""

    def __init__(self, session: Session, link: AgentLink) -> None:
        self._session = session
        self._link = link
        self._words = ""
        self._marking: Ticket | None = None
        assert session.boot is not None
        self.release = session.boot.release
        if session.build is not None:
            build = session.build
            self.symbols = Symbols(build.vmlinux, build.debug_modules, build.decoder)
        fd = link.take_fd()
        super().__init__(
            session.host.name,
            fd,
            fd,
            last_seen=self._last_seen_of_link,
            on_close=link.close,
            hello_timeout=30.0,
        )
        self.describe(session)

    def describe(self, session: Session) -> None:
        """Take on what is known of the host."""
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
