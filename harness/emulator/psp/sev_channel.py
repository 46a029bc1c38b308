# SPDX-License-Identifier: GPL-2.0-only
"""The channel to a guest's owner or to another platform: transport keys and packets (55766).

Keys are agreed on by ECDH over P-384 and derived by the counter mode KDF of NIST SP 800-108
with HMAC-SHA256; what travels is encrypted by AES-128-CTR and authenticated by HMAC-SHA256.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from harness.emulator.psp.keys import Secrets, ec_public_key
from harness.emulator.psp.status import Refused, require
from harness.uapi.errors import SevFwError
from harness.uapi.layout import size
from harness.uapi.sev_channel import (
    CERT_VERSION,
    CertAlgo,
    CertUsage,
    sev_cert,
    sev_packet_header,
    sev_session,
)

KEY_SIZE = 16
PACKET_MAX = 16 << 10
"""Largest packet (55766, LAUNCH_SECRET and SEND_UPDATE_DATA)."""

SECRET, DATA, MEASURE = 0x01, 0x02, 0x04
"""First byte of what a MAC covers: what the packet is for."""

_COMPRESSED = 1


@dataclass(frozen=True, slots=True)
class Channel:
    """Transport encryption key and transport integrity key; all zero without a session."""

    tek: bytes = bytes(KEY_SIZE)
    tik: bytes = bytes(KEY_SIZE)

    def policy_mac(self, policy: int) -> bytes:
        """What proves that a policy is the owner's."""
        return hmac.digest(self.tik, policy.to_bytes(4, "little"), "sha256")

    def packet_mac(
        self, use: int, header: sev_packet_header, length: int, body: bytes, tail: bytes = b""
    ) -> bytes:
        """MAC of a packet: `length` is the guest's side of it, `body` what travels."""
        lengths = length.to_bytes(4, "little") + len(body).to_bytes(4, "little")
        head = bytes((use,)) + header.flags.to_bytes(4, "little") + bytes(header.iv)
        return hmac.digest(self.tik, head + lengths + body + tail, "sha256")

    def seal(self, secrets: Secrets, plain: bytes) -> tuple[bytes, bytes]:
        """Header and body of a packet with guest memory."""
        header = sev_packet_header(iv=secrets.draw("packet IV", 16))
        body = ctr(self.tek, bytes(header.iv), plain)
        header.mac = self.packet_mac(DATA, header, len(plain), body)
        return bytes(header), body

    def open(self, use: int, raw: bytes, body: bytes, tail: bytes = b"") -> bytes:
        """Check and decrypt a packet."""
        header = sev_packet_header.from_bytes(raw)
        mac = self.packet_mac(use, header, len(body), body, tail)
        good = hmac.compare_digest(mac, bytes(header.mac))
        require(good, SevFwError.BAD_MEASUREMENT, "MAC of the packet")
        require(not header.flags & _COMPRESSED, SevFwError.UNSUPPORTED, "compressed")
        return ctr(self.tek, bytes(header.iv), body)


def ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    """AES-128-CTR, both ways."""
    return Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update(data)


def derive(secret: bytes, label: bytes, context: bytes = b"") -> bytes:
    """16 bytes by the KDF: one iteration of its PRF is longer than that."""
    fixed = label + b"\0" + context + (8 * KEY_SIZE).to_bytes(4, "little")
    return hmac.digest(secret, (1).to_bytes(4, "little") + fixed, "sha256")[:KEY_SIZE]


def _master(key: ec.EllipticCurvePrivateKey, cert: sev_cert, nonce: bytes) -> bytes:
    """What both sides derive from their Diffie-Hellman keys."""
    body = cert.body
    wanted = (CERT_VERSION, CertUsage.PDH, CertAlgo.ECDH_SHA256)
    good = (body.version, body.pubkey_usage, body.pubkey_algo) == wanted
    require(good, SevFwError.INVALID_CERTIFICATE, "no Diffie-Hellman certificate")
    peer = ec_public_key(body.pubkey)
    if peer is None:
        raise Refused(SevFwError.INVALID_CERTIFICATE, "no point on the curve")
    return derive(key.exchange(ec.ECDH(), peer), b"sev-master-secret", nonce)


def accept(key: ec.EllipticCurvePrivateKey, raw: bytes, session: bytes, policy: int) -> Channel:
    """Unwrap the transport keys that the holder of a certificate sent; its policy is proved."""
    data = sev_session.from_bytes(session)
    master = _master(key, sev_cert.from_bytes(raw), bytes(data.nonce))
    wrapped = bytes(data.wrap_tk)
    mac = hmac.digest(derive(master, b"sev-kik"), wrapped, "sha256")
    good = hmac.compare_digest(mac, bytes(data.wrap_mac))
    require(good, SevFwError.BAD_MEASUREMENT, "MAC of the transport keys")
    keys = ctr(derive(master, b"sev-kek"), bytes(data.wrap_iv), wrapped)
    channel = Channel(keys[:KEY_SIZE], keys[KEY_SIZE:])
    good = hmac.compare_digest(channel.policy_mac(policy), bytes(data.policy_mac))
    require(good, SevFwError.BAD_MEASUREMENT, "MAC of the policy")
    return channel


def offer(
    key: ec.EllipticCurvePrivateKey, raw: bytes, secrets: Secrets, policy: int
) -> tuple[Channel, bytes]:
    """Draw transport keys for the holder of a certificate, and wrap them into a session."""
    draw = secrets.draw
    channel = Channel(draw("TEK", KEY_SIZE), draw("TIK", KEY_SIZE))
    session = sev_session(nonce=draw("session nonce", 16), wrap_iv=draw("session IV", 16))
    master = _master(key, sev_cert.from_bytes(raw), bytes(session.nonce))
    kek, kik = derive(master, b"sev-kek"), derive(master, b"sev-kik")
    session.wrap_tk = ctr(kek, bytes(session.wrap_iv), channel.tek + channel.tik)
    session.wrap_mac = hmac.digest(kik, bytes(session.wrap_tk), "sha256")
    session.policy_mac = channel.policy_mac(policy)
    return channel, bytes(session)


SESSION_SIZE = size(sev_session)
HEADER_SIZE = size(sev_packet_header)
CERT_SIZE = size(sev_cert)
