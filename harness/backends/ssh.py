# SPDX-License-Identifier: GPL-2.0-only
"""A remote SNP host, through an agent at the other end of an SSH channel: see harness/ssh."""

from __future__ import annotations

from typing import Any, ClassVar

from harness.backends.base import Backend, Unconfigurable
from harness.errors import UsageError
from harness.kernel import Kernel
from harness.ssh import hosts


class SshBackend(Backend):
    """Drives the kernel that runs on a host."""

    name: ClassVar[str] = "ssh"
    reusable: ClassVar[bool] = True
    side_by_side: ClassVar[int | None] = 1  # a host has one kernel, and a lock
    open_deadline: ClassVar[float] = hosts.MAX_BOOT_TIMEOUT + 120

    def __init__(self) -> None:
        self._session: Any = None

    def check(self, **options: Any) -> None:
        """Find the host, log in, and let go: what is wrong there is told before any test runs."""
        from harness.ssh.connection import Connection

        Connection(_host(options)).close()

    def open(self, revision: str | None, seed: int, **options: Any) -> Kernel:
        """Start an agent on the host that `--host` names; its kernel decides the revision."""
        # The command line asks for names only; it need not load paramiko for that.
        from harness.ssh.session import Session

        if "parameters" in options:
            raise Unconfigurable("a remote host's kernel is taken as it runs")
        host = _host(options)
        if self._session is None:
            self._session = Session(host)
        kernel = self._session.open()
        assert isinstance(kernel, Kernel)
        return kernel


def _host(options: dict[str, Any]) -> hosts.Host:
    if options.get("kernel"):
        raise UsageError(
            "backend ssh boots no kernels yet: it drives the one that runs on the host",
            "without --kernel; or boot it there first",
        )
    return hosts.get(options.get("host"))
