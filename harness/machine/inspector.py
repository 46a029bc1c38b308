# SPDX-License-Identifier: GPL-2.0-only
"""What the SNP machine shows of itself: its RMP, its memory, its counters."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.inspector import NO_PAGE, Inspector, RmpSize, RmpState, rmp_operation
from harness.kernel import Kernel
from harness.machine.control import ask
from harness.machine.gmem_pages import GmemPages

PAGE_SIZE, PAGE_SIZE_2M = 4096, 2 << 20
DEVICE = "/machine/peripheral/psp"
"""The PSP in QEMU's object tree: the device that was given this id."""

_LEAKED = re.compile(r"Leaking PFN range 0x([0-9a-f]+)-0x([0-9a-f]+)")


class MachineInspector(Inspector):
    """Looks at a machine from outside while its kernel runs.

    `monitor` puts a question to QEMU's monitor, `socket` is that of the PSP's firmware.
    """

    def __init__(self, kernel: Kernel, monitor: Callable[..., Any], socket: Path) -> None:
        self._kernel, self._monitor, self._socket = kernel, monitor, socket
        self._pages = GmemPages(kernel)

    def _ask(self, **question: object) -> dict[str, Any]:
        answer = ask(self._socket, question)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def assigned_pages(self) -> int:
        """Pages in the RMP that belong to a guest ASID."""
        return int(self._ask(count="assigned_pages")["assigned_pages"])

    def firmware_pages(self) -> int:
        """Pages in the RMP that belong to the firmware."""
        return int(self._ask(count="firmware_pages")["firmware_pages"])

    def gmem_rmp(self, fd: int, offset: int) -> RmpState:
        """The RMP entry behind an offset of a guest_memfd."""
        address = self._pages.address(fd, offset & -PAGE_SIZE)
        if address is None:
            return replace(NO_PAGE, operation=rmp_operation(offset))
        entry = self._ask(rmp=address)
        gpa = entry["gpa"] + (address % PAGE_SIZE_2M if entry["size"] else 0)
        return RmpState(
            entry["assigned"],
            entry["asid"],
            gpa,
            entry["validated"],
            RmpSize(entry["size"]),
            operation=rmp_operation(offset),
        )

    def gmem_bytes(self, fd: int, offset: int, length: int) -> bytes:
        """Memory behind an offset of a guest_memfd, within one page."""
        address = self._pages.address(fd, offset)
        if address is None:
            return bytes(length)
        return bytes.fromhex(self._ask(memory=address, length=length)["memory"])

    def endorsement(self, name: str) -> bytes:
        """A certificate of the machine's chip, or a hashstick that it accepts."""
        return bytes.fromhex(self._ask(endorsement=name)["endorsement"])

    def counters(self) -> dict[str, int]:
        """The machine's counters, and what its kernel says it leaked.

        A flush of all caches counts on each CPU, and npf_rmp_spurious is every #NPF of the RMP.
        """
        raw = self._monitor("qom-get", path=DEVICE, property="counters")
        counters = {name.replace("-", "_"): int(value) for name, value in raw.items()}
        counters["npf_rmp_spurious"] = counters["npf_rmp"]
        counters["leaked_pages"] = sum(
            int(match[2], 16) - int(match[1], 16) for match in _LEAKED.finditer(self._kernel.log())
        )
        counters["asids"] = len(ask(self._socket)["asids"])
        return counters
