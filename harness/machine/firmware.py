# SPDX-License-Identifier: GPL-2.0-only
"""The firmware of one machine: the model of harness/emulator/psp on memory that QEMU shares."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from harness.emulator.psp import Psp
from harness.emulator.psp.iommu import IommuRegisters
from harness.emulator.psp.key_server import endorsement
from harness.emulator.regions import RegionMemory
from harness.emulator.rmp import Rmp
from harness.emulator.rmp_entry import RmpEntry
from harness.emulator.rmp_table import ENTRY_SIZE
from harness.machine.protocol import Hello
from harness.uapi.errors import SevFwError
from harness.uapi.psp import command_name

Log = Callable[[str], None]

HARDWARE_ERROR = int(SevFwError.HWERROR_PLATFORM)
"""The status of a command during which the model failed."""


class Firmware:
    """Memory, RMP and PSP.  Any thread may call; one command runs at a time.

    ValueError for a machine that cannot be: regions or RMP that do not fit together.
    """

    def __init__(self, hello: Hello, *, seed: int, log: Log) -> None:
        entries = hello.rmp_size - Rmp.BOOKKEEPING
        if entries < ENTRY_SIZE:
            raise ValueError(f"an RMP of 0x{hello.rmp_size:x} bytes has no entries")
        self._seed, self._log, self._hello = seed, log, hello
        self._lock = threading.Lock()
        self._memory = RegionMemory(hello.regions)
        if not self._memory.contains(hello.rmp_base, hello.rmp_size):
            raise ValueError(f"the RMP at 0x{hello.rmp_base:x} lies outside of memory")
        self._rmp = Rmp(self._memory, hello.rmp_base, entries // ENTRY_SIZE)
        self._commands: dict[int, int] = {}
        self._exceptions = 0
        self._psp = self._fresh()

    def _fresh(self) -> Psp:
        hello = self._hello
        return Psp(
            self._memory,
            self._rmp,
            seed=self._seed,
            max_asid=hello.max_asid,
            es_asids=max(hello.min_sev_asid - 1, 0),
            cbit=hello.cbit,
            log=self._log,
        )

    def reset(self) -> None:
        """The machine was reset: no guest, no key, no state is left; counters go on."""
        with self._lock:
            self._psp = self._fresh()

    def set_iommu(self, registers: IommuRegisters) -> None:
        """What the registers of the IOMMU hold now."""
        with self._lock:
            self._psp.platform.iommu = registers

    def command(self, number: int, address: int) -> int:
        """Run a command; its status.

        An exception in the model is counted and passed on: the caller logs it and answers with
        HWERROR_PLATFORM.
        """
        with self._lock:
            self._commands[number] = self._commands.get(number, 0) + 1
            try:
                return self._psp.command(number, address)
            except Exception:
                self._exceptions += 1
                raise

    def state(self) -> dict[str, Any]:
        """What a test may want to know, as JSON has it."""
        with self._lock:
            guests = self._psp.guests
            return {
                "asids": sorted(guests.asids.owners),
                "guests": len(guests),
                "snp_initialized": self._psp.platform.snp_initialized,
                "commands": {command_name(n): times for n, times in self._commands.items()},
                "exceptions": self._exceptions,
            }

    def entry(self, address: int) -> RmpEntry:
        """What the RMP says of the page at a physical address: of the 2 MiB page, if it is one."""
        return self._rmp.effective(address)

    def memory(self, address: int, length: int) -> bytes:
        """What physical memory holds; BusError for a hole."""
        return self._memory.read(address, length)

    def assigned_pages(self) -> int:
        """4 KiB pages that are assigned to guests."""
        return self._rmp.assigned_pages()

    def firmware_pages(self) -> int:
        """4 KiB pages that are assigned to no guest: the firmware's."""
        return self._rmp.assigned_pages(0)

    def endorsement(self, name: str) -> bytes:
        """A certificate in DER, or a hashstick; see harness.emulator.psp.key_server."""
        with self._lock:
            return endorsement(self._psp, self._seed, name)
