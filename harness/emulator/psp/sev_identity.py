# SPDX-License-Identifier: GPL-2.0-only
"""The platform's identity for plain SEV: OCA, PEK, PDH and CEK, and their certificates (55766).

The owner's certificate authority (OCA) signs itself and the platform endorsement key (PEK);
the chip's own key (CEK) signs the PEK as well, and the PEK signs the Diffie-Hellman key
(PDH).  As on hardware the CEK's certificate comes unsigned: AMD's key server would add that.
Everything is made when first asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from harness.emulator.psp.keys import COORDINATE, Secrets, ec_public_key, private_key, public_key
from harness.emulator.psp.status import require
from harness.uapi.errors import SevFwError
from harness.uapi.psp import sev_ecdsa_sig
from harness.uapi.sev_channel import CERT_VERSION, CertAlgo, CertUsage, sev_cert

_SHA256 = hashes.SHA256()
_ALGO = {
    CertUsage.OCA: CertAlgo.ECDSA_SHA256,
    CertUsage.PEK: CertAlgo.ECDSA_SHA256,
    CertUsage.CEK: CertAlgo.ECDSA_SHA256,
    CertUsage.PDH: CertAlgo.ECDH_SHA256,
}


@dataclass(frozen=True, slots=True)
class Signer:
    """A key that signs certificates."""

    usage: CertUsage
    key: ec.EllipticCurvePrivateKey


class Identity:
    """Keys and certificates; new ones come with new generations."""

    def __init__(self, secrets: Secrets, version: tuple[int, int, int]) -> None:
        self._secrets, self._version = secrets, version
        self._owner_generation = self._pdh_generation = 0
        self._imported: tuple[sev_cert, sev_cert] | None = None
        self._made: dict[str, sev_cert] = {}

    @property
    def externally_owned(self) -> bool:
        """Whether an owner has imported certificates of its own."""
        return self._imported is not None

    # -- keys ------------------------------------------------------------------------------

    def _key(self, usage: CertUsage, generation: int = 0) -> ec.EllipticCurvePrivateKey:
        material = self._secrets.derive(usage.name, 72, generation.to_bytes(8, "little"))
        return private_key(material)

    @property
    def pdh_key(self) -> ec.EllipticCurvePrivateKey:
        """The Diffie-Hellman key."""
        return self._key(CertUsage.PDH, self._pdh_generation)

    @property
    def pek_key(self) -> ec.EllipticCurvePrivateKey:
        """The key that signs the PDH and attestation reports."""
        return self._key(CertUsage.PEK, self._owner_generation)

    @property
    def _cek_key(self) -> ec.EllipticCurvePrivateKey:
        return self._key(CertUsage.CEK)

    # -- certificates ----------------------------------------------------------------------

    @property
    def oca(self) -> sev_cert:
        """The owner's certificate."""
        if self._imported is not None:
            return self._imported[1]
        key = self._key(CertUsage.OCA, self._owner_generation)
        return self._once("OCA", CertUsage.OCA, key, Signer(CertUsage.OCA, key))

    @property
    def pek(self) -> sev_cert:
        """The PEK's certificate, signed by the owner and by the chip."""
        if self._imported is not None:
            return self._imported[0]
        oca = self._key(CertUsage.OCA, self._owner_generation)
        signers = Signer(CertUsage.OCA, oca), Signer(CertUsage.CEK, self._cek_key)
        return self._once("PEK", CertUsage.PEK, self.pek_key, *signers)

    @property
    def pdh(self) -> sev_cert:
        """The PDH's certificate, signed by the PEK."""
        signer = Signer(CertUsage.PEK, self.pek_key)
        return self._once("PDH", CertUsage.PDH, self.pdh_key, signer)

    @property
    def cek(self) -> sev_cert:
        """The chip's certificate, unsigned."""
        return self._once("CEK", CertUsage.CEK, self._cek_key)

    @property
    def request(self) -> sev_cert:
        """The PEK's certificate without signatures, for an owner to sign."""
        return self._issue(CertUsage.PEK, self.pek_key)

    def _once(
        self, name: str, usage: CertUsage, key: ec.EllipticCurvePrivateKey, *signers: Signer
    ) -> sev_cert:
        if name not in self._made:
            self._made[name] = self._issue(usage, key, *signers)
        return self._made[name]

    def _issue(
        self, usage: CertUsage, key: ec.EllipticCurvePrivateKey, *signers: Signer
    ) -> sev_cert:
        major, minor, _ = self._version
        cert = sev_cert(sig1_usage=CertUsage.INVALID, sig2_usage=CertUsage.INVALID)
        body = cert.body
        body.version, body.api_major, body.api_minor = CERT_VERSION, major, minor
        body.pubkey_usage, body.pubkey_algo = usage, _ALGO[usage]
        body.pubkey = public_key(key.public_key())
        for signer in signers:
            add_signature(cert, signer.usage, sign(signer.key, bytes(body)))
        return cert

    # -- changes ---------------------------------------------------------------------------

    def renew_pdh(self) -> None:
        """PDH_GEN."""
        self._pdh_generation += 1
        self._made.pop("PDH", None)

    def renew(self) -> None:
        """PEK_GEN and FACTORY_RESET: the platform owns itself, with new keys."""
        self._owner_generation += 1
        self._pdh_generation += 1
        self._imported = None
        self._made.clear()

    def adopt(self, pek: sev_cert, oca: sev_cert) -> None:
        """PEK_CERT_IMPORT: an owner signed this platform's PEK."""
        check(oca, oca, CertUsage.OCA)
        check(pek, oca, CertUsage.PEK)
        same = bytes(pek.body) == bytes(self.pek.body)
        require(same, SevFwError.INVALID_CERTIFICATE, "not this platform's PEK")
        room = pek.sig2_usage == CertUsage.INVALID
        require(room, SevFwError.INVALID_CERTIFICATE, "no room for the chip's signature")
        add_signature(pek, CertUsage.CEK, sign(self._cek_key, bytes(pek.body)))
        self._imported = pek, oca
        self.renew_pdh()


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> sev_ecdsa_sig:
    """ECDSA P-384 with SHA-256; deterministic (RFC 6979)."""
    algorithm = ec.ECDSA(_SHA256, deterministic_signing=True)
    r, s = utils.decode_dss_signature(key.sign(message, algorithm))
    return sev_ecdsa_sig(r=r.to_bytes(COORDINATE, "little"), s=s.to_bytes(COORDINATE, "little"))


