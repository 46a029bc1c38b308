# SPDX-License-Identifier: GPL-2.0-only
"""Getting a kernel that was built here to run on a host, and making sure that it does."""

from __future__ import annotations

import secrets
import time
from typing import Any, Protocol

from harness.errors import BootError
from harness.kbuild import KernelBuild
from harness.operations import TargetError
from harness.ssh.boot import TOKEN, carries, has_parameters, leave, power_cycle
from harness.ssh.connection import RETRY, Connection
from harness.ssh.console import Console
from harness.ssh.fate import Boot, judged
from harness.ssh.hosts import Host
from harness.ssh.install import Installed, install
from harness.ssh.link import AgentLink, who
from harness.ssh.problems import NotLetIn, Unreachable
from harness.ssh.remote import look
from harness.wire import RemoteKernel


class Session(Protocol):
    """What is needed of a session to boot a kernel on its host: harness/ssh/session.py."""

    host: Host
    build_id: str
    installed: Installed | None
    console: Console
    token: str

    def connected(self, deadline: float) -> Connection:
        """Return the connection, made if there is none."""

    def disconnect(self) -> None:
        """Give the connection up."""

    def look_again(self, deadline: float) -> dict[str, Any]:
        """Return what the host says of itself, once it answers."""


def bring_up(session: Session, build: KernelBuild, deadline: float) -> Installed:
    """Boot the kernel unless it runs, and say where its files are.

    BootError where another attempt may succeed; HostError where it would not.
    """
    connection = session.connected(deadline)
    facts = look(connection, modules=build.module_ids())
    before = Boot.of(facts)
    runs = (
        before.build_id == session.build_id
        and has_parameters(session.host, before.parameters)
        and not _other_modules(facts, build)
    )
    if runs and session.installed is not None:
        return session.installed
    token = f"{TOKEN}={secrets.token_hex(8)}"
    link = AgentLink(connection, session.token, who())
    try:
        with RemoteKernel(session.host.name, fd := link.take_fd(), fd, on_close=link.close) as old:
            installed = install(connection, old, build)
            if runs:
                return installed
            session.console.start()
            session.console.mark()
            leave(old, session.host, build, installed, token)
    except TargetError as error:
        raise Unreachable(
            f"{session.host.name}: it was lost while {build.name} was installed: {error}"
        ) from None
    session.disconnect()
    found = _after_reboot(session, before, build)
    # The host's own kernel, too, may be of that build: it has not got the token.
    ours = token in found.parameters or not carries(session.host)
    if ours and found.build_id == session.build_id and found.release == build.release:
        return installed
    death = judged(session.console.said())
    why = f"{death.kind}: {death.summary}" if death else "nothing says why"
    if found.same_kernel(before):
        raise BootError(
            f"kernel {build.name} did not boot on {session.host.name}, which came back with the "
            f"one before, {found.release}: {why}",
        )
    if not ours and found.build_id == session.build_id:
        raise BootError(
            f"{session.host.name}: a boot of {build.name} came up that nobody asked for, without "
            f"the parameters it was to get: {why}",
            "a boot.command that names $SNPTEST_PARAMETERS has to boot with them",
        )
    # The host's own, where one that was tested before ran; or the boot entry is another's.
    raise BootError(
        f"{session.host.name}: the wrong kernel came up: {found}, not {build.name}, "
        f"{build.release} (build id {session.build_id[:12]}): {why}"
    )


def _other_modules(facts: dict[str, Any], build: KernelBuild) -> list[str]:
    """Return the modules that are loaded, and of another build: series often change only those."""
    loaded = facts.get("modules")
    if not isinstance(loaded, dict):
        return []
    return [
        name
        for name, expected in build.module_ids().items()
        if name in loaded and expected and not str(loaded[name]).endswith(expected)
    ]


def _after_reboot(session: Session, before: Boot, build: KernelBuild) -> Boot:
    """Wait for another boot; BootError where none comes, after a power-cycle if possible."""
    began = time.monotonic()
    deadline = began + session.host.boot_timeout
    while True:
        try:
            found = Boot.of(session.look_again(deadline))
        except (Unreachable, NotLetIn) as error:
            away = f"it did not come up within {time.monotonic() - began:.0f} s"
            death = judged(session.console.said())
            why = f"{death.kind}: {death.summary}; " if death else ""
            cycled = power_cycle(session.host)
            raise BootError(
                f"kernel {build.name} did not boot on {session.host.name}: {why}{away}{cycled}"
                f": {error.message}"
            ) from None
        if found.id != before.id:
            return found
        if time.monotonic() > deadline:
            raise BootError(
                f"{session.host.name} did not leave its kernel, {found.release}, "
                f"within {session.host.boot_timeout:.0f} s",
                "see boot in ci/hosts.toml",
            )
        session.disconnect()
        time.sleep(RETRY)
