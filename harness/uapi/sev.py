# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: F403 - psp, psp_sev and sev_legacy share this name space, as in the kernel's headers
"""SEV through KVM (KVM_MEMORY_ENCRYPT_OP) and through /dev/sev (SEV_ISSUE_CMD).

arch/x86/include/uapi/asm/kvm.h and include/uapi/linux/psp-sev.h, Linux 6.12.  Structures and
numbers with `_v12` at the end are those of the series' v12 (patches 10, 11, 12 and 28 of 29).
The PSP's own commands and buffers are in psp; their names are also found here.
"""

from __future__ import annotations

from harness.uapi.ioctls import _IOWR
from harness.uapi.layout import PackedStruct, Struct, u8, u16, u32, u64
from harness.uapi.psp import *
from harness.uapi.psp_sev import *
from harness.uapi.sev_legacy import *

# enum sev_cmd_id
KVM_SEV_INIT = 0
KVM_SEV_ES_INIT = 1
KVM_SEV_LAUNCH_START = 2
KVM_SEV_LAUNCH_UPDATE_DATA = 3
KVM_SEV_LAUNCH_UPDATE_VMSA = 4
KVM_SEV_LAUNCH_SECRET = 5
KVM_SEV_LAUNCH_MEASURE = 6
KVM_SEV_LAUNCH_FINISH = 7
KVM_SEV_SEND_START = 8
KVM_SEV_SEND_UPDATE_DATA = 9
KVM_SEV_SEND_UPDATE_VMSA = 10
KVM_SEV_SEND_FINISH = 11
KVM_SEV_RECEIVE_START = 12
KVM_SEV_RECEIVE_UPDATE_DATA = 13
KVM_SEV_RECEIVE_UPDATE_VMSA = 14
KVM_SEV_RECEIVE_FINISH = 15
KVM_SEV_GUEST_STATUS = 16
KVM_SEV_DBG_DECRYPT = 17
KVM_SEV_DBG_ENCRYPT = 18
KVM_SEV_CERT_EXPORT = 19
KVM_SEV_GET_ATTESTATION_REPORT = 20
KVM_SEV_SEND_CANCEL = 21
KVM_SEV_INIT2 = 22
KVM_SEV_SNP_LAUNCH_START = 100
KVM_SEV_SNP_LAUNCH_UPDATE = 101
KVM_SEV_SNP_LAUNCH_FINISH = 102
KVM_SEV_SNP_ENABLE_REQ_CERTS = 103  # Linux 7.0
KVM_SEV_SNP_LAUNCH_START_v12 = 23
KVM_SEV_SNP_LAUNCH_UPDATE_v12 = 24
KVM_SEV_SNP_LAUNCH_FINISH_v12 = 25

COMMAND_NAMES = {
    value: name.removesuffix("_v12")
    for name, value in list(globals().items())
    if name.startswith("KVM_SEV_")
}
"""Names of the commands of KVM_MEMORY_ENCRYPT_OP, of all revisions."""

KVM_SEV_SNP_PAGE_TYPE_NORMAL = 0x1
KVM_SEV_SNP_PAGE_TYPE_ZERO = 0x3
KVM_SEV_SNP_PAGE_TYPE_UNMEASURED = 0x4
KVM_SEV_SNP_PAGE_TYPE_SECRETS = 0x5
KVM_SEV_SNP_PAGE_TYPE_CPUID = 0x6

KVM_SEV_SNP_ID_BLOCK_SIZE = 96
KVM_SEV_SNP_ID_AUTH_SIZE = 4096
KVM_SEV_SNP_FINISH_DATA_SIZE = 32

