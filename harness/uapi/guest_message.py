# SPDX-License-Identifier: GPL-2.0-only
"""Guest messages, attestation reports, certificates and the special pages of a guest.

arch/x86/include/asm/sev.h, arch/x86/coco/sev/shared.c and include/uapi/linux/sev-guest.h,
Linux 6.12; SNP firmware ABI 56860 rev 1.55 (guest messages, secrets page, CPUID page);
GHCB specification 56421 rev 2.03 (certificate table).
"""

from __future__ import annotations

import uuid

from harness.uapi.layout import PackedStruct, Struct, u8, u16, u32, u64
from harness.uapi.psp import sev_ecdsa_sig

MAX_AUTHTAG_LEN = 32
VMPCK_KEY_LEN = 32
SNP_REPORT_USER_DATA_SIZE = 64

# enum msg_type
(
    SNP_MSG_TYPE_INVALID,
    SNP_MSG_CPUID_REQ,
    SNP_MSG_CPUID_RSP,
    SNP_MSG_KEY_REQ,
    SNP_MSG_KEY_RSP,
    SNP_MSG_REPORT_REQ,
    SNP_MSG_REPORT_RSP,
    SNP_MSG_EXPORT_REQ,
    SNP_MSG_EXPORT_RSP,
    SNP_MSG_IMPORT_REQ,
    SNP_MSG_IMPORT_RSP,
    SNP_MSG_ABSORB_REQ,
    SNP_MSG_ABSORB_RSP,
    SNP_MSG_VMRK_REQ,
    SNP_MSG_VMRK_RSP,
) = range(15)

SNP_AEAD_INVALID = 0
SNP_AEAD_AES_256_GCM = 1

# What a guest request leaves in SW_EXITINFO2.
SNP_GUEST_FW_ERR_MASK = 0xFFFFFFFF
SNP_GUEST_VMM_ERR_SHIFT = 32
SNP_GUEST_VMM_ERR_INVALID_LEN = 1
SNP_GUEST_VMM_ERR_BUSY = 2
SNP_GUEST_VMM_ERR_GENERIC_v12 = 1 << 31
SNP_GUEST_VMM_ERR_GENERIC = 0xFFFFFFFF  # after 6.12


def SNP_GUEST_ERR(vmm_error: int, fw_error: int) -> int:
    """SW_EXITINFO2 of a guest request that failed."""
    return vmm_error << SNP_GUEST_VMM_ERR_SHIFT | fw_error & SNP_GUEST_FW_ERR_MASK


class snp_guest_msg_hdr(PackedStruct):
    _fields_ = (
        ("authtag", u8 * MAX_AUTHTAG_LEN),
        ("msg_seqno", u64),
        ("rsvd1", u8 * 8),
        ("algo", u8),
        ("hdr_version", u8),
        ("hdr_sz", u16),
        ("msg_type", u8),
        ("msg_version", u8),
        ("msg_sz", u16),
        ("rsvd2", u32),
        ("msg_vmpck", u8),
        ("rsvd3", u8 * 35),
    )


SNP_GUEST_MSG_PAYLOAD_MAX = 4096 - 0x60
"""Bytes of encrypted payload behind the header, in the page of a message."""


class snp_report_req(Struct):
    """MSG_REPORT_REQ; key_sel came with ABI 1.53 (the kernel has it as reserved)."""

    _fields_ = (
        ("user_data", u8 * SNP_REPORT_USER_DATA_SIZE),
        ("vmpl", u32),
        ("key_sel", u32),
        ("rsvd_tail", u8 * 24),
    )


class snp_report_resp_hdr(Struct):
    """MSG_REPORT_RSP, before the report."""

    _fields_ = (("status", u32), ("report_size", u32), ("rsvd", u8 * 24))


class snp_derived_key_req(Struct):
    """MSG_KEY_REQ."""

    _fields_ = (
        ("root_key_select", u32),
        ("rsvd", u32),
        ("guest_field_select", u64),
        ("vmpl", u32),
        ("guest_svn", u32),
        ("tcb_version", u64),
    )


class snp_derived_key_rsp(Struct):
    """MSG_KEY_RSP."""

    _fields_ = (("status", u32), ("rsvd", u8 * 28), ("derived_key", u8 * 32))


class tcb_version(Struct):
    """Security version numbers of Milan and Genoa (ABI, TCB_VERSION)."""

    _fields_ = (
        ("boot_loader", u8),
        ("tee", u8),
        ("rsvd", u8 * 4),
        ("snp", u8),
        ("microcode", u8),
    )


