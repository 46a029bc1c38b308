# SPDX-License-Identifier: GPL-2.0-only
"""Commands of the PSP, and fields of older ones, that kernels newer than 6.12 know.

include/linux/psp-sev.h and include/uapi/linux/psp-sev.h, Linux 7.3; SNP firmware ABI 56860.
"""

from __future__ import annotations

from harness.uapi.layout import PackedStruct, u8, u16, u32, u64

SEV_CMD_SNP_VERIFY_MITIGATION = 0x0B2
SEV_CMD_SNP_FEATURE_INFO = 0x0CE

# Of the firmware's own specification, no kernel issues it (SEV API 55766, ACTIVATE_EX).
SEV_CMD_ACTIVATE_EX = 0x025

# Feature bits of sub-function 0 in EBX and ECX.
SNP_SEV_LEGACY_SUPPORTED = 1 << 0
SNP_SEV_TIO_SUPPORTED = 1 << 1
SNP_VLEK_LOAD_SUPPORTED = 1 << 0
SNP_X86_SHUTDOWN_SUPPORTED = 1 << 1
SNP_RAPL_DISABLE_SUPPORTED = 1 << 2
SNP_CIPHER_TEXT_HIDING_SUPPORTED = 1 << 3
SNP_AES_256_XTS_POLICY_SUPPORTED = 1 << 4
SNP_CXL_ALLOW_POLICY_SUPPORTED = 1 << 5
SNP_VERIFY_MITIGATION_SUPPORTED = 1 << 13

SNP_MIT_SUBCMD_REQ_STATUS = 0
SNP_MIT_SUBCMD_REQ_VERIFY = 1


class sev_data_snp_init_ex(PackedStruct):
    _fields_ = (
        ("init_rmp", u32, 1),
        ("list_paddr_en", u32, 1),
        ("rapl_dis", u32, 1),
        ("ciphertext_hiding_en", u32, 1),
        ("tio_en", u32, 1),
        ("rsvd", u32, 27),
        ("rsvd1", u32),
        ("list_paddr", u64),
        ("max_snp_asid", u16),
        ("rsvd2", u8 * 46),
    )


class sev_data_snp_shutdown_ex(PackedStruct):
    _fields_ = (
        ("len", u32),
        ("iommu_snp_shutdown", u32, 1),
        ("x86_snp_shutdown", u32, 1),
        ("rsvd1", u32, 30),
    )


class sev_user_data_snp_status(PackedStruct):
    _fields_ = (
        ("api_major", u8),
        ("api_minor", u8),
        ("state", u8),
        ("is_rmp_initialized", u8, 1),
        ("rsvd", u8, 7),
        ("build_id", u32),
        ("mask_chip_id", u32, 1),
        ("mask_chip_key", u32, 1),
        ("vlek_en", u32, 1),
        ("feature_info", u32, 1),
        ("rapl_dis", u32, 1),
        ("ciphertext_hiding_cap", u32, 1),
        ("ciphertext_hiding_en", u32, 1),
        ("rsvd1", u32, 25),
        ("guest_count", u32),
        ("current_tcb_version", u64),
        ("reported_tcb_version", u64),
    )


class sev_data_snp_feature_info(PackedStruct):
    _fields_ = (
        ("length", u32),
        ("ecx_in", u32),
        ("feature_info_paddr", u64),
    )


class snp_feature_info(PackedStruct):
    _fields_ = (
        ("eax", u32),
        ("ebx", u32),
        ("ecx", u32),
        ("edx", u32),
    )


class sev_data_snp_verify_mitigation(PackedStruct):
    _fields_ = (
        ("length", u32),
        ("subcommand", u16),
        ("rsvd", u16),
        ("vector", u64),
        ("dst_paddr_en", u32, 1),
        ("src_paddr_en", u32, 1),
        ("rsvd1", u32, 30),
        ("rsvd2", u8 * 4),
        ("src_paddr", u64),
        ("dst_paddr", u64),
        ("rsvd3", u8 * 24),
    )


class sev_data_snp_verify_mitigation_dst(PackedStruct):
    _fields_ = (
        ("mit_verified_vector", u64),
        ("mit_supported_vector", u64),
        ("mit_failure_status", u32),
    )
