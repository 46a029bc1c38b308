# SPDX-License-Identifier: GPL-2.0-only
"""The guest owner's side of an ID block: keys, the block, its signatures.

SNP firmware ABI 56860 rev 1.55, SNP_LAUNCH_FINISH: ID block and ID authentication information.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from harness.uapi import psp

VERSION: Final = 1
_COMPONENT: Final = 72
"""Bytes that each coordinate and each half of a signature take, little endian."""


@dataclass(frozen=True, slots=True)
class OwnerKey:
    """An ECDSA P-384 key of the guest's owner."""

    private: ec.EllipticCurvePrivateKey

    @property
    def public(self) -> psp.sev_ecdsa_pubkey:
        """The public key as the firmware takes it."""
        numbers = self.private.public_key().public_numbers()
        return psp.sev_ecdsa_pubkey(
            curve=psp.SEV_CURVE_P384,
            qx=numbers.x.to_bytes(_COMPONENT, "little"),
            qy=numbers.y.to_bytes(_COMPONENT, "little"),
        )

    @property
    def digest(self) -> bytes:
        """SHA-384 of the public key, as attestation reports carry it."""
        return hashlib.sha384(bytes(self.public)).digest()

    def sign(self, data: bytes) -> psp.sev_ecdsa_sig:
        """Sign with SHA-384."""
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA384())))
        return psp.sev_ecdsa_sig(
            r=r.to_bytes(_COMPONENT, "little"), s=s.to_bytes(_COMPONENT, "little")
        )


@lru_cache(maxsize=16)
def owner_key(name: str) -> OwnerKey:
    """A key that depends on nothing but its name."""
    scalar = int.from_bytes(hashlib.sha384(name.encode()).digest()[:47], "big") + 1
    return OwnerKey(ec.derive_private_key(scalar, ec.SECP384R1()))


def id_block(
    digest: bytes,
    policy: int,
    *,
    family_id: bytes = bytes(16),
    image_id: bytes = bytes(16),
    guest_svn: int = 0,
    version: int = VERSION,
) -> psp.sev_id_block:
    """An ID block for a launch with this digest and policy."""
    return psp.sev_id_block(
        ld=digest,
        family_id=family_id,
        image_id=image_id,
        version=version,
        guest_svn=guest_svn,
        policy=policy,
    )


def id_auth(
    block: psp.sev_id_block, key: OwnerKey, author: OwnerKey | None = None
) -> psp.sev_id_auth:
    """Authentication information for a block: signed by `key`, which `author` vouches for."""
    auth = psp.sev_id_auth(
        id_key_algo=psp.SEV_ALGO_ECDSA_P384_SHA384,
        id_block_sig=key.sign(bytes(block)),
        id_key=key.public,
    )
    if author is not None:
        auth.auth_key_algo = psp.SEV_ALGO_ECDSA_P384_SHA384
        auth.id_key_sig = author.sign(bytes(key.public))
        auth.author_key = author.public
    return auth
