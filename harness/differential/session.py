# SPDX-License-Identifier: GPL-2.0-only
"""The emulator and a target side by side, for as many scripts as one likes."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from harness.differential.compare import Compared, compare
from harness.differential.drive import drive
from harness.differential.operations import Script
from harness.differential.shrink import shrink
from harness.differential.trace import Trace
from harness.operations import TargetError
from harness.probe import probe
from harness.uapi.interfaces import MERGED, Interface
from harness.vm.host import Host


class Lost(Exception):
    """The target died of a script."""

    def __init__(self, script: Script, why: str) -> None:
        super().__init__(why)
        self.script = script


def emulate(script: Script, interface: Interface = MERGED, gmem_order: int = 0) -> Trace:
    """A script's trace on an emulator of its own: the same each time."""
    return drive(emulated(interface, gmem_order), script)


def emulated(interface: Interface, gmem_order: int) -> Host:
    """An emulated host that is like a target."""
    from harness.emulator.emulator import Emulator
    from harness.emulator.machine import MachineConfig

    kernel = Emulator(interface, MachineConfig(gmem_max_order=gmem_order))
    return Host(kernel, interface)


class Session:
    """A target that was opened, and what emulates it; a context that closes both."""

    def __init__(self, open_target: Callable[[], Any]) -> None:
        self._open = open_target
        self._target: Host | None = None
        self.interface: Interface | None = None

    @property
    def target(self) -> Host:
        """The host under test, opened at first use and again where it was lost."""
        if self._target is None:
            kernel = self._open()
            self.interface = probe(kernel)
            self._target = Host(kernel, self.interface)
        return self._target

    def check(self, script: Script) -> Compared:
        """Run a script on both sides and compare; Lost where the target dies of it."""
        host = self.target
        assert self.interface is not None
        emulator = emulate(script, self.interface, host.kernel.gmem_order)
        try:
            target = drive(host, script)
        except TargetError as error:
            death = host.kernel.autopsy()
            self.close()
            raise Lost(script, death.summary if death else str(error)) from error
        return compare(emulator, target)

    def shrink(self, script: Script, kind: str) -> Script:
        """The shortest script that still shows a difference of that kind."""

        def shows(tried: Script) -> bool:
            difference = self.check(tried).difference
            return difference is not None and difference.kind == kind

        return shrink(script, shows)

    def close(self) -> None:
        """Shut the target down; it is opened again when it is needed."""
        if self._target is not None:
            self._target.kernel.shutdown()
        self._target = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
