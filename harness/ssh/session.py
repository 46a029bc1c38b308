# SPDX-License-Identifier: GPL-2.0-only
"""One run's use of one host: connections come and go, the host and its kernel stay the same."""

from __future__ import annotations

import re
import secrets
import time
from typing import Any

from harness.errors import BootError, HostError, UserError
from harness.kbuild import KernelBuild, buildid
from harness.kernel import Death, Kernel
from harness.operations import Open, ReadFile, TargetError
from harness.preflight.judge import why_not
from harness.report import sanitize
from harness.ssh.boot import power_cycle
from harness.ssh.bringup import bring_up
from harness.ssh.connection import RETRY, Connection, connect_again
from harness.ssh.console import Console
from harness.ssh.examine import examine
from harness.ssh.fate import (
    CONNECTION_LOST,
    HOST_LOST,
    HOST_SILENT,
    Boot,
    before_next_boot,
    judged,
)
from harness.ssh.hosts import Host
from harness.ssh.install import Installed
from harness.ssh.kernel import SshKernel
from harness.ssh.link import AgentLink, Loss, who
from harness.ssh.modules import load_modules
from harness.ssh.problems import Unreachable
from harness.ssh.remote import look
from harness.vng.autopsy import Kind


class Session:
    """A host for the time of a run."""

    def __init__(self, host: Host, build: KernelBuild | None = None) -> None:
        """With a build, that kernel is booted there, again and again where it dies."""
        self.host = host
        self.build = build
        self.build_id = build.build_id if build is not None else ""
        self.installed: Installed | None = None
        self.boot: Boot | None = None
        """What ran when the host was used first: results are of that kernel."""
        self.snp_hint: str | None = None
        """Why no SNP guests run there, in one line; None where they do, or before `open`."""
        self._examined = False
        self.console = Console(host)
        self.token = secrets.token_hex(16)
        self._connection: Connection | None = None
        self._reached = False
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
                self.disconnect()
                first = self.boot is None and self.build is None
                if first or not self._reached or time.monotonic() + RETRY > deadline:
                    raise
            time.sleep(RETRY)

    def _opened(self, deadline: float) -> SshKernel:
        if self.build is not None:
            self.installed = bring_up(self, self.build, deadline)
        link = AgentLink(self.connected(deadline), self.token, who())
        kernel = None
        try:
            self._compare(link.facts)
            if self.build is None and (why := self._unfit(link.facts)):
                raise self._not_fit(why)
            self.console.start()
            self.console.mark()
            kernel = SshKernel(self, link)
            if self.installed is not None:
                load_modules(kernel, self.host, self.installed)
                if why := _wrong_module(kernel, self.build) or _why_no_kvm(kernel):
                    raise self._not_fit(why)
            if not self._examined:
                self._examine()
                kernel.describe(self)
            return kernel
        except TargetError as error:
            (kernel.shutdown if kernel is not None else link.close)()
            raise HostError(f"{self.host.name}: the agent did not start: {error}") from None
        except BaseException:
            (kernel.shutdown if kernel is not None else link.close)()
            raise

    def _not_fit(self, why: str) -> HostError:
        hint = f"snptest doctor --host {self.host.name}"
        return HostError(f"{self.host.name}: {sanitize.line(why, 200)}", hint)

    def close(self) -> None:
        """Give the connection up, and the console."""
        self.disconnect()
        self.console.close()

    def disconnect(self) -> None:
        """Give the connection up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def connected(self, deadline: float) -> Connection:
        """Return a connection that works: the first time at once or not at all."""
        if self._connection is not None and self._connection.active:
            return self._connection
        self.disconnect()
        if self._reached:
            self._connection = connect_again(self.host, deadline)
        else:
            self._connection = Connection(self.host)
        self._reached = True
        return self._connection

    def _examine(self) -> None:
        """Find out, once, whether SNP guests can run there: tests that need it skip with that."""
        self._examined = True
        assert self._connection is not None
        try:
            findings, _ = examine(self._connection)
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
        if self.build is not None and found.build_id != self.build_id:
            raise BootError(f"{self.host.name}: {self.build.name} is gone again, {found} runs")
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
        self.disconnect()
        try:
            facts = self.look_again(began + self.host.boot_timeout)
        except UserError as error:
            return self._gone(loss, error, time.monotonic() - began)
        waited = f"{time.monotonic() - began:.0f} s"
        if Boot.of(facts).id == self.boot.id:
            summary = f"{loss.text}; the host runs on, found again after {waited}"
            return Death(CONNECTION_LOST, summary, blameless=True), ""
        # pstore keeps the levels that dmesg leaves out.
        kept = re.sub(r"^<\d+>", "", str(facts.get("pstore", "")), flags=re.MULTILINE)
        words = kept if kept.strip() else before_next_boot(self.console.said())
        back = f"the host was back, booted anew, after {waited}"
        death = judged(words)
        if death is None:
            return Death(Kind.RESET.value, f"{back}; neither pstore nor console says why"), words
        return Death(death.kind, f"{death.summary}; {back}"), words

    def look_again(self, deadline: float) -> dict[str, Any]:
        """Connect to a host that was lost or is booting, and ask which kernel runs."""
        while True:
            self._connection = connect_again(self.host, deadline)
            try:
                return look(self._connection, self._met)
            except Unreachable:
                # It went down behind the connection: sshd is among the last to stop.
                self.disconnect()
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
        cycled = power_cycle(self.host)
        death = judged(words)
        if death is not None:
            return Death(death.kind, f"{death.summary}; {away}{cycled}"), words
        what = "panic without reboot, hang, or network"
        return Death(HOST_SILENT, f"{loss.text}; {away}: {what}{cycled}"), words


def _wrong_module(kernel: Kernel, build: KernelBuild | None) -> str | None:
    """Make sure of the modules, too: they are all that differs between many builds."""
    for name, expected in build.module_ids().items() if build is not None else ():
        path = f"/sys/module/{name}/notes/.note.gnu.build-id"
        if expected and buildid.of_notes(kernel.call(ReadFile(path)).data) != expected:
            return f"module {name} there is not the one of {build.name if build else ''}"
    return None


def _why_no_kvm(kernel: Kernel) -> str | None:
    opened = kernel.call(Open("/dev/kvm"))
    if not opened.ok:
        return "the kernel's modules are loaded, and /dev/kvm cannot be opened"
    kernel.close(opened.value)
    return None
