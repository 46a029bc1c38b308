# SPDX-License-Identifier: GPL-2.0-only
"""Commands of the PSP and the buffers that the kernel passes with them.

include/linux/psp-sev.h, Linux 6.12; SNP firmware ABI 56860 rev 1.55.
"""

from __future__ import annotations

from harness.uapi.layout import PackedStruct, Struct, u8, u32, u64

SEV_CMD_INIT = 0x001
SEV_CMD_SHUTDOWN = 0x002
SEV_CMD_FACTORY_RESET = 0x003
SEV_CMD_PLATFORM_STATUS = 0x004
SEV_CMD_PEK_GEN = 0x005
SEV_CMD_PEK_CSR = 0x006
SEV_CMD_PEK_CERT_IMPORT = 0x007
SEV_CMD_PDH_CERT_EXPORT = 0x008
SEV_CMD_PDH_GEN = 0x009
SEV_CMD_DF_FLUSH = 0x00A
SEV_CMD_DOWNLOAD_FIRMWARE = 0x00B
SEV_CMD_GET_ID = 0x00C
SEV_CMD_INIT_EX = 0x00D
SEV_CMD_DECOMMISSION = 0x020
SEV_CMD_ACTIVATE = 0x021
SEV_CMD_DEACTIVATE = 0x022
SEV_CMD_GUEST_STATUS = 0x023
SEV_CMD_LAUNCH_START = 0x030
SEV_CMD_LAUNCH_UPDATE_DATA = 0x031
SEV_CMD_LAUNCH_UPDATE_VMSA = 0x032
SEV_CMD_LAUNCH_MEASURE = 0x033
SEV_CMD_LAUNCH_UPDATE_SECRET = 0x034
SEV_CMD_LAUNCH_FINISH = 0x035
SEV_CMD_ATTESTATION_REPORT = 0x036
SEV_CMD_SEND_START = 0x040
SEV_CMD_SEND_UPDATE_DATA = 0x041
SEV_CMD_SEND_UPDATE_VMSA = 0x042
SEV_CMD_SEND_FINISH = 0x043
SEV_CMD_SEND_CANCEL = 0x044
SEV_CMD_RECEIVE_START = 0x050
SEV_CMD_RECEIVE_UPDATE_DATA = 0x051
SEV_CMD_RECEIVE_UPDATE_VMSA = 0x052
SEV_CMD_RECEIVE_FINISH = 0x053
SEV_CMD_DBG_DECRYPT = 0x060
SEV_CMD_DBG_ENCRYPT = 0x061
SEV_CMD_SNP_INIT = 0x081
SEV_CMD_SNP_SHUTDOWN = 0x082
SEV_CMD_SNP_PLATFORM_STATUS = 0x083
SEV_CMD_SNP_DF_FLUSH = 0x084
SEV_CMD_SNP_INIT_EX = 0x085
SEV_CMD_SNP_SHUTDOWN_EX = 0x086
SEV_CMD_SNP_DECOMMISSION = 0x090
SEV_CMD_SNP_ACTIVATE = 0x091
SEV_CMD_SNP_GUEST_STATUS = 0x092
SEV_CMD_SNP_GCTX_CREATE = 0x093
SEV_CMD_SNP_GUEST_REQUEST = 0x094
SEV_CMD_SNP_ACTIVATE_EX = 0x095
SEV_CMD_SNP_LAUNCH_START = 0x0A0
SEV_CMD_SNP_LAUNCH_UPDATE = 0x0A1
SEV_CMD_SNP_LAUNCH_FINISH = 0x0A2
SEV_CMD_SNP_DBG_DECRYPT = 0x0B0
SEV_CMD_SNP_DBG_ENCRYPT = 0x0B1
SEV_CMD_SNP_PAGE_SWAP_OUT = 0x0C0
SEV_CMD_SNP_PAGE_SWAP_IN = 0x0C1
SEV_CMD_SNP_PAGE_MOVE = 0x0C2
SEV_CMD_SNP_PAGE_MD_INIT = 0x0C3
SEV_CMD_SNP_PAGE_SET_STATE = 0x0C6
SEV_CMD_SNP_PAGE_RECLAIM = 0x0C7
SEV_CMD_SNP_PAGE_UNSMASH = 0x0C8
SEV_CMD_SNP_CONFIG = 0x0C9
SEV_CMD_SNP_DOWNLOAD_FIRMWARE_EX = 0x0CA
SEV_CMD_SNP_COMMIT = 0x0CB
SEV_CMD_SNP_VLEK_LOAD = 0x0CD