def add_signature(cert: sev_cert, usage: CertUsage, signature: sev_ecdsa_sig) -> None:
    """Put a signature into the first of a certificate's two slots that is free."""
    slot = "sig1" if cert.sig1_usage == CertUsage.INVALID else "sig2"
    setattr(cert, f"{slot}_usage", usage)
    setattr(cert, f"{slot}_algo", CertAlgo.ECDSA_SHA256)
    setattr(cert, slot, signature)


def check(cert: sev_cert, issuer: sev_cert, usage: CertUsage) -> None:
    """Refuse a certificate that is not of this use, or that `issuer` did not sign."""
    good = cert.body.version == CERT_VERSION and cert.body.pubkey_usage == usage
    good = good and cert.body.pubkey_algo == _ALGO[usage]
    require(good, SevFwError.INVALID_CERTIFICATE, f"no {usage.name} certificate")
    signer = issuer.body.pubkey_usage, CertAlgo.ECDSA_SHA256
    slots = (
        (cert.sig1_usage, cert.sig1_algo, cert.sig1),
        (cert.sig2_usage, cert.sig2_algo, cert.sig2),
    )
    found = [signature for *by, signature in slots if tuple(by) == signer]
    require(bool(found), SevFwError.INVALID_CERTIFICATE, "not signed by its issuer")
    valid = any(_verify(issuer, signature, bytes(cert.body)) for signature in found)
    require(valid, SevFwError.BAD_SIGNATURE, f"of the {usage.name} certificate")


def _verify(issuer: sev_cert, signature: sev_ecdsa_sig, message: bytes) -> bool:
    key = ec_public_key(issuer.body.pubkey)
    if key is None:
        return False
    r, s = (int.from_bytes(bytes(part), "little") for part in (signature.r, signature.s))
    try:
        key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(_SHA256))
    except (InvalidSignature, ValueError):
        return False
    return True
