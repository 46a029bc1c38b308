# SPDX-License-Identifier: GPL-2.0-only
"""Address space identifiers of encrypted guests (sev_asid_new, sev_asid_free; svm/sev.c, 6.12).

A freed ASID can be used again only after WBINVD on every processor and a DF_FLUSH by the
firmware, which KVM does for all of them at once when it has run out.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from harness.emulator.kvm.errors import KvmError
from harness.emulator.machine import MAX_SEV_ASID
from harness.uapi import sev as abi

if TYPE_CHECKING:
    from harness.emulator.kvm.ccp import Ccp


class AsidPool:
    """ASIDs 1 to `es_limit` are for SEV-ES and SNP guests, those above for plain SEV guests."""

    def __init__(self, es_limit: int, limit: int = MAX_SEV_ASID) -> None:
        self.es_limit = min(es_limit, limit)
        self.limit = limit
        self._taken: set[int] = set()
        self._reclaimable: set[int] = set()

    @property
    def used(self) -> int:
        """How many ASIDs guests hold."""
        return len(self._taken) - len(self._reclaimable)

    def alloc(self, ccp: Ccp, *, es: bool) -> int:
        """The lowest free ASID; EBUSY when a flush frees none, ENOTTY for an empty range."""
        low, high = (1, self.es_limit) if es else (self.es_limit + 1, self.limit)
        if low > high:
            raise KvmError(errno.ENOTTY)
        asid = self._lowest(low, high)
        if asid is None and self._recycle(ccp, low, high):
            asid = self._lowest(low, high)
        if asid is None:
            raise KvmError(errno.EBUSY)
        self._taken.add(asid)
        return asid

    def _lowest(self, low: int, high: int) -> int | None:
        return next((asid for asid in range(low, high + 1) if asid not in self._taken), None)

    def _recycle(self, ccp: Ccp, low: int, high: int) -> bool:
        """__sev_recycle_asids: one flush frees every ASID that awaits it, of either kind."""
        if not any(low <= asid <= high for asid in self._reclaimable):
            return False
        ccp.wbinvd()
        snp = ccp.snp_initialized
        error = ccp.do_cmd(abi.SEV_CMD_SNP_DF_FLUSH if snp else abi.SEV_CMD_DF_FLUSH)
        if error:
            name = "SEV-SNP" if snp else "SEV"
            ccp.printk(f"kvm_amd: {name}: DF_FLUSH failed, ret=-5, error={error:#x}")
            return False
        self._taken -= self._reclaimable
        self._reclaimable.clear()
        return True

    def free(self, asid: int) -> None:
        """sev_asid_free: the ASID waits for the next flush."""
        self._reclaimable.add(asid)
