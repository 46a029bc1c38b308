# SPDX-License-Identifier: GPL-2.0-only
"""Address space identifiers: one pool for SNP, SEV-ES and plain SEV guests.

An ASID that a guest gave up may be taken again only after WBINVD on every processor and a
DF_FLUSH (SEV API 55766, DEACTIVATE and DF_FLUSH; 56860, SNP_DF_FLUSH).  The firmware sees
WBINVD through a flag in each core; here the machine says so, if it tracks caches at all.
"""

from __future__ import annotations

from enum import Enum, auto

from harness.emulator.psp.status import require
from harness.uapi.errors import SevFwError


class Kind(Enum):
    """Kinds of guests."""

    SEV = auto()
    SEV_ES = auto()
    SNP = auto()


class Asids:
    """Who has which ASID, and which wait for a flush."""

    def __init__(self, limit: int, es_limit: int | None = None, *, caches: bool = False) -> None:
        self.limit = limit
        """The highest ASID (CPUID 0x8000001F ECX)."""
        self._es_limit = es_limit
        self.snp_limit: int | None = None
        """The highest ASID of SNP guests, those above are for SEV-ES: with ciphertext hiding."""
        self._caches, self._dirty = caches, caches
        self.owners: dict[int, object] = {}
        self.unflushed: set[int] = set()
        """ASIDs that no guest may take before the next DF_FLUSH."""

    def check(self, asid: int, kind: Kind) -> None:
        """Refuse an ASID that does not exist, or is for guests of another kind.

        ASIDs below CPUID 0x8000001F EDX are for SEV-ES and SNP guests, the others for plain SEV.
        """
        good = 0 < asid <= self.limit
        if good and self._es_limit is not None:
            good = (kind is Kind.SEV) == (asid > self._es_limit)
        if good and self.snp_limit is not None and kind is not Kind.SEV:
            good = (kind is Kind.SEV_ES) == (asid > self.snp_limit)
        require(good, SevFwError.INVALID_ASID, f"ASID {asid}")

    def check_snp_limit(self, limit: int | None) -> None:
        """Refuse a highest ASID of SNP guests (SNP_INIT_EX) that is none of theirs."""
        highest = self.limit if self._es_limit is None else self._es_limit
        good = limit is None or 0 < limit <= highest
        require(good, SevFwError.INVALID_PARAM, f"MAX_SNP_ASID {limit}")

    def take(self, asid: int, owner: object) -> None:
        """Bind an ASID to a guest."""
        require(asid not in self.owners, SevFwError.ASID_OWNED, f"ASID {asid}")
        require(asid not in self.unflushed, SevFwError.DFFLUSH_REQUIRED, f"ASID {asid}")
        self.owners[asid] = owner

    def release(self, asid: int) -> None:
        """A guest gives its ASID up; caches may still hold lines of it."""
        del self.owners[asid]
        self.unflushed.add(asid)
        self._dirty = self._caches

    def distrust(self) -> None:
        """No free ASID may be used before caches are clean of what was in memory before."""
        self.unflushed |= set(range(1, self.limit + 1)) - self.owners.keys()
        self._dirty = self._caches

    def wbinvd(self) -> None:
        """Every processor has written its caches back."""
        self._dirty = False

    def flush(self) -> None:
        """DF_FLUSH: ASIDs without an owner may be used again."""
        require(not self._dirty, SevFwError.WBINVD_REQUIRED, "caches are not written back")
        self.unflushed.clear()

    def clear(self) -> None:
        """Nobody has any ASID."""
        self.owners.clear()
        self.unflushed.clear()
