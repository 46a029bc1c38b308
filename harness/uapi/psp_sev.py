# SPDX-License-Identifier: GPL-2.0-only
"""Command buffers of plain SEV that carry certificates, reports and migrating guests.

include/linux/psp-sev.h, Linux 6.12; SEV API 55766.
"""

from __future__ import annotations

from harness.uapi.layout import PackedStruct, u8, u32, u64


class sev_data_pek_csr(PackedStruct):
    _fields_ = (
        ("address", u64),
        ("len", u32),
    )


class sev_data_pek_cert_import(PackedStruct):
    _fields_ = (
        ("pek_cert_address", u64),
        ("pek_cert_len", u32),
        ("reserved", u32),
        ("oca_cert_address", u64),
        ("oca_cert_len", u32),
    )


class sev_data_pdh_cert_export(PackedStruct):
    _fields_ = (
        ("pdh_cert_address", u64),
        ("pdh_cert_len", u32),
        ("reserved", u32),
        ("cert_chain_address", u64),
        ("cert_chain_len", u32),
    )


class sev_data_get_id(PackedStruct):
    _fields_ = (
        ("address", u64),
        ("len", u32),
    )


class sev_data_attestation_report(PackedStruct):
    _fields_ = (
        ("handle", u32),
        ("reserved", u32),
        ("address", u64),
        ("mnonce", u8 * 16),
        ("len", u32),
    )


class sev_data_send_start(PackedStruct):
    _fields_ = (
        ("handle", u32),
        ("policy", u32),
        ("pdh_cert_address", u64),
        ("pdh_cert_len", u32),
        ("reserved1", u32),
        ("plat_certs_address", u64),
        ("plat_certs_len", u32),
        ("reserved2", u32),
        ("amd_certs_address", u64),
        ("amd_certs_len", u32),
        ("reserved3", u32),
        ("session_address", u64),
        ("session_len", u32),
    )


class sev_data_send_update_data(PackedStruct):
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


class sev_data_send_finish(PackedStruct):
    _fields_ = (("handle", u32),)


class sev_data_send_cancel(PackedStruct):
    _fields_ = (("handle", u32),)


class sev_data_receive_start(PackedStruct):
    _fields_ = (
        ("handle", u32),
        ("policy", u32),
        ("pdh_cert_address", u64),
        ("pdh_cert_len", u32),
        ("reserved1", u32),
        ("session_address", u64),
        ("session_len", u32),
    )


class sev_data_receive_update_data(PackedStruct):
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


class sev_data_receive_finish(PackedStruct):
    _fields_ = (("handle", u32),)
