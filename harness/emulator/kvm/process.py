# SPDX-License-Identifier: GPL-2.0-only
"""The emulated process that drives KVM."""

from __future__ import annotations

from harness.emulator.kvm.files import FdTable
from harness.emulator.kvm.sched import Scheduler
from harness.emulator.kvm.usermem import UserMemory
from harness.emulator.machine import Machine

SCRATCH = 1 << 16
"""Bytes of user memory per thread that hold ioctl arguments."""


class Process:
    """The process that drives KVM: address space, open files, threads."""

    def __init__(self, machine: Machine, seed: int | None) -> None:
        self.memory = UserMemory(machine.memory, machine.frames)
        self.files = FdTable()
        self.scheduler = Scheduler(seed)
        self._scratch: dict[int, int] = {}

    def scratch(self, thread: int) -> int:
        """Address of the thread's buffer for ioctl arguments."""
        if thread not in self._scratch:
            self._scratch[thread] = self.memory.map(SCRATCH)
        return self._scratch[thread]
