# SPDX-License-Identifier: GPL-2.0-only
"""What can be seen of a machine from outside, where it is one that shows it."""

from __future__ import annotations

import abc
import enum
from dataclasses import dataclass, field


class RmpSize(enum.IntEnum):
    """Page size of an RMP entry."""

    SIZE_4K = 0
    SIZE_2M = 1


@dataclass(frozen=True, slots=True)
class RmpState:
    """The RMP's entry of a page; `operation` names the page that was looked up."""

    assigned: bool
    asid: int
    """ASID of the guest that the page is assigned to; 0 is the firmware or the host."""
    gpa: int
    """Guest physical address of the page itself, also within an entry of 2 MiB; bytes."""
    validated: bool
    size: RmpSize
    present: bool = True
    """Whether the file has a page at that offset; if not, the other fields mean nothing."""
    operation: str = field(default="RMP", compare=False)

    def __str__(self) -> str:
        """Return the entry in words: `assigned, ASID 3, 4K, not validated`."""
        if not self.present:
            return "no page"
        words = self._words()
        del words["gpa"]
        return ", ".join(words.values()) if self.assigned else "shared"

    def _words(self) -> dict[str, str]:
        return {
            "assigned": "assigned",
            "asid": f"ASID {self.asid}" if self.asid else "the firmware's",
            "gpa": f"GPA {self.gpa:#x}",
            "size": self.size.name.removeprefix("SIZE_"),
            "validated": "validated" if self.validated else "not validated",
        }

    def unlike(self, came: RmpState) -> str:
        """Return in words what of this state `came` does not have."""
        if not (self.present and self.assigned and came.present and came.assigned):
            return str(self)
        words = self._words()
        differing = (name for name in words if getattr(self, name) != getattr(came, name))
        return ", ".join(words[name] for name in differing)

    def beside(self, wanted: RmpState) -> str:
        """Return this state in words, with the GPA if another one is wanted."""
        if self.present and self.assigned and wanted.assigned and self.gpa != wanted.gpa:
            return f"{self}, GPA {self.gpa:#x}"
        return str(self)


NO_PAGE = RmpState(False, 0, 0, False, RmpSize.SIZE_4K, present=False)
"""Where the file has no page."""


def rmp_operation(offset: int) -> str:
    """Name the look-up of a page in the RMP by its offset in a guest_memfd."""
    return f"RMP of guest_memfd offset {offset:#x}"


class Inspector(abc.ABC):
    """What a black box cannot show: the RMP and counters, where a backend has them."""

    @abc.abstractmethod
    def assigned_pages(self) -> int:
        """Count the 4 KiB pages that the RMP holds as assigned to a guest ASID (ASID > 0)."""

    def firmware_pages(self) -> int | None:
        """Count the 4 KiB pages that are the firmware's (assigned, ASID 0); None where unknown."""
        return None

    @abc.abstractmethod
    def gmem_rmp(self, fd: int, offset: int) -> RmpState:
        """Look up the RMP's entry behind a guest_memfd offset; equals NO_PAGE without a page."""

    @abc.abstractmethod
    def gmem_bytes(self, fd: int, offset: int, length: int) -> bytes:
        """What physical memory holds behind a guest_memfd offset (zeros where unpopulated)."""

    @abc.abstractmethod
    def counters(self) -> dict[str, int]:
        """Count events since boot: rmpupdate, psmash, wbinvd, clflush, psp, leaked_pages, asids."""

    def endorsement(self, name: str) -> bytes | None:
        """What the vendor's key server has for this chip at its reported TCB; None where unknown.

        "ark", "ask", "asvk", "vcek", "vlek": a certificate as DER; "hashstick": a wrapped VLEK
        hashstick for SNP_VLEK_LOAD.
        """
        return None
