# SPDX-License-Identifier: GPL-2.0-only
"""What a legacy SEV command's buffers need once SNP is initialised (sev-dev.c, Linux 6.12).

The firmware then writes to memory in the firmware state only, so the buffers that a command
names are bounced through such pages, and so is the command buffer where it carries output.
"""

from __future__ import annotations

from harness.uapi import sev as abi

WRITABLE = frozenset(
    {
        abi.SEV_CMD_PLATFORM_STATUS,
        abi.SEV_CMD_GUEST_STATUS,
        abi.SEV_CMD_LAUNCH_START,
        abi.SEV_CMD_RECEIVE_START,
        abi.SEV_CMD_LAUNCH_MEASURE,
        abi.SEV_CMD_SEND_START,
        abi.SEV_CMD_SEND_UPDATE_DATA,
        abi.SEV_CMD_SEND_UPDATE_VMSA,
        abi.SEV_CMD_PEK_CSR,
        abi.SEV_CMD_PDH_CERT_EXPORT,
        abi.SEV_CMD_GET_ID,
        abi.SEV_CMD_ATTESTATION_REPORT,
    }
)
"""Commands whose command buffer the firmware writes to (sev_cmd_buf_writable)."""

BOUNCED: dict[int, tuple[tuple[str, str], ...]] = {
    abi.SEV_CMD_PDH_CERT_EXPORT: (
        ("pdh_cert_address", "pdh_cert_len"),
        ("cert_chain_address", "cert_chain_len"),
    ),
    abi.SEV_CMD_GET_ID: (("address", "len"),),
    abi.SEV_CMD_PEK_CSR: (("address", "len"),),
    abi.SEV_CMD_LAUNCH_MEASURE: (("address", "len"),),
    abi.SEV_CMD_ATTESTATION_REPORT: (("address", "len"),),
}
"""Address and length fields of output buffers, by command (snp_populate_cmd_buf_desc_list)."""

GUEST_OWNED: dict[int, tuple[str, str]] = {
    abi.SEV_CMD_LAUNCH_UPDATE_DATA: ("address", "len"),
    abi.SEV_CMD_LAUNCH_UPDATE_VMSA: ("address", "len"),
    abi.SEV_CMD_LAUNCH_UPDATE_SECRET: ("guest_address", "guest_len"),
    abi.SEV_CMD_DBG_DECRYPT: ("dst_addr", "len"),
    abi.SEV_CMD_DBG_ENCRYPT: ("dst_addr", "len"),
}
"""The same of guest memory, which is lent to the firmware as it is."""
