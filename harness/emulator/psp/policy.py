# SPDX-License-Identifier: GPL-2.0-only
"""The guest policy, held against what the platform is (firmware ABI 56860, guest policy)."""

from __future__ import annotations

from dataclasses import dataclass

from harness.emulator.psp.status import require
from harness.uapi import psp_newer as newer
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
    """What a policy may allow, or insist on, and what the firmware can."""

    smt: bool = True
    cxl: bool = False
    aes_256_xts: bool = False
    rapl_disabled: bool = False
    ciphertext_hiding: bool = False
    """The last two: as SNP_INIT_EX left them."""
    sockets: int = 1
    feature_info: bool = True
    """SNP_FEATURE_INFO exists, and tells of what follows."""
    can_disable_rapl: bool = False
    can_hide_ciphertext: bool = False
    x86_shutdown: bool = False
    """SNP_SHUTDOWN_EX can end SNP on the processors: the machine has to see to that."""
    mitigations: int | None = None
    """Vulnerabilities that SNP_VERIFY_MITIGATION knows, None where it does not exist."""

    @property
    def ecx(self) -> int:
        """Sub-function 0 of SNP_FEATURE_INFO."""
        bits = {
            newer.SNP_VLEK_LOAD_SUPPORTED: True,
            newer.SNP_X86_SHUTDOWN_SUPPORTED: self.x86_shutdown,
            newer.SNP_RAPL_DISABLE_SUPPORTED: self.can_disable_rapl,
            newer.SNP_CIPHER_TEXT_HIDING_SUPPORTED: self.can_hide_ciphertext,
            newer.SNP_AES_256_XTS_POLICY_SUPPORTED: self.aes_256_xts,
            newer.SNP_CXL_ALLOW_POLICY_SUPPORTED: self.cxl,
            newer.SNP_VERIFY_MITIGATION_SUPPORTED: self.mitigations is not None,
        }
        return sum(bit for bit, is_set in bits.items() if is_set)


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
