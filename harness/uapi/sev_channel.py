# SPDX-License-Identifier: GPL-2.0-only
"""What plain SEV's firmware exchanges with guest owners: certificates, sessions, packets.

SEV API 55766: appendix on certificate formats, LAUNCH_START (session data), LAUNCH_MEASURE,
LAUNCH_SECRET and SEND_UPDATE_DATA (packet header), ATTESTATION.  Little endian throughout.
"""

from __future__ import annotations

from enum import IntEnum

from harness.uapi.layout import PackedStruct, u8, u16, u32
from harness.uapi.psp import sev_ecdsa_pubkey, sev_ecdsa_sig


class CertUsage(IntEnum):
    """What a key is for."""

    INVALID = 0x1000
    OCA = 0x1001
    PEK = 0x1002
    PDH = 0x1003
    CEK = 0x1004


class CertAlgo(IntEnum):
    """Algorithms of keys and signatures that this firmware uses."""

    INVALID = 0
    ECDSA_SHA256 = 2
    ECDH_SHA256 = 3


CERT_VERSION = 1


class sev_cert_body(PackedStruct):
    """The part of a certificate that is signed."""

    _fields_ = (
        ("version", u32),
        ("api_major", u8),
        ("api_minor", u8),
        ("reserved", u16),
        ("pubkey_usage", u32),
        ("pubkey_algo", u32),
        ("pubkey", sev_ecdsa_pubkey),
    )


class sev_cert(PackedStruct):
    """A certificate with room for two signatures; usage INVALID marks one that is unused."""

    _fields_ = (
        ("body", sev_cert_body),
        ("sig1_usage", u32),
        ("sig1_algo", u32),
        ("sig1", sev_ecdsa_sig),
        ("sig2_usage", u32),
        ("sig2_algo", u32),
        ("sig2", sev_ecdsa_sig),
    )


class sev_session(PackedStruct):
    """Transport keys (TEK, then TIK) wrapped for the holder of a Diffie-Hellman key."""

    _fields_ = (
        ("nonce", u8 * 16),
        ("wrap_tk", u8 * 32),
        ("wrap_iv", u8 * 16),
        ("wrap_mac", u8 * 32),
        ("policy_mac", u8 * 32),
    )


class sev_packet_header(PackedStruct):
    """Header of a secret or of a migrating page; flag 0 means compressed."""

    _fields_ = (
        ("flags", u32),
        ("iv", u8 * 16),
        ("mac", u8 * 32),
    )


class sev_measurement(PackedStruct):
    """What LAUNCH_MEASURE writes."""

    _fields_ = (
        ("measure", u8 * 32),
        ("mnonce", u8 * 16),
    )


class sev_attestation_report(PackedStruct):
    """What ATTESTATION writes; the PEK signs what is before sig_usage."""

    _fields_ = (
        ("mnonce", u8 * 16),
        ("launch_digest", u8 * 32),
        ("policy", u32),
        ("sig_usage", u32),
        ("sig_algo", u32),
        ("reserved", u32),
        ("sig_r", u8 * 72),
        ("sig_s", u8 * 72),
    )