# Guest policy: SNP firmware ABI 56860 rev 1.55, guest policy; arch/x86/kvm/svm/sev.c, 6.12,
# has the names up to DEBUG and SINGLE_SOCKET, the rest are ours in its manner.
SNP_POLICY_MASK_API_MINOR = 0xFF
SNP_POLICY_MASK_API_MAJOR = 0xFF00
SNP_POLICY_MASK_SMT = 1 << 16
SNP_POLICY_MASK_RSVD_MBO = 1 << 17
SNP_POLICY_MASK_MIGRATE_MA = 1 << 18
SNP_POLICY_MASK_DEBUG = 1 << 19
SNP_POLICY_MASK_SINGLE_SOCKET = 1 << 20
SNP_POLICY_MASK_CXL_ALLOW = 1 << 21
SNP_POLICY_MASK_MEM_AES_256_XTS = 1 << 22
SNP_POLICY_MASK_RAPL_DIS = 1 << 23
SNP_POLICY_MASK_CIPHERTEXT_HIDING_DRAM = 1 << 24
SNP_POLICY_MASK_PAGE_SWAP_DISABLE = 1 << 25
SNP_POLICY_MASK_VALID = (
    SNP_POLICY_MASK_API_MINOR
    | SNP_POLICY_MASK_API_MAJOR
    | SNP_POLICY_MASK_SMT
    | SNP_POLICY_MASK_RSVD_MBO
    | SNP_POLICY_MASK_DEBUG
    | SNP_POLICY_MASK_SINGLE_SOCKET
)
"""Bits that 6.12's KVM lets through; the merged interface answers any other with EINVAL."""

# GHCB protocol versions of KVM_SEV_INIT2 (arch/x86/kvm/svm/sev.c, 6.12).
GHCB_VERSION_MIN = 1
GHCB_VERSION_DEFAULT = 2
GHCB_VERSION_MAX = 2

# RMP instructions, as arch/x86/include/asm/sev.h, 6.12, has them; PVALIDATE and RMPADJUST
# codes beyond those are of APM volume 3.
RMP_PG_SIZE_4K = 0
RMP_PG_SIZE_2M = 1
RMPUPDATE_FAIL_OVERLAP = 4
PSMASH_FAIL_INUSE = 3
PVALIDATE_FAIL_SIZEMISMATCH = 6
PVALIDATE_FAIL_NOUPDATE = 255
RMPADJUST_VMSA_PAGE_BIT = 1 << 16
RMPADJUST_FAIL_INPUT = 1
RMPADJUST_FAIL_PERMISSION = 2
RMPADJUST_FAIL_SIZEMISMATCH = 6

# Nested page fault error code (arch/x86/include/asm/kvm_host.h, 6.12).
PFERR_PRESENT_MASK = 1 << 0
PFERR_WRITE_MASK = 1 << 1
PFERR_USER_MASK = 1 << 2
PFERR_RSVD_MASK = 1 << 3
PFERR_FETCH_MASK = 1 << 4
PFERR_GUEST_RMP_MASK = 1 << 31
PFERR_GUEST_FINAL_MASK = 1 << 32
PFERR_GUEST_PAGE_MASK = 1 << 33
PFERR_GUEST_ENC_MASK = 1 << 34
PFERR_GUEST_SIZEM_MASK = 1 << 35
PFERR_GUEST_VMPL_MASK = 1 << 36
PFERR_PRIVATE_ACCESS = 1 << 49

# Commands of /dev/sev.
SEV_FACTORY_RESET = 0
SEV_PLATFORM_STATUS = 1
SEV_PEK_GEN = 2
SEV_PEK_CSR = 3
SEV_PDH_GEN = 4
SEV_PDH_CERT_EXPORT = 5
SEV_PEK_CERT_IMPORT = 6
SEV_GET_ID = 7
SEV_GET_ID2 = 8
SNP_PLATFORM_STATUS = 9
SNP_COMMIT = 10
SNP_SET_CONFIG = 11
SNP_VLEK_LOAD = 12
SNP_PAUSE_ATTESTATION = 13  # v12 only
SNP_RESUME_ATTESTATION = 14  # v12 only

DEVICE_COMMAND_NAMES = dict(
    enumerate(
        (
            *("SEV_FACTORY_RESET", "SEV_PLATFORM_STATUS", "SEV_PEK_GEN", "SEV_PEK_CSR"),
            *("SEV_PDH_GEN", "SEV_PDH_CERT_EXPORT", "SEV_PEK_CERT_IMPORT", "SEV_GET_ID"),
            *("SEV_GET_ID2", "SNP_PLATFORM_STATUS", "SNP_COMMIT", "SNP_SET_CONFIG"),
            *("SNP_VLEK_LOAD", "SNP_PAUSE_ATTESTATION", "SNP_RESUME_ATTESTATION"),
        )
    )
)

SEV_STATUS_FLAGS_CONFIG_ES = 0x0100


class kvm_sev_cmd(Struct):
    _fields_ = (
        ("id", u32),
        ("pad0", u32),
        ("data", u64),
        ("error", u32),
        ("sev_fd", u32),
    )


