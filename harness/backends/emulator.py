# SPDX-License-Identifier: GPL-2.0-only
"""The emulated SNP host, in this process: no hardware, no privileges, the same every time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from harness.backends.base import Backend
from harness.kernel import Kernel
from harness.target import Target
from harness.uapi.interfaces import INTERFACES


class EmulatorBackend(Backend):
    """Offers every interface that is described as data."""

    name: ClassVar[str] = "emulator"
    interfaces: ClassVar[tuple[str, ...]] = tuple(INTERFACES)

    schedules: ClassVar[bool] = True

    def open(self, target: Target, parameters: Mapping[str, Any] | None = None) -> Kernel:
        """Make a machine and boot nothing: its kernel is there at once.

        Seed 0 lets threads take turns in order; any other shuffles them, always the same way.
        """
        # The command line asks for names only; it need not load the models and Unicorn for that.
        from harness.emulator.emulator import Emulator
        from harness.emulator.machine import MachineConfig

        chosen: dict[str, Any] = {"seed": target.seed or None} | dict(parameters or {})
        return Emulator(target.interface or "merged", MachineConfig(**chosen))
