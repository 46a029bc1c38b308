# SPDX-License-Identifier: GPL-2.0-only
"""Guest messages on the wire: header, AES-256-GCM, sequence numbers (56860, chapter 7).

The nonce is the sequence number; authenticated besides the payload is the header from its
ALGO field on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.psp.guest_context import VMPCKS, GuestContext
from harness.emulator.psp.status import Refused, require
from harness.uapi.errors import SevFwError
from harness.uapi.guest_message import SNP_AEAD_AES_256_GCM, SNP_GUEST_MSG_PAYLOAD_MAX

HEADER_SIZE = 0x60
HEADER_VERSION = 1
_AUTHENTICATED = slice(0x30, HEADER_SIZE)
_TAG = 16
_MAX_COUNT = (1 << 64) - 1

# authtag, seqno, reserved, algo, header version, header size, type, version, size, reserved,
# VMPCK, reserved (struct snp_guest_msg_hdr, arch/x86/include/asm/sev.h, Linux 6.12).
_HEADER = struct.Struct("<32sQ8xBBHBBH4xB35x")


@dataclass(frozen=True, slots=True)
class Message:
    """A message, decrypted."""

    kind: int
    version: int
    vmpck: int
    seqno: int
    payload: bytes


def open_request(guest: GuestContext, page: bytes) -> Message:
    """Check and decrypt a request."""
    tag, seqno, algo, header_version, header_size, kind, version, length, vmpck = (
        _HEADER.unpack_from(page)
    )
    good = (
        algo == SNP_AEAD_AES_256_GCM
        and header_version == HEADER_VERSION
        and header_size == HEADER_SIZE
        and length <= SNP_GUEST_MSG_PAYLOAD_MAX
        and vmpck < VMPCKS
    )
    require(good, SevFwError.INVALID_PARAM, "header of the message")
    count = guest.message_counts[vmpck]
    require(count <= _MAX_COUNT - 2, SevFwError.AEAD_OFLOW, f"VMPCK{vmpck} is used up")
    require(seqno == count + 1, SevFwError.INVALID_PARAM, f"number {seqno}, not {count + 1}")
    body = page[HEADER_SIZE : HEADER_SIZE + length] + tag[:_TAG]
    try:
        payload = AESGCM(guest.vmpcks[vmpck]).decrypt(_nonce(seqno), body, page[_AUTHENTICATED])
    except InvalidTag:
        raise Refused(SevFwError.BAD_MEASUREMENT, "authentication tag") from None
    return Message(kind, version, vmpck, seqno, payload)


def seal_response(guest: GuestContext, request: Message, kind: int, payload: bytes) -> bytes:
    """Encrypt the answer into a page and count both messages."""
    seqno = request.seqno + 1
    header = bytearray(
        _HEADER.pack(
            b"",
            seqno,
            SNP_AEAD_AES_256_GCM,
            HEADER_VERSION,
            HEADER_SIZE,
            kind,
            request.version,
            len(payload),
            request.vmpck,
        )
    )
    key = AESGCM(guest.vmpcks[request.vmpck])
    sealed = key.encrypt(_nonce(seqno), payload, bytes(header[_AUTHENTICATED]))
    header[:_TAG] = sealed[-_TAG:]
    guest.message_counts[request.vmpck] = seqno
    return (bytes(header) + sealed[:-_TAG]).ljust(PAGE_SIZE, b"\0")


def _nonce(seqno: int) -> bytes:
    return seqno.to_bytes(12, "little")
