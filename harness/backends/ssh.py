# SPDX-License-Identifier: GPL-2.0-only
"""A remote SNP host, through an agent at the other end of an SSH channel: see harness/ssh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from harness import kbuild
from harness.backends.base import ATTEMPTS, Backend, Unconfigurable, kvm_amd_parameters
from harness.errors import UsageError
from harness.kbuild import KernelBuild
from harness.kernel import Kernel
from harness.ssh import hosts
from harness.target import Target

if TYPE_CHECKING:
    from harness.vm.host import Host


class SshBackend(Backend):
    """Drives the kernel that runs on a host, or boots one there."""

    name: ClassVar[str] = "ssh"
    reusable: ClassVar[bool] = True
    in_place: ClassVar[bool] = True
    side_by_side: ClassVar[int | None] = 1  # a host has one kernel, and a lock
    open_deadline: ClassVar[float] = ATTEMPTS * (hosts.MAX_BOOT_TIMEOUT + 300)

    def __init__(self) -> None:
        self._session: Any = None

    def check(self, target: Target) -> None:
        """Find host and kernel, log in, let go: what is wrong there is told before any test."""
        from harness.ssh.connection import Connection

        host, _ = _chosen(target)
        Connection(host).close()

    def open(self, target: Target, parameters: Mapping[str, Any] | None = None) -> Kernel:
        """Start an agent on the host that `--host` names, in the kernel that `--kernel` names.

        Without `--kernel`, it is the kernel that runs there.  The code decides the interface.
        """
        # The command line asks for names only; it need not load paramiko for that.
        from harness.ssh.session import Session

        host, build = _chosen(target)
        if self._session is None:
            self._session = Session(host, build)
        kernel = self._session.open()
        assert isinstance(kernel, Kernel)
        return kernel

    def configure(self, host: Host, parameters: Mapping[str, Any]) -> None:
        """Load kvm_amd anew; only where `--kernel` put it there, which nobody else uses."""
        installed = self._session.installed
        if installed is None:
            raise Unconfigurable("a remote host's kernel is taken as it runs, without --kernel")
        if not installed.kvm_amd:
            raise Unconfigurable("kvm_amd is no module of this kernel")
        from harness.ssh.modules import reload_kvm_amd

        words = kvm_amd_parameters(parameters)
        host.close()
        reload_kvm_amd(host.kernel, self._session.host, installed, words)


def _chosen(target: Target) -> tuple[hosts.Host, KernelBuild | None]:
    host = hosts.get(target.host)
    if target.kernel is None:
        return host, None
    if host.boot.how == "none":
        raise UsageError(
            f"host {host.name} is not said to boot kernels",
            "see boot in ci/hosts.toml; without --kernel, the one that runs is tested",
        )
    build = kbuild.get(target.kernel)
    if not build.build_id:
        raise UsageError(f"kernel {build.name} has no build id to know it by", "build it again")
    return host, build