class snp_attestation_report(PackedStruct):
    """ATTESTATION_REPORT, version 2 and 3 (the cpuid_* fields are zero in version 2)."""

    _fields_ = (
        ("version", u32),
        ("guest_svn", u32),
        ("policy", u64),
        ("family_id", u8 * 16),
        ("image_id", u8 * 16),
        ("vmpl", u32),
        ("signature_algo", u32),
        ("current_tcb", u64),
        ("platform_info", u64),
        ("author_key_en", u32, 1),
        ("mask_chip_key", u32, 1),
        ("signing_key", u32, 3),
        ("rsvd1", u32, 27),
        ("rsvd2", u32),
        ("report_data", u8 * 64),
        ("measurement", u8 * 48),
        ("host_data", u8 * 32),
        ("id_key_digest", u8 * 48),
        ("author_key_digest", u8 * 48),
        ("report_id", u8 * 32),
        ("report_id_ma", u8 * 32),
        ("reported_tcb", u64),
        ("cpuid_fam_id", u8),
        ("cpuid_mod_id", u8),
        ("cpuid_step", u8),
        ("rsvd3", u8 * 21),
        ("chip_id", u8 * 64),
        ("committed_tcb", u64),
        ("current_build", u8),
        ("current_minor", u8),
        ("current_major", u8),
        ("rsvd4", u8),
        ("committed_build", u8),
        ("committed_minor", u8),
        ("committed_major", u8),
        ("rsvd5", u8),
        ("launch_tcb", u64),
        ("rsvd6", u8 * 168),
        ("signature", sev_ecdsa_sig),
    )


SNP_REPORT_SIGNED_SIZE = 0x2A0
"""Bytes at the start of a report that its signature covers."""

SNP_REPORT_SIGNING_KEY_VCEK = 0
SNP_REPORT_SIGNING_KEY_VLEK = 1
SNP_REPORT_SIGNING_KEY_NONE = 7

SNP_PLATFORM_INFO_SMT_EN = 1 << 0
SNP_PLATFORM_INFO_TSME_EN = 1 << 1


class snp_cert_table_entry(Struct):
    """Entry of the certificate table; a zero entry ends the table."""

    _fields_ = (("guid", u8 * 16), ("offset", u32), ("length", u32))


SNP_CERT_GUID_VCEK = uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd")
SNP_CERT_GUID_VLEK = uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
SNP_CERT_GUID_ASK = uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
SNP_CERT_GUID_ARK = uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")


class secrets_os_area(PackedStruct):
    _fields_ = (
        ("msg_seqno_0", u32),
        ("msg_seqno_1", u32),
        ("msg_seqno_2", u32),
        ("msg_seqno_3", u32),
        ("ap_jump_table_pa", u64),
        ("rsvd", u8 * 40),
        ("guest_usage", u8 * 32),
    )


class snp_secrets_page(PackedStruct):
    _fields_ = (
        ("version", u32),
        ("imien", u32, 1),
        ("rsvd1", u32, 31),
        ("fms", u32),
        ("rsvd2", u32),
        ("gosvw", u8 * 16),
        ("vmpck0", u8 * VMPCK_KEY_LEN),
        ("vmpck1", u8 * VMPCK_KEY_LEN),
        ("vmpck2", u8 * VMPCK_KEY_LEN),
        ("vmpck3", u8 * VMPCK_KEY_LEN),
        ("os_area", secrets_os_area),
        ("vmsa_tweak_bitmap", u8 * 64),
        ("svsm_base", u64),
        ("svsm_size", u64),
        ("svsm_caa", u64),
        ("svsm_max_version", u32),
        ("svsm_guest_vmpl", u8),
        ("rsvd3", u8 * 3),
        ("rsvd4", u8 * 3744),
    )


SNP_CPUID_COUNT_MAX = 64


class snp_cpuid_fn(PackedStruct):
    _fields_ = (
        ("eax_in", u32),
        ("ecx_in", u32),
        ("xcr0_in", u64),
        ("xss_in", u64),
        ("eax", u32),
        ("ebx", u32),
        ("ecx", u32),
        ("edx", u32),
        ("__reserved", u64),
    )


class snp_cpuid_table(PackedStruct):
    """The CPUID page; zeros follow up to its end."""

    _fields_ = (
        ("count", u32),
        ("__reserved1", u32),
        ("__reserved2", u64),
        ("fn", snp_cpuid_fn * SNP_CPUID_COUNT_MAX),
    )
