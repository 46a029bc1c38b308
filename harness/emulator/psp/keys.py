# SPDX-License-Identifier: GPL-2.0-only
"""Secrets of the modelled chip, all derived from its seed, and ECDSA in the firmware's format."""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from harness.uapi.psp import SEV_CURVE_P384, sev_ecdsa_pubkey, sev_ecdsa_sig

_CURVE = ec.SECP384R1()
_ORDER = int(
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
    "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
    16,
)
"""Order of P-384's group (NIST SP 800-186, 3.2.1.4)."""

COORDINATE = 72
"""Bytes of a coordinate or signature half, little endian (56860, format of ECDSA keys)."""

_SIGNATURE = ec.ECDSA(hashes.SHA384(), deterministic_signing=True)


class Secrets:
    """Every secret of one chip: the same seed gives the same secrets."""

    def __init__(self, seed: int) -> None:
        self._root = hashlib.sha512(b"snptest emulated chip " + str(seed).encode()).digest()
        self._drawn = 0

    def derive(self, label: str, length: int = 32, context: bytes = b"") -> bytes:
        """A secret that depends on nothing but the seed, `label` and `context`."""
        prefix = hmac.digest(self._root, label.encode() + b"\0" + context, "sha512")
        if length <= len(prefix):
            return prefix[:length]
        return hashlib.shake_256(prefix).digest(length)

    def draw(self, label: str, length: int = 32) -> bytes:
        """A fresh secret: each call gives another, the sequence depends on the seed."""
        self._drawn += 1
        return self.derive(label, length, self._drawn.to_bytes(8, "little"))

    def signing_key(self, label: str, context: bytes = b"") -> ec.EllipticCurvePrivateKey:
        """A P-384 key for signatures."""
        return private_key(self.derive(label, 72, context))


@lru_cache(maxsize=64)
def private_key(material: bytes) -> ec.EllipticCurvePrivateKey:
    """A P-384 key out of random bytes."""
    scalar = int.from_bytes(material, "little") % (_ORDER - 1) + 1
    return ec.derive_private_key(scalar, _CURVE)


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> sev_ecdsa_sig:
    """ECDSA P-384 with SHA-384; deterministic (RFC 6979)."""
    r, s = utils.decode_dss_signature(key.sign(message, _SIGNATURE))
    return sev_ecdsa_sig(r=r.to_bytes(COORDINATE, "little"), s=s.to_bytes(COORDINATE, "little"))


def verify(key: sev_ecdsa_pubkey, signature: sev_ecdsa_sig, message: bytes) -> bool:
    """Whether a signature is valid; a key that is none verifies nothing."""
    if key.curve != SEV_CURVE_P384 or any(bytes(key.rsvd)) or any(bytes(signature.rsvd)):
        return False
    public = ec_public_key(key)
    if public is None:
        return False
    r, s = (int.from_bytes(bytes(part), "little") for part in (signature.r, signature.s))
    try:
        public.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA384()))
    except (ValueError, InvalidSignature):
        return False
    return True


def ec_public_key(key: sev_ecdsa_pubkey) -> ec.EllipticCurvePublicKey | None:
    """The key as the library knows it; None where it is none on P-384."""
    if key.curve != SEV_CURVE_P384:
        return None
    qx, qy = (int.from_bytes(bytes(part), "little") for part in (key.qx, key.qy))
    try:
        return ec.EllipticCurvePublicNumbers(qx, qy, _CURVE).public_key()
    except ValueError:
        return None


def public_key(key: ec.EllipticCurvePublicKey) -> sev_ecdsa_pubkey:
    """A public key in the firmware's format."""
    numbers = key.public_numbers()
    return sev_ecdsa_pubkey(
        curve=SEV_CURVE_P384,
        qx=numbers.x.to_bytes(COORDINATE, "little"),
        qy=numbers.y.to_bytes(COORDINATE, "little"),
    )
