# SPDX-License-Identifier: GPL-2.0-only
"""The attestation report, version 2 (firmware ABI 56860 rev 1.55, ATTESTATION_REPORT)."""

from __future__ import annotations

from harness.emulator.psp import endorsement
from harness.emulator.psp.guest_context import GuestContext
from harness.emulator.psp.keys import sign
from harness.emulator.psp.platform import Platform
from harness.uapi.guest_message import (
    SNP_PLATFORM_INFO_SMT_EN,
    SNP_REPORT_SIGNED_SIZE,
    SNP_REPORT_SIGNING_KEY_NONE,
    SNP_REPORT_SIGNING_KEY_VCEK,
    SNP_REPORT_SIGNING_KEY_VLEK,
    snp_attestation_report,
)
from harness.uapi.psp import SEV_ALGO_ECDSA_P384_SHA384

VERSION = 2
NO_AGENT = b"\xff" * 32


def attestation_report(
    platform: Platform, guest: GuestContext, report_data: bytes, vmpl: int, key_select: int
) -> bytes:
    """A signed report; Refused where the key that was asked for may not sign."""
    use_vlek = endorsement.choose(platform, key_select, vcek_disabled=guest.vcek_disabled)
    tcb = platform.reported_tcb
    key = (endorsement.vlek if use_vlek else endorsement.vcek)(platform, tcb)
    report = snp_attestation_report(
        version=VERSION,
        guest_svn=guest.guest_svn,
        policy=guest.policy,
        family_id=guest.family_id,
        image_id=guest.image_id,
        vmpl=vmpl,
        signature_algo=SEV_ALGO_ECDSA_P384_SHA384,
        current_tcb=platform.tcb.value,
        platform_info=SNP_PLATFORM_INFO_SMT_EN if platform.features.smt else 0,
        author_key_en=guest.author_key_en,
        mask_chip_key=platform.mask_chip_key,
        signing_key=SNP_REPORT_SIGNING_KEY_VLEK if use_vlek else SNP_REPORT_SIGNING_KEY_VCEK,
        report_data=report_data,
        measurement=guest.digest.value,
        host_data=guest.host_data,
        id_key_digest=guest.id_key_digest,
        author_key_digest=guest.author_key_digest,
        report_id=guest.report_id,
        report_id_ma=guest.migration_agent.report_id if guest.migration_agent else NO_AGENT,
        reported_tcb=tcb.value,
        chip_id=bytes(64) if platform.mask_chip_id else platform.chip_id,
        committed_tcb=platform.committed_tcb.value,
        launch_tcb=guest.launch_tcb.value,
    )
    for moment, version in (
        ("current", platform.version),
        ("committed", platform.committed_version),
    ):
        for part, value in zip(("major", "minor", "build"), version, strict=True):
            setattr(report, f"{moment}_{part}", value)
    if platform.mask_chip_key:
        report.signing_key = SNP_REPORT_SIGNING_KEY_NONE
    else:
        report.signature = sign(key, bytes(report)[:SNP_REPORT_SIGNED_SIZE])
    return bytes(report)
