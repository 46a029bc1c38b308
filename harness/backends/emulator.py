# SPDX-License-Identifier: GPL-2.0-only
"""The emulated SNP host, in this process: no hardware, no privileges, the same every time."""

from __future__ import annotations

from typing import Any, ClassVar

from harness.backends.base import Backend
from harness.kernel import Kernel
from harness.uapi.revisions import REVISIONS


class EmulatorBackend(Backend):
    """Offers every revision that is described as data."""

    name: ClassVar[str] = "emulator"
    revisions: ClassVar[tuple[str, ...]] = tuple(REVISIONS)

    schedules: ClassVar[bool] = True

    def open(self, revision: str | None, seed: int, **options: Any) -> Kernel:
        """Make a machine and boot nothing: its kernel is there at once.

        Seed 0 lets threads take turns in order; any other shuffles them, always the same way.
        """
        # The command line asks for names only; it need not load the models and Unicorn for that.
        from harness.emulator.emulator import Emulator
        from harness.emulator.machine import MachineConfig

        parameters: dict[str, Any] = {"seed": seed or None} | options.get("parameters", {})
        return Emulator(revision or "merged", MachineConfig(**parameters))