# Page types of SNP_LAUNCH_UPDATE.
SNP_PAGE_TYPE_NORMAL = 0x1
SNP_PAGE_TYPE_VMSA = 0x2
SNP_PAGE_TYPE_ZERO = 0x3
SNP_PAGE_TYPE_UNMEASURED = 0x4
SNP_PAGE_TYPE_SECRET = 0x5
SNP_PAGE_TYPE_CPUID = 0x6

# Platform state.
SEV_STATE_UNINIT = 0x0
SEV_STATE_INIT = 0x1
SEV_STATE_WORKING = 0x2

SEV_INIT_FLAGS_SEV_ES = 0x01
SEV_FW_BLOB_MAX_SIZE = 0x4000


class sev_data_init(PackedStruct):
    _fields_ = (
        ("flags", u32),
        ("reserved", u32),
        ("tmr_address", u64),
        ("tmr_len", u32),
    )


class sev_data_init_ex(PackedStruct):
    _fields_ = (
        ("length", u32),
        ("flags", u32),
        ("tmr_address", u64),
        ("tmr_len", u32),
        ("reserved", u32),
        ("nv_address", u64),
        ("nv_len", u32),
    )


class sev_data_download_firmware(PackedStruct):
    _fields_ = (
        ("address", u64),
        ("len", u32),
    )


class sev_data_decommission(PackedStruct):
    _fields_ = (("handle", u32),)


class sev_data_activate(PackedStruct):
    _fields_ = (
        ("handle", u32),
        ("asid", u32),
    )


class sev_data_deactivate(PackedStruct):
    _fields_ = (("handle", u32),)


class sev_data_guest_status(PackedStruct):
    _fields_ = (
        ("handle", u32),
        ("policy", u32),
        ("asid", u32),
        ("state", u8),
    )


class sev_data_launch_start(PackedStruct):
    _fields_ = (
        ("handle", u32),
        ("policy", u32),
        ("dh_cert_address", u64),
        ("dh_cert_len", u32),
        ("reserved", u32),
        ("session_address", u64),
        ("session_len", u32),
    )


class sev_data_launch_update_data(PackedStruct):
    _fields_ = (
        ("handle", u32),
        ("reserved", u32),
        ("address", u64),
        ("len", u32),
    )


class sev_data_launch_update_vmsa(PackedStruct):
    _fields_ = (
        ("handle", u32),
        ("reserved", u32),
        ("address", u64),
        ("len", u32),
    )


class sev_data_launch_measure(PackedStruct):
    _fields_ = (
        ("handle", u32),
        ("reserved", u32),
        ("address", u64),
        ("len", u32),
    )


class sev_data_launch_secret(PackedStruct):
    _fields_ = (
        ("handle", u32),
        ("reserved1", u32),
        ("hdr_address", u64),
        ("hdr_len", u32),
        ("reserved2", u32),
        ("guest_address", u64),
        ("guest_len", u32),
        ("reserved3", u32),
        ("trans_address", u64),
        ("trans_len", u32),
    )


class sev_data_launch_finish(PackedStruct):
    _fields_ = (("handle", u32),)


class sev_data_dbg(PackedStruct):
    _fields_ = (
        ("handle", u32),
        ("reserved", u32),
        ("src_addr", u64),
        ("dst_addr", u64),
        ("len", u32),
    )


class sev_data_snp_download_firmware(PackedStruct):
    _fields_ = (
        ("address", u64),
        ("len", u32),
    )


class sev_data_snp_activate(PackedStruct):
    _fields_ = (
        ("gctx_paddr", u64),
        ("asid", u32),
    )


class sev_data_snp_addr(PackedStruct):
    _fields_ = (("address", u64),)


class sev_data_snp_launch_start(PackedStruct):
    _fields_ = (
        ("gctx_paddr", u64),
        ("policy", u64),
        ("ma_gctx_paddr", u64),
        ("ma_en", u32, 1),
        ("imi_en", u32, 1),
        ("rsvd", u32, 30),
        ("desired_tsc_khz", u32),
        ("gosvw", u8 * 16),
    )