class kvm_sev_init(Struct):
    _fields_ = (
        ("vmsa_features", u64),
        ("flags", u32),
        ("ghcb_version", u16),
        ("pad1", u16),
        ("pad2", u32 * 8),
    )


class kvm_sev_snp_launch_start(Struct):
    _fields_ = (
        ("policy", u64),
        ("gosvw", u8 * 16),
        ("flags", u16),
        ("pad0", u8 * 6),
        ("pad1", u64 * 4),
    )


class kvm_sev_snp_launch_update(Struct):
    _fields_ = (
        ("gfn_start", u64),
        ("uaddr", u64),
        ("len", u64),
        ("type", u8),
        ("pad0", u8),
        ("flags", u16),
        ("pad1", u32),
        ("pad2", u64 * 4),
    )


class kvm_sev_snp_launch_finish(Struct):
    _fields_ = (
        ("id_block_uaddr", u64),
        ("id_auth_uaddr", u64),
        ("id_block_en", u8),
        ("auth_key_en", u8),
        ("vcek_disabled", u8),
        ("host_data", u8 * KVM_SEV_SNP_FINISH_DATA_SIZE),
        ("pad0", u8 * 3),
        ("flags", u16),
        ("pad1", u64 * 4),
    )


class kvm_sev_snp_launch_start_v12(Struct):
    _fields_ = (("policy", u64), ("gosvw", u8 * 16))


class kvm_sev_snp_launch_update_v12(Struct):
    _fields_ = (("gfn_start", u64), ("uaddr", u64), ("len", u32), ("type", u8))


class kvm_sev_snp_launch_finish_v12(Struct):
    _fields_ = (
        ("id_block_uaddr", u64),
        ("id_auth_uaddr", u64),
        ("id_block_en", u8),
        ("auth_key_en", u8),
        ("vlek_required", u8),
        ("host_data", u8 * KVM_SEV_SNP_FINISH_DATA_SIZE),
        ("pad", u8 * 6),
    )


class sev_user_data_status(PackedStruct):
    _fields_ = (
        ("api_major", u8),
        ("api_minor", u8),
        ("state", u8),
        ("flags", u32),
        ("build", u8),
        ("guest_count", u32),
    )


class sev_user_data_pek_csr(PackedStruct):
    _fields_ = (
        ("address", u64),
        ("length", u32),
    )


class sev_user_data_pek_cert_import(PackedStruct):
    _fields_ = (
        ("pek_cert_address", u64),
        ("pek_cert_len", u32),
        ("oca_cert_address", u64),
        ("oca_cert_len", u32),
    )


class sev_user_data_pdh_cert_export(PackedStruct):
    _fields_ = (
        ("pdh_cert_address", u64),
        ("pdh_cert_len", u32),
        ("cert_chain_address", u64),
        ("cert_chain_len", u32),
    )


class sev_user_data_get_id(PackedStruct):
    _fields_ = (
        ("socket1", u8 * 64),
        ("socket2", u8 * 64),
    )


class sev_user_data_get_id2(PackedStruct):
    _fields_ = (
        ("address", u64),
        ("length", u32),
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
        ("rsvd1", u32, 29),
        ("guest_count", u32),
        ("current_tcb_version", u64),
        ("reported_tcb_version", u64),
    )


class sev_user_data_snp_config(PackedStruct):
    _fields_ = (
        ("reported_tcb", u64),
        ("mask_chip_id", u32, 1),
        ("mask_chip_key", u32, 1),
        ("rsvd", u32, 30),
        ("rsvd1", u8 * 52),
    )


class sev_user_data_snp_vlek_load(PackedStruct):
    _fields_ = (
        ("len", u32),
        ("vlek_wrapped_version", u8),
        ("rsvd", u8 * 3),
        ("vlek_wrapped_address", u64),
    )


class sev_user_data_snp_wrapped_vlek_hashstick(PackedStruct):
    _fields_ = (("data", u8 * 432),)


class sev_issue_cmd(PackedStruct):
    _fields_ = (
        ("cmd", u32),
        ("data", u64),
        ("error", u32),
    )


class sev_user_data_snp_pause_attestation(PackedStruct):
    """What v12's SNP_PAUSE_ATTESTATION and SNP_RESUME_ATTESTATION return."""

    _fields_ = (("id", u64),)


SEV_IOC_TYPE = "S"
SEV_ISSUE_CMD = _IOWR(SEV_IOC_TYPE, 0x0, sev_issue_cmd)
