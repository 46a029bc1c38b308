# SPDX-License-Identifier: GPL-2.0-only
"""Memory that the IOMMU writes to while SNP is enabled, from the registers that name it.

At SNP_INIT the firmware takes those pages; SNP_SHUTDOWN_EX with IOMMU_SNP_SHUTDOWN leaves them
in the Reclaim state, from which the host takes them back (amd_iommu_snp_disable() in
drivers/iommu/amd/init.c and __sev_snp_shutdown_locked() in drivers/crypto/ccp/sev-dev.c,
Linux 6.12).  The buffers are the three that the host gives back there.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.emulator.memory import PAGE_SIZE

_ADDRESS = (1 << 52) - PAGE_SIZE
_ENTRY = 16
_MIN_LENGTH = 8
"""EventLen and PPRLogLen: 2^n entries, less than 256 is reserved (AMD IOMMU 48882, 3.4.1)."""


@dataclass(frozen=True)
class IommuRegisters:
    """Registers of the IOMMU (48882, chapter 3.4), as the host has written them."""

    event_base: int = 0
    """MMIO offset 0010h: event log, address and length."""
    ppr_base: int = 0
    """Offset 0038h: peripheral page request log."""
    exclusion_base: int = 0
    exclusion_limit: int = 0
    """Offsets 0020h and 0028h: with SNP, the first and last page of completion wait stores."""

    def ranges(self) -> list[tuple[int, int]]:
        """First physical address and number of pages of each buffer that is set up."""
        first = self.exclusion_base & _ADDRESS
        pages = (self.exclusion_limit & _ADDRESS) // PAGE_SIZE - first // PAGE_SIZE + 1
        waits = [(first, max(pages, 1))] if first else []
        return [*_log(self.event_base), *_log(self.ppr_base), *waits]


def _log(base: int) -> list[tuple[int, int]]:
    address, length = base & _ADDRESS, base >> 56 & 0xF
    if not address or length < _MIN_LENGTH:
        return []
    return [(address, (_ENTRY << length) // PAGE_SIZE)]