class sev_data_snp_launch_update(PackedStruct):
    _fields_ = (
        ("gctx_paddr", u64),
        ("page_size", u32, 1),
        ("page_type", u32, 3),
        ("imi_page", u32, 1),
        ("rsvd", u32, 27),
        ("rsvd2", u32),
        ("address", u64),
        ("rsvd3", u32, 8),
        ("vmpl1_perms", u32, 8),
        ("vmpl2_perms", u32, 8),
        ("vmpl3_perms", u32, 8),
        ("rsvd4", u32),
    )


class sev_data_snp_launch_finish(PackedStruct):
    _fields_ = (
        ("gctx_paddr", u64),
        ("id_block_paddr", u64),
        ("id_auth_paddr", u64),
        ("id_block_en", u64, 1),
        ("auth_key_en", u64, 1),
        ("vcek_disabled", u64, 1),
        ("rsvd", u64, 61),
        ("host_data", u8 * 32),
    )


class sev_data_snp_guest_status(PackedStruct):
    _fields_ = (
        ("gctx_paddr", u64),
        ("address", u64),
    )


class sev_data_snp_page_reclaim(PackedStruct):
    _fields_ = (("paddr", u64),)


class sev_data_snp_page_unsmash(PackedStruct):
    _fields_ = (("paddr", u64),)


class sev_data_snp_dbg(PackedStruct):
    _fields_ = (
        ("gctx_paddr", u64),
        ("src_addr", u64),
        ("dst_addr", u64),
    )


class sev_data_snp_guest_request(PackedStruct):
    _fields_ = (
        ("gctx_paddr", u64),
        ("req_paddr", u64),
        ("res_paddr", u64),
    )


class sev_data_snp_init_ex(PackedStruct):
    _fields_ = (
        ("init_rmp", u32, 1),
        ("list_paddr_en", u32, 1),
        ("rsvd", u32, 30),
        ("rsvd1", u32),
        ("list_paddr", u64),
        ("rsvd2", u8 * 48),
    )


class sev_data_range(PackedStruct):
    _fields_ = (
        ("base", u64),
        ("page_count", u32),
        ("rsvd", u32),
    )


class sev_data_range_list(PackedStruct):
    # then num_elements times sev_data_range
    _fields_ = (
        ("num_elements", u32),
        ("rsvd", u32),
    )


class sev_data_snp_shutdown_ex(PackedStruct):
    _fields_ = (
        ("len", u32),
        ("iommu_snp_shutdown", u32, 1),
        ("rsvd1", u32, 31),
    )


class sev_data_snp_commit(PackedStruct):
    _fields_ = (("len", u32),)


class sev_id_block(Struct):
    """ID block of LAUNCH_FINISH (ABI, SNP_LAUNCH_FINISH, structure of the ID block)."""

    _fields_ = (
        ("ld", u8 * 48),
        ("family_id", u8 * 16),
        ("image_id", u8 * 16),
        ("version", u32),
        ("guest_svn", u32),
        ("policy", u64),
    )


class sev_ecdsa_pubkey(Struct):
    """ECDSA P-384 public key, little-endian coordinates (ABI, format of an ECDSA public key)."""

    _fields_ = (("curve", u32), ("qx", u8 * 72), ("qy", u8 * 72), ("rsvd", u8 * 880))


class sev_ecdsa_sig(Struct):
    """ECDSA P-384 signature, little-endian (ABI, format of an ECDSA signature)."""

    _fields_ = (("r", u8 * 72), ("s", u8 * 72), ("rsvd", u8 * 368))


class sev_id_auth(Struct):
    """ID authentication information of LAUNCH_FINISH (ABI, its structure)."""

    _fields_ = (
        ("id_key_algo", u32),
        ("auth_key_algo", u32),
        ("rsvd1", u8 * 56),
        ("id_block_sig", sev_ecdsa_sig),
        ("id_key", sev_ecdsa_pubkey),
        ("rsvd2", u8 * 60),
        ("id_key_sig", sev_ecdsa_sig),
        ("author_key", sev_ecdsa_pubkey),
        ("rsvd3", u8 * 892),
    )


SEV_CURVE_P384 = 2
SEV_ALGO_ECDSA_P384_SHA384 = 1

_COMMAND_NAMES = {
    value: name.removeprefix("SEV_CMD_")
    for name, value in list(globals().items())
    if name.startswith("SEV_CMD_")
}


def command_name(command: int) -> str:
    """Name of a PSP command, the number where it has none."""
    return _COMMAND_NAMES.get(command, f"command {command:#x}")
