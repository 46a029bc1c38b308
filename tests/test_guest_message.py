# SPDX-License-Identifier: GPL-2.0-only
"""Guest messages against a second AES-GCM, written out here; reports against a chain made here."""

from __future__ import annotations

import datetime
import struct
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from harness.vm import attestation, guest_message
from harness.vm.attestation import Report, VerificationError, verify_chain
from harness.vm.errors import MessageError
from harness.vm.guest_message import (
    KeyResponse,
    MessageHeader,
    MessageType,
    ReportResponse,
    key_request,
    report_request,
    seal,
    unseal,
    vmpck_of,
)

KEY = bytes(range(32))


def aes_block(key: bytes, block: bytes) -> bytes:
    # One block: the mode does not matter, this is the bare cipher.
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(block)


def gf_multiply(x: int, y: int) -> int:
    """Product in GF(2^128) with GCM's bit order (NIST SP 800-38D, 6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


def gcm(key: bytes, nonce: bytes, clear: bytes, extra: bytes) -> tuple[bytes, bytes]:
    """Ciphertext and tag, straight from NIST SP 800-38D."""
    blocks = -(-len(clear) // 16)
    stream = b"".join(
        aes_block(key, nonce + (number + 2).to_bytes(4, "big")) for number in range(blocks)
    )
    body = bytes(a ^ b for a, b in zip(clear, stream, strict=False))
    padded = extra + bytes(-len(extra) % 16) + body + bytes(-len(body) % 16)
    padded += struct.pack(">QQ", len(extra) * 8, len(body) * 8)
    h, total = int.from_bytes(aes_block(key, bytes(16)), "big"), 0
    for at in range(0, len(padded), 16):
        total = gf_multiply(total ^ int.from_bytes(padded[at : at + 16], "big"), h)
    mask = int.from_bytes(aes_block(key, nonce + b"\0\0\0\1"), "big")
    return body, (total ^ mask).to_bytes(16, "big")


def test_reference_gcm_is_gcm() -> None:
    """The reference passes test case 14 of the GCM specification (AES-256, one zero block)."""
    body, tag = gcm(bytes(32), bytes(12), bytes(16), b"")
    assert body.hex() == "cea7403d4d606b6e074ec5d3baf39d18"
    assert tag.hex() == "d0d1c8a799996bf0265b98b5d48ab919"


def message_by_hand(key: bytes, seqno: int, kind: int, vmpck: int, payload: bytes) -> bytes:
    """A message page, each field at its offset by hand (56860, SNP_GUEST_REQUEST)."""
    page = bytearray(4096)
    page[0x20:0x28] = seqno.to_bytes(8, "little")
    page[0x30] = 1
    page[0x31] = 1
    page[0x32:0x34] = (0x60).to_bytes(2, "little")
    page[0x34] = kind
    page[0x35] = 1
    page[0x36:0x38] = len(payload).to_bytes(2, "little")
    page[0x3C] = vmpck
    body, tag = gcm(key, seqno.to_bytes(12, "little"), payload, bytes(page[0x30:0x60]))
    page[0x00:0x10] = tag
    page[0x60 : 0x60 + len(body)] = body
    return bytes(page)


@pytest.mark.parametrize("seqno", [1, 0x1122334455667788])
def test_seal_equals_the_reference(seqno: int) -> None:
    """A sealed page is the page made by hand, bit by bit."""
    payload = report_request(b"nonce", vmpl=1)
    header = MessageHeader(MessageType.REPORT_REQ, len(payload), seqno, 2)
    assert seal(KEY, header, payload) == message_by_hand(KEY, seqno, 5, 2, payload)


@given(
    seqno=st.integers(0, 2**64 - 1),
    payload=st.binary(max_size=200),
    kind=st.integers(0, 255),
    vmpck=st.integers(0, 255),
)
def test_unseal_opens_the_reference(seqno: int, payload: bytes, kind: int, vmpck: int) -> None:
    """What the other side seals is opened, header and payload."""
    header, clear = unseal(KEY, message_by_hand(KEY, seqno, kind, vmpck, payload))
    assert clear == payload
    assert (header.type, header.seqno, header.vmpck) == (kind, seqno, vmpck)
    assert header.size == len(payload)


@pytest.mark.parametrize("offset", [0x0, 0xF, 0x20, 0x31, 0x34, 0x35, 0x3C, 0x5F, 0x60, 0x80])
def test_tampering_is_noticed(offset: int) -> None:
    """One flipped bit in tag, number, authenticated header or payload fails authentication."""
    page = bytearray(message_by_hand(KEY, 7, 6, 0, bytes(0x40)))
    page[offset] ^= 4
    with pytest.raises(MessageError, match="tag is wrong"):
        unseal(KEY, bytes(page))


def test_wrong_key_and_wrong_shapes() -> None:
    """Another VMPCK, another algorithm and an impossible size are refused."""
    page = message_by_hand(KEY, 7, 6, 0, b"payload")
    with pytest.raises(MessageError, match="tag is wrong"):
        unseal(bytes(32), page)
    header = MessageHeader(6, 7, 7)
    with pytest.raises(MessageError, match="not a message"):
        unseal(KEY, seal(KEY, replace(header, algo=2), b"payload"))
    with pytest.raises(MessageError, match="does not fit"):
        unseal(KEY, seal(KEY, replace(header, size=4000 + 1), b"payload"))


def test_payload_layouts() -> None:
    """Requests have the sizes and offsets of their tables."""
    report = report_request(b"\xaa" * 64, vmpl=3, key_select=2)
    assert len(report) == 0x60
    assert report[:0x40] == b"\xaa" * 64
    assert report[0x40:0x48] == bytes([3, 0, 0, 0, 2, 0, 0, 0])
    key = key_request(root_key_select=1, field_select=0x2A, vmpl=2, guest_svn=5, tcb_version=0x1122)
    assert key.hex() == ("01000000000000002a0000000000000002000000050000002211000000000000")


def test_responses() -> None:
    """Status, report and key are where the tables say; what cannot be is refused."""
    payload = struct.pack("<II24x", 0, 5) + b"12345" + bytes(3)
    assert ReportResponse.decode(payload) == ReportResponse(0, b"12345")
    with pytest.raises(MessageError, match="claims"):
        ReportResponse.decode(struct.pack("<II24x", 0, 6) + b"12345")
    with pytest.raises(MessageError):
        ReportResponse.decode(bytes(31))
    assert KeyResponse.decode(bytes([0x16]) + bytes(31) + KEY) == KeyResponse(0x16, KEY)
    with pytest.raises(MessageError):
        KeyResponse.decode(bytes(63))


def test_vmpck_of_secrets() -> None:
    """VMPCK0..3 follow each other from 0x20."""
    secrets = bytes(0x20) + b"".join(bytes([level]) * 32 for level in range(4))
    secrets = secrets.ljust(4096, b"\xee")
    assert [vmpck_of(secrets, level) for level in range(4)] == [bytes([n]) * 32 for n in range(4)]


RsaKey = rsa.RSAPrivateKey


def certificate(
    name: str, public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, issuer: str, key: RsaKey
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(named(issuer))
        .subject_name(named(name))
        .public_key(public)
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=9000))
    )
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), hashes.SHA384.digest_size)
    return builder.sign(key, hashes.SHA384(), rsa_padding=pss)


class Chain:
    """An ARK, an ASK and a VCEK of our own."""

    def __init__(self) -> None:
        self.ark_key = rsa.generate_private_key(65537, 2048)
        self.ask_key = rsa.generate_private_key(65537, 2048)
        self.vcek_key = ec.generate_private_key(ec.SECP384R1())
        self.ark = certificate("ARK", self.ark_key.public_key(), "ARK", self.ark_key)
        self.ask = certificate("ASK", self.ask_key.public_key(), "ARK", self.ark_key)
        self.vcek = certificate("VCEK", self.vcek_key.public_key(), "ASK", self.ask_key)

    def report(self) -> bytes:
        raw = bytearray(attestation.REPORT_SIZE)
        raw[0x00] = 2
        raw[0x34] = 1
        raw[0x90:0xC0] = b"\x77" * 48
        raw[0x1E8:0x1EB] = bytes([21, 55, 1])
        der = self.vcek_key.sign(bytes(raw[:0x2A0]), ec.ECDSA(hashes.SHA384()))
        r, s = decode_dss_signature(der)
        raw[0x2A0 : 0x2A0 + 72] = r.to_bytes(72, "little")
        raw[0x2E8 : 0x2E8 + 72] = s.to_bytes(72, "little")
        return bytes(raw)


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain()


def test_report_verifies_up_to_the_root(chain: Chain) -> None:
    """A genuine report and chain pass, and its fields are read."""
    report = Report.decode(chain.report())
    report.verify(chain.vcek)
    verify_chain(chain.vcek, chain.ask, chain.ark)
    assert report.measurement == b"\x77" * 48
    assert report.current_version == (1, 55, 21)
    assert report.signing_key == attestation.SIGNED_BY_VCEK


@pytest.mark.parametrize("offset", [0x0, 0x95, 0x29F, 0x2A0, 0x2E8])
def test_forged_report_is_refused(chain: Chain, offset: int) -> None:
    """A flipped bit in the signed part or in the signature is noticed."""
    raw = bytearray(chain.report())
    raw[offset] ^= 1
    with pytest.raises(VerificationError, match="signature is wrong"):
        Report.decode(bytes(raw)).verify(chain.vcek)


def test_foreign_certificates_are_refused(chain: Chain) -> None:
    """The same names with other keys, and links out of order, don't pass."""
    other = Chain()
    with pytest.raises(VerificationError, match="signature is wrong"):
        Report.decode(chain.report()).verify(other.vcek)
    with pytest.raises(VerificationError, match="leaf: signature"):
        verify_chain(other.vcek, chain.ask, chain.ark)
    with pytest.raises(VerificationError, match="intermediate: signature"):
        verify_chain(chain.vcek, other.ask, chain.ark)
    with pytest.raises(VerificationError, match="intermediate: issued by"):
        verify_chain(chain.vcek, chain.vcek, chain.ark)
    with pytest.raises(VerificationError, match="not on P-384"):
        Report.decode(chain.report()).verify(chain.ask)
    with pytest.raises(VerificationError, match="bytes"):
        Report.decode(bytes(100))


def test_header_size() -> None:
    """The header is 0x60 bytes, as its own size field says."""
    assert len(MessageHeader(1, 0, 0).encode()) == guest_message.HEADER_SIZE == 0x60
