# SPDX-License-Identifier: GPL-2.0-only
"""Parameters of the KVM_SEV_* commands of plain SEV and SEV-ES guests.

arch/x86/include/uapi/asm/kvm.h, Linux 6.12.  An SNP guest refuses these commands.
"""

from __future__ import annotations

from harness.uapi.layout import Struct, u8, u32, u64


class kvm_sev_launch_start(Struct):
    _fields_ = (
        ("handle", u32),
        ("policy", u32),
        ("dh_uaddr", u64),
        ("dh_len", u32),
        ("pad0", u32),
        ("session_uaddr", u64),
        ("session_len", u32),
        ("pad1", u32),
    )


class kvm_sev_launch_update_data(Struct):
    _fields_ = (
        ("uaddr", u64),
        ("len", u32),
        ("pad0", u32),
    )


class kvm_sev_launch_secret(Struct):
    _fields_ = (
        ("hdr_uaddr", u64),
        ("hdr_len", u32),
        ("pad0", u32),
        ("guest_uaddr", u64),
        ("guest_len", u32),
        ("pad1", u32),
        ("trans_uaddr", u64),
        ("trans_len", u32),
        ("pad2", u32),
    )


class kvm_sev_launch_measure(Struct):
    _fields_ = (
        ("uaddr", u64),
        ("len", u32),
        ("pad0", u32),
    )


class kvm_sev_guest_status(Struct):
    _fields_ = (
        ("handle", u32),
        ("policy", u32),
        ("state", u32),
    )


class kvm_sev_dbg(Struct):
    _fields_ = (
        ("src_uaddr", u64),
        ("dst_uaddr", u64),
        ("len", u32),
        ("pad0", u32),
    )


class kvm_sev_attestation_report(Struct):
    _fields_ = (
        ("mnonce", u8 * 16),
        ("uaddr", u64),
        ("len", u32),
        ("pad0", u32),
    )


class kvm_sev_send_start(Struct):
    _fields_ = (
        ("policy", u32),
        ("pad0", u32),
        ("pdh_cert_uaddr", u64),
        ("pdh_cert_len", u32),
        ("pad1", u32),
        ("plat_certs_uaddr", u64),
        ("plat_certs_len", u32),
        ("pad2", u32),
        ("amd_certs_uaddr", u64),
        ("amd_certs_len", u32),
        ("pad3", u32),
        ("session_uaddr", u64),
        ("session_len", u32),
        ("pad4", u32),
    )


class kvm_sev_send_update_data(Struct):
    _fields_ = (
        ("hdr_uaddr", u64),
        ("hdr_len", u32),
        ("pad0", u32),
        ("guest_uaddr", u64),
        ("guest_len", u32),
        ("pad1", u32),
        ("trans_uaddr", u64),
        ("trans_len", u32),
        ("pad2", u32),
    )


class kvm_sev_receive_start(Struct):
    _fields_ = (
        ("handle", u32),
        ("policy", u32),
        ("pdh_uaddr", u64),
        ("pdh_len", u32),
        ("pad0", u32),
        ("session_uaddr", u64),
        ("session_len", u32),
        ("pad1", u32),
    )


class kvm_sev_receive_update_data(Struct):
    _fields_ = (
        ("hdr_uaddr", u64),
        ("hdr_len", u32),
        ("pad0", u32),
        ("guest_uaddr", u64),
        ("guest_len", u32),
        ("pad1", u32),
        ("trans_uaddr", u64),
        ("trans_len", u32),
        ("pad2", u32),
    )
