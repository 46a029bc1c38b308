# SPDX-License-Identifier: GPL-2.0-only
"""X.509 certificates of the emulated chip: ARK, then ASK over VCEK and ASVK over VLEK.

The three RSA-4096 keys are test keys of this emulator that anybody can read in emulator_keys/:
making them takes seconds, and trust in an emulator means nothing.  They are the same for every
seed; certificates are made when first asked for, VCEK and VLEK per TCB.  RSA-PSS takes a salt;
it is derived here, so that the same seed gives the same bytes (the PyPI package cryptography
draws it at random, hence the encoding of RFC 8017, 9.1.1, below).
"""

from __future__ import annotations

import datetime
import hashlib
from functools import cache, cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from harness.emulator.psp import endorsement
from harness.emulator.psp.platform import Platform
from harness.emulator.psp.tcb import Tcb

_KEYS = Path(__file__).parent / "emulator_keys"
_SALT = 48
_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), _SALT)
_NOT_BEFORE = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(2045, 1, 1, tzinfo=datetime.UTC)

PRODUCT = "Milan-B0"
_ARK, _ASK, _ASVK, _VCEK, _VLEK = (
    "ARK-Milan",
    "SEV-Milan",
    "SEV-VLEK-Milan",
    "SEV-VCEK",
    "SEV-VLEK",
)

# VCEK certificate and KDS interface specification 57230, table of custom extensions.
OID_STRUCT_VERSION = x509.ObjectIdentifier("1.3.6.1.4.1.3704.1.1")
OID_PRODUCT_NAME = x509.ObjectIdentifier("1.3.6.1.4.1.3704.1.2")
OID_BL_SPL = x509.ObjectIdentifier("1.3.6.1.4.1.3704.1.3.1")
OID_TEE_SPL = x509.ObjectIdentifier("1.3.6.1.4.1.3704.1.3.2")
OID_SNP_SPL = x509.ObjectIdentifier("1.3.6.1.4.1.3704.1.3.3")
OID_SPL_4, OID_SPL_5, OID_SPL_6, OID_SPL_7 = (
    x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.3.{n}") for n in (4, 5, 6, 7)
)
OID_UCODE_SPL = x509.ObjectIdentifier("1.3.6.1.4.1.3704.1.3.8")
OID_HWID = x509.ObjectIdentifier("1.3.6.1.4.1.3704.1.4")
OID_CSP_ID = x509.ObjectIdentifier("1.3.6.1.4.1.3704.1.5")

CSP_ID = "snptest emulator"

_LEAVES: dict[tuple[str, int], x509.Certificate] = {}
"""By name and public key, which chip and TCB determine: machines with one seed share them."""

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class Certificates:
    """The chain of one chip."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    @cached_property
    def ark(self) -> x509.Certificate:
        """AMD root key's certificate, signed by itself."""
        return _authority(_ARK, "ark", _ARK, "ark")

    @cached_property
    def ask(self) -> x509.Certificate:
        """AMD SEV key's certificate."""
        return _authority(_ASK, "ask", _ARK, "ark")

    @cached_property
    def asvk(self) -> x509.Certificate:
        """AMD SEV VLEK key's certificate."""
        return _authority(_ASVK, "asvk", _ARK, "ark")

    def vcek(self, tcb: Tcb | None = None) -> x509.Certificate:
        """The chip's certificate at a TCB (default: the reported one)."""
        tcb = tcb or self._platform.reported_tcb
        key = endorsement.vcek(self._platform, tcb).public_key()
        hwid = (OID_HWID, self._platform.chip_id)
        return self._leaf(_VCEK, tcb, key, _ASK, "ask", hwid)

    def vlek(self, tcb: Tcb | None = None) -> x509.Certificate:
        """The certificate of the VLEK that is loaded, at a TCB (default: the reported one)."""
        tcb = tcb or self._platform.reported_tcb
        key = endorsement.vlek(self._platform, tcb).public_key()
        return self._leaf(_VLEK, tcb, key, _ASVK, "asvk", (OID_CSP_ID, _ia5(CSP_ID)))

    def _leaf(
        self,
        name: str,
        tcb: Tcb,
        key: ec.EllipticCurvePublicKey,
        issuer: str,
        signer: str,
        last: tuple[x509.ObjectIdentifier, bytes],
    ) -> x509.Certificate:
        numbers = key.public_numbers()
        slot = (name, numbers.x)
        if slot not in _LEAVES:
            extensions = [
                (OID_STRUCT_VERSION, _integer(1)),
                (OID_PRODUCT_NAME, _ia5(PRODUCT)),
                (OID_BL_SPL, _integer(tcb.boot_loader)),
                (OID_TEE_SPL, _integer(tcb.tee)),
                (OID_SNP_SPL, _integer(tcb.snp)),
                *((oid, _integer(0)) for oid in (OID_SPL_4, OID_SPL_5, OID_SPL_6, OID_SPL_7)),
                (OID_UCODE_SPL, _integer(tcb.microcode)),
                last,
            ]
            _LEAVES[slot] = _issue(name, key, issuer, signer, extensions)
        return _LEAVES[slot]


