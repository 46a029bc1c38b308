# SPDX-License-Identifier: GPL-2.0-only
"""One RMP entry: its bits, its fields, and the page state the firmware sees in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

# Low word: struct rmpentry, arch/x86/virt/svm/sev.c (Linux 6.12).  The layout of the high word
# is not public; here byte n holds the permissions of VMPL n.
ASSIGNED = 1 << 0
SIZE_2M = 1 << 1
IMMUTABLE = 1 << 2
GPA_MASK = ((1 << 39) - 1) << 12
ASID_SHIFT = 51
ASID_MASK = 0x3FF
VMSA = 1 << 61
VALIDATED = 1 << 62

GPA_LIMIT = GPA_MASK + (1 << 12)
HEAD_2M = ASSIGNED | SIZE_2M
"""Both bits: an entry that covers 2 MiB."""
OWNER = ASSIGNED | IMMUTABLE | GPA_MASK | ASID_MASK << ASID_SHIFT
"""What has to match before a guest may use a page, apart from the page size."""

# APM vol. 2, table 15-36 (VMPL permission mask).
PERM_READ, PERM_WRITE, PERM_EXECUTE_USER, PERM_EXECUTE_SUPERVISOR = 1, 2, 4, 8
PERM_ALL = 0xF
VMPLS = 4


class RmpCode(IntEnum):
    """What the instructions return in EAX (APM vol. 3; arch/x86/include/asm/sev.h)."""

    SUCCESS = 0
    FAIL_INPUT = 1
    FAIL_PERMISSION = 2
    FAIL_INUSE = 3
    FAIL_OVERLAP = 4
    FAIL_SIZEMISMATCH = 6


class PageSize(IntEnum):
    """RMP_PG_SIZE_4K, RMP_PG_SIZE_2M."""

    PG_4K = 0
    PG_2M = 1


_SIZES = (PageSize.PG_4K, PageSize.PG_2M)


@dataclass(frozen=True, slots=True)
class RmpEntry:
    """The fields of an entry (APM vol. 2, table 15-34); the default is a hypervisor's page."""

    assigned: bool = False
    size: PageSize = PageSize.PG_4K
    immutable: bool = False
    gpa: int = 0
    asid: int = 0
    vmsa: bool = False
    validated: bool = False
    perms: tuple[int, int, int, int] = (0, 0, 0, 0)

    @classmethod
    def decode(cls, lo: int, hi: int) -> RmpEntry:
        """Fields of the two words."""
        return cls(
            bool(lo & ASSIGNED),
            _SIZES[lo >> 1 & 1],
            bool(lo & IMMUTABLE),
            lo & GPA_MASK,
            lo >> ASID_SHIFT & ASID_MASK,
            bool(lo & VMSA),
            bool(lo & VALIDATED),
            (hi & 0xFF, hi >> 8 & 0xFF, hi >> 16 & 0xFF, hi >> 24 & 0xFF),
        )

    def encode(self) -> tuple[int, int]:
        """The two words."""
        if self.gpa & ~GPA_MASK or self.asid & ~ASID_MASK:
            raise ValueError(f"GPA 0x{self.gpa:x} or ASID {self.asid} does not fit an RMP entry")
        lo = (
            (ASSIGNED if self.assigned else 0)
            | (SIZE_2M if self.size else 0)
            | (IMMUTABLE if self.immutable else 0)
            | self.gpa
            | self.asid << ASID_SHIFT
            | (VMSA if self.vmsa else 0)
            | (VALIDATED if self.validated else 0)
        )
        p0, p1, p2, p3 = self.perms
        return lo, p0 | p1 << 8 | p2 << 16 | p3 << 24


class PageState(Enum):
    """States of a page (SEV-SNP firmware ABI 56860, chapter 5 'Page management')."""

    HYPERVISOR = "hypervisor"
    HV_FIXED = "hv-fixed"
    RECLAIM = "reclaim"
    FIRMWARE = "firmware"
    CONTEXT = "context"
    METADATA = "metadata"
    PRE_GUEST = "pre-guest"
    PRE_SWAP = "pre-swap"
    GUEST_INVALID = "guest-invalid"
    GUEST_VALID = "guest-valid"

    @classmethod
    def of(cls, entry: RmpEntry) -> PageState:
        """The state that an entry's fields stand for."""
        if not entry.assigned:
            return cls.HV_FIXED if entry.immutable else cls.HYPERVISOR
        if entry.asid:
            if entry.immutable:
                return cls.PRE_SWAP if entry.validated else cls.PRE_GUEST
            return cls.GUEST_VALID if entry.validated else cls.GUEST_INVALID
        if not entry.immutable:
            return cls.RECLAIM
        if entry.vmsa:
            return cls.CONTEXT
        return cls.METADATA if entry.gpa else cls.FIRMWARE


class RmpFault(Exception):
    """An access that the RMP refuses: #VMEXIT(NPF) for a guest.

    `bits` are those of EXITINFO1 that the RMP contributes (APM vol. 2, 15.36.10).
    """

    RMP = 1 << 31
    ENC = 1 << 34
    SIZEM = 1 << 35
    VMPL = 1 << 36

    def __init__(self, bits: int, spa: int, gpa: int, why: str) -> None:
        super().__init__(f"RMP fault at SPA 0x{spa:x}, GPA 0x{gpa:x}: {why}")
        self.bits, self.spa, self.gpa, self.why = bits, spa, gpa, why


class PageNotValidated(Exception):
    """Private access to a page that the guest has not validated: #VC in the guest."""

    ERROR_CODE = 0x404
    """PAGE_NOT_VALIDATED (APM vol. 2, 15.36.10)."""

    def __init__(self, gpa: int) -> None:
        super().__init__(f"GPA 0x{gpa:x} is not validated")
        self.gpa = gpa
