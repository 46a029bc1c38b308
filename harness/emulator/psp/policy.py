# SPDX-License-Identifier: GPL-2.0-only
"""The guest policy, held against what the platform is (firmware ABI 56860, guest policy)."""

from __future__ import annotations

from dataclasses import dataclass

from harness.emulator.psp.status import require
from harness.uapi import sev
from harness.uapi.errors import SevFwError

_KNOWN = (
    sev.SNP_POLICY_MASK_VALID
    | sev.SNP_POLICY_MASK_MIGRATE_MA
    | sev.SNP_POLICY_MASK_CXL_ALLOW
    | sev.SNP_POLICY_MASK_MEM_AES_256_XTS
    | sev.SNP_POLICY_MASK_RAPL_DIS
    | sev.SNP_POLICY_MASK_CIPHERTEXT_HIDING_DRAM
    | sev.SNP_POLICY_MASK_PAGE_SWAP_DISABLE
)


@dataclass(frozen=True)
class PlatformFeatures:
    """What a policy may allow, or insist on."""

    smt: bool = True
    cxl: bool = False
    aes_256_xts: bool = False
    rapl_disabled: bool = False
    ciphertext_hiding: bool = False
    sockets: int = 1


def check_policy(policy: int, api: tuple[int, int], platform: PlatformFeatures) -> None:
    """Refuse a policy that this platform cannot honour."""

    def demand(condition: bool, why: str) -> None:
        require(condition, SevFwError.POLICY_FAILURE, why)

    demand(bool(policy & sev.SNP_POLICY_MASK_RSVD_MBO), "policy bit 17 is not one")
    demand(not policy & ~_KNOWN, "reserved policy bits")
    wanted = policy >> 8 & 0xFF, policy & 0xFF
    demand(wanted <= api, f"policy wants ABI {wanted[0]}.{wanted[1]}")
    demand(bool(policy & sev.SNP_POLICY_MASK_SMT) or not platform.smt, "SMT is on")
    demand(
        not policy & sev.SNP_POLICY_MASK_SINGLE_SOCKET or platform.sockets == 1,
        "more than one socket",
    )
    demand(bool(policy & sev.SNP_POLICY_MASK_CXL_ALLOW) or not platform.cxl, "CXL is in use")
    demand(
        not policy & sev.SNP_POLICY_MASK_MEM_AES_256_XTS or platform.aes_256_xts,
        "memory is not encrypted with AES-256-XTS",
    )
    demand(not policy & sev.SNP_POLICY_MASK_RAPL_DIS or platform.rapl_disabled, "RAPL is on")
    demand(
        not policy & sev.SNP_POLICY_MASK_CIPHERTEXT_HIDING_DRAM or platform.ciphertext_hiding,
        "ciphertext hiding is off",
    )
