# SPDX-License-Identifier: GPL-2.0-only
"""What a backend is: a way to get a running Kernel to test."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import UsageError
from harness.kernel import Kernel
from harness.target import Target

if TYPE_CHECKING:
    from harness.vm.host import Host

ATTEMPTS = 3
"""Boots in a row that have to fail before a kernel is given up, and the run with it."""

_MODULE_PARAMETERS = frozenset({"sev", "sev_es", "sev_snp"})
"""What can be changed about a kernel: parameters of kvm_amd that are on or off."""


class Unconfigurable(Exception):  # a reason to skip, no failure
    """Why a backend opens no kernel with the parameters that a test wants, in one line."""


def kvm_amd_parameters(changes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return kvm_amd's parameters for what a test wants changed, as sev_snp=0; Unconfigurable."""
    unknown = sorted(changes.keys() - _MODULE_PARAMETERS)
    if unknown:
        raise Unconfigurable(f"a booted kernel takes no {', '.join(unknown)}")
    return tuple(f"{name}={int(value)}" for name, value in changes.items())


class Backend(abc.ABC):
    """Opens kernels of one kind; made once a process, from `harness.backends.get(name)`."""

    name: ClassVar[str]
    """As in --backend."""

    interfaces: ClassVar[tuple[str, ...]] = ()
    """Interfaces it can offer at will; empty where the kernel that runs decides."""

    reusable: ClassVar[bool] = False
    """Whether one kernel serves many test modules: where opening is dear (a boot), yes."""

    in_place: ClassVar[bool] = False
    """Whether a kernel that is open is changed for a test (`configure`), not another one opened."""

    schedules: ClassVar[bool] = False
    """Whether the parameter `seed` decides in which order threads run."""

    side_by_side: ClassVar[int | None] = None
    """The most kernels that `-n auto` opens beside each other; None: one a core."""

    deadline: ClassVar[float] = 120.0
    """Seconds that one test may take unless its marker says otherwise."""

    open_deadline: ClassVar[float] = 0.0
    """Seconds more that a test may take to be set up where it is the one to open a kernel."""

    def chosen(self, interface: str | None) -> tuple[str | None, ...]:
        """Return the interfaces to run with: the one asked for, all on offer, or what runs (None).

        UsageError where the one asked for is not on offer.
        """
        if interface and self.interfaces and interface not in self.interfaces:
            raise UsageError(
                f"backend {self.name} does not offer interface {interface!r}",
                f"it offers {', '.join(self.interfaces)}",
            )
        return (interface,) if interface else self.interfaces or (None,)

    @abc.abstractmethod
    def open(self, target: Target, parameters: Mapping[str, Any] | None = None) -> Kernel:
        """Return a fresh kernel that runs; what of a target does not concern a backend is ignored.

        parameters: what to change about machine and kernel; raises Unconfigurable where that
        cannot be done.
        Raises UserError where the user can do something about a failure, BuildError where a
        build or boot failed.
        """

    def configure(self, host: Host, parameters: Mapping[str, Any]) -> None:
        """Give the KVM of a host other parameters; without any, those that it had at first.

        Where `in_place` says so.  The host is closed, with its VMs; nobody else may have /dev/kvm
        open.  Raises Unconfigurable where that cannot be done, UserError where it fails,
        TargetError where there is no way back.
        """
        raise NotImplementedError

    def check(self, target: Target) -> None:
        """Raise UserError where no kernel of a target can be opened: before any test."""
        return

    def unavailable(self) -> str | None:
        """Say in one line why this machine cannot offer it and what to do; None where it can."""
        return None
