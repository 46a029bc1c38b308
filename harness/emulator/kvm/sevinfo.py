# SPDX-License-Identifier: GPL-2.0-only
"""What KVM keeps about the encryption of a VM (struct kvm_sev_info, svm.h, Linux 6.12)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SevInfo:
    """State of KVM_SEV_INIT2 and of the launch."""

    active: bool = False
    es_active: bool = False
    snp_active: bool = False
    need_init: bool = False
    asid: int = 0
    vmsa_features: int = 0
    ghcb_version: int = 0
    policy: int = 0
    handle: int = 0
    """The firmware's name for a plain SEV or SEV-ES guest, 0 before LAUNCH_START."""
    fd: int = -1
    """The /dev/sev descriptor that LAUNCH_START was given."""
    snp_context: int | None = None
    """Physical address of the guest context page (GCTX), None before LAUNCH_START."""
    guest_req_buffer: int | None = None
    guest_resp_buffer: int | None = None
    """Physical addresses of the bounce buffers for guest requests."""
    launched: bool = False
    ap_jump_table: int = 0
    certificates: bool = False
    """Userspace is asked for certificates (KVM_SEV_SNP_ENABLE_REQ_CERTS)."""