@cache
def _rsa_key(name: str) -> rsa.RSAPrivateKey:
    # Checking the primes of keys that lie beside this file would take longer than all the rest.
    pem = (_KEYS / f"{name}.pem").read_bytes()
    key = serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


@cache
def _authority(name: str, key: str, issuer: str, signer: str) -> x509.Certificate:
    return _issue(name, _rsa_key(key).public_key(), issuer, signer, None)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "snptest emulator, not AMD"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _issue(
    name: str,
    key: PublicKey,
    issuer: str,
    signer: str,
    extensions: list[tuple[x509.ObjectIdentifier, bytes]] | None,
) -> x509.Certificate:
    """Make a certificate; without extensions it is that of an authority."""
    raw = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(int.from_bytes(hashlib.sha256(raw).digest()[:8], "big") >> 1 | 1)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
    )
    if extensions is None:
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    for oid, value in extensions or ():
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    private = _rsa_key(signer)
    drafted = builder.sign(private, hashes.SHA384(), rsa_padding=_PSS)
    signature = _sign_pss(private, drafted.tbs_certificate_bytes)
    der = drafted.public_bytes(serialization.Encoding.DER)
    return x509.load_der_x509_certificate(der[: -len(signature)] + signature)


def _sign_pss(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
    """RSASSA-PSS with SHA-384 and a salt derived from the message (RFC 8017, 8.1.1)."""
    length = key.key_size // 8
    digest = hashlib.sha384(message).digest()
    salt = hashlib.sha384(b"salt" + digest).digest()
    tag = hashlib.sha384(bytes(8) + digest + salt).digest()
    block = b"\1".rjust(length - len(tag) - 1 - _SALT, b"\0") + salt
    mask = _mgf1(tag, len(block))
    masked = bytearray(a ^ b for a, b in zip(block, mask, strict=True))
    masked[0] &= 0x7F
    encoded = int.from_bytes(bytes(masked) + tag + b"\xbc", "big")
    numbers = key.private_numbers()
    m1 = pow(encoded, numbers.dmp1, numbers.p)
    m2 = pow(encoded, numbers.dmq1, numbers.q)
    value = m2 + (m1 - m2) * numbers.iqmp % numbers.p * numbers.q
    return value.to_bytes(length, "big")


def _mgf1(seed: bytes, length: int) -> bytes:
    blocks = -(-length // 48)
    made = (hashlib.sha384(seed + n.to_bytes(4, "big")).digest() for n in range(blocks))
    return b"".join(made)[:length]


def _integer(value: int) -> bytes:
    """DER INTEGER of a small number."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return bytes((2, len(raw))) + raw


def _ia5(text: str) -> bytes:
    """DER IA5String of a short text."""
    return bytes((0x16, len(text))) + text.encode("ascii")
