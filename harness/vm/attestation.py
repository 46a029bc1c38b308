# SPDX-License-Identifier: GPL-2.0-only
"""Attestation reports: reading one, and verifying it up to a root that is given.

SNP firmware ABI 56860 rev 1.55, ATTESTATION_REPORT and signature formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

REPORT_SIZE: Final = 0x4A0
SIGNED_SIZE: Final = 0x2A0
ECDSA_P384_SHA384: Final = 1
_COMPONENT: Final = 72
"""Bytes that R and S each take, little endian."""

SIGNED_BY_VCEK, SIGNED_BY_VLEK, SIGNED_BY_NONE = 0, 1, 7


class VerificationError(Exception):
    """A report or a certificate is not signed by what it should be signed by."""


@dataclass(frozen=True, slots=True)
class Report:
    """The fields of an attestation report, and its bytes."""

    raw: bytes

    @classmethod
    def decode(cls, raw: bytes) -> Report:
        """Take a report; VerificationError when its length is wrong."""
        if len(raw) != REPORT_SIZE:
            raise VerificationError(f"a report has {REPORT_SIZE} bytes, not {len(raw)}")
        return cls(raw)

    def _int(self, offset: int, size: int) -> int:
        return int.from_bytes(self.raw[offset : offset + size], "little")

    @property
    def version(self) -> int:
        """VERSION."""
        return self._int(0x0, 4)

    @property
    def guest_svn(self) -> int:
        """GUEST_SVN of the id block."""
        return self._int(0x4, 4)

    @property
    def policy(self) -> int:
        """The guest's policy."""
        return self._int(0x8, 8)

    @property
    def family_id(self) -> bytes:
        """FAMILY_ID of the id block."""
        return self.raw[0x10:0x20]

    @property
    def image_id(self) -> bytes:
        """IMAGE_ID of the id block."""
        return self.raw[0x20:0x30]

    @property
    def vmpl(self) -> int:
        """The VMPL that asked."""
        return self._int(0x30, 4)

    @property
    def signature_algorithm(self) -> int:
        """1: ECDSA P-384 with SHA-384."""
        return self._int(0x34, 4)

    @property
    def current_tcb(self) -> int:
        """CURRENT_TCB."""
        return self._int(0x38, 8)

    @property
    def platform_info(self) -> int:
        """PLATFORM_INFO: bit 0 SMT, bit 1 TSME."""
        return self._int(0x40, 8)

    @property
    def author_key_en(self) -> bool:
        """Whether AUTHOR_KEY_DIGEST is that of an author key."""
        return bool(self._int(0x48, 4) & 1)

    @property
    def mask_chip_key(self) -> bool:
        """Whether the platform masks the chip's key: then the signature is zeros."""
        return bool(self._int(0x48, 4) >> 1 & 1)

    @property
    def signing_key(self) -> int:
        """SIGNED_BY_VCEK, SIGNED_BY_VLEK or SIGNED_BY_NONE."""
        return self._int(0x48, 4) >> 2 & 7

    @property
    def report_data(self) -> bytes:
        """What the guest gave."""
        return self.raw[0x50:0x90]

    @property
    def measurement(self) -> bytes:
        """The launch digest."""
        return self.raw[0x90:0xC0]

    @property
    def host_data(self) -> bytes:
        """What LAUNCH_FINISH was given."""
        return self.raw[0xC0:0xE0]

    @property
    def id_key_digest(self) -> bytes:
        """SHA-384 of the id block's key."""
        return self.raw[0xE0:0x110]

    @property
    def author_key_digest(self) -> bytes:
        """SHA-384 of the author's key."""
        return self.raw[0x110:0x140]

    @property
    def report_id(self) -> bytes:
        """REPORT_ID of this guest."""
        return self.raw[0x140:0x160]

    @property
    def report_id_ma(self) -> bytes:
        """REPORT_ID of its migration agent."""
        return self.raw[0x160:0x180]

    @property
    def reported_tcb(self) -> int:
        """REPORTED_TCB: what SNP_CONFIG said, or the committed one."""
        return self._int(0x180, 8)

    @property
    def chip_id(self) -> bytes:
        """CHIP_ID, zeros when masked."""
        return self.raw[0x1A0:0x1E0]

    @property
    def committed_tcb(self) -> int:
        """COMMITTED_TCB."""
        return self._int(0x1E0, 8)

    @property
    def current_version(self) -> tuple[int, int, int]:
        """(major, minor, build) of the firmware that runs."""
        build, minor, major = self.raw[0x1E8:0x1EB]
        return major, minor, build

    @property
    def committed_version(self) -> tuple[int, int, int]:
        """(major, minor, build) of the committed firmware."""
        build, minor, major = self.raw[0x1EC:0x1EF]
        return major, minor, build

    @property
    def launch_tcb(self) -> int:
        """CURRENT_TCB when the guest was launched."""
        return self._int(0x1F0, 8)

    @property
    def signature(self) -> tuple[int, int]:
        """R and S."""
        start = SIGNED_SIZE
        return self._int(start, _COMPONENT), self._int(start + _COMPONENT, _COMPONENT)

    def verify(self, signer: x509.Certificate) -> None:
        """Check the signature with a VCEK's or VLEK's certificate; VerificationError if wrong."""
        if self.signature_algorithm != ECDSA_P384_SHA384:
            raise VerificationError(f"signature algorithm {self.signature_algorithm}")
        key = signer.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            raise VerificationError("the signer's key is not on P-384")
        try:
            key.verify(
                encode_dss_signature(*self.signature),
                self.raw[:SIGNED_SIZE],
                ec.ECDSA(hashes.SHA384()),
            )
        except InvalidSignature as error:
            raise VerificationError("the report's signature is wrong") from error


def verify_chain(
    leaf: x509.Certificate, intermediate: x509.Certificate, root: x509.Certificate
) -> None:
    """Check leaf (VCEK, VLEK) under intermediate (ASK, ASVK) under root (ARK), which is trusted.

    Each signature is RSA-PSS with SHA-384, as AMD's are; VerificationError names the link.
    """
    links = (("root", root, root), ("intermediate", intermediate, root))
    for name, certificate, issuer in (*links, ("leaf", leaf, intermediate)):
        _verify_link(name, certificate, issuer)


def _verify_link(name: str, certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    if certificate.issuer != issuer.subject:
        raise VerificationError(f"{name}: issued by {certificate.issuer.rfc4514_string()}")
    key = issuer.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise VerificationError(f"{name}: its issuer's key is not RSA")
    try:
        key.verify(
            certificate.signature,
            certificate.tbs_certificate_bytes,
            padding.PSS(padding.MGF1(hashes.SHA384()), hashes.SHA384.digest_size),
            hashes.SHA384(),
        )
    except InvalidSignature as error:
        raise VerificationError(f"{name}: signature is wrong") from error
