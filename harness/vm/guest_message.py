# SPDX-License-Identifier: GPL-2.0-only
"""The guest's side of SNP guest messages: encryption, sequence numbers, reports, keys.

SNP firmware ABI 56860 rev 1.55: chapter 7 (guest messages), SNP_GUEST_REQUEST (message header).
Written from the guest's point of view and on purpose without anything of the emulator's
firmware, so that each is a check on the other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from harness.uapi.errors import status_name
from harness.vm import layout
from harness.vm.errors import MessageError
from harness.vm.guest_commands import GuestCommands, VmgExitResult
from harness.vm.results import Number

HEADER_SIZE: Final = 0x60
MAX_PAYLOAD: Final = layout.PAGE_SIZE - HEADER_SIZE
TAG_SIZE: Final = 16
_AUTHENTICATED_FROM: Final = 0x30
"""The header from here on is authenticated; before it are the tag and the sequence number."""

_HEADER: Final = struct.Struct("<32sQQBBHBBHIB35s")
_REPORT_REQUEST: Final = struct.Struct("<64sII24s")
_KEY_REQUEST: Final = struct.Struct("<IIQIIQ")
_VMPCK_OFFSET: Final = 0x20
"""Of VMPCK0 in the secrets page; the other three follow, 32 bytes each."""

AEAD_AES_256_GCM: Final = 1
HEADER_VERSION: Final = 1


class MessageType(IntEnum):
    """MSG_TYPE of the header."""

    CPUID_REQ = 1
    CPUID_RSP = 2
    KEY_REQ = 3
    KEY_RSP = 4
    REPORT_REQ = 5
    REPORT_RSP = 6
    EXPORT_REQ = 7
    EXPORT_RSP = 8
    IMPORT_REQ = 9
    IMPORT_RSP = 10
    ABSORB_REQ = 11
    ABSORB_RSP = 12
    VMRK_REQ = 13
    VMRK_RSP = 14


@dataclass(frozen=True, slots=True)
class MessageHeader:
    """The first 0x60 bytes of a message."""

    type: int
    size: int
    seqno: int
    vmpck: int = 0
    version: int = 1
    algo: int = AEAD_AES_256_GCM
    header_version: int = HEADER_VERSION
    header_size: int = HEADER_SIZE
    tag: bytes = bytes(TAG_SIZE)

    def encode(self) -> bytes:
        """The header as it is in the page."""
        return _HEADER.pack(
            self.tag,
            self.seqno,
            0,
            self.algo,
            self.header_version,
            self.header_size,
            self.type,
            self.version,
            self.size,
            0,
            self.vmpck,
            b"",
        )

    @classmethod
    def decode(cls, page: bytes) -> MessageHeader:
        """Read the header of a message."""
        tag, seqno, _, algo, header_version, header_size, kind, version, size, _, vmpck, _ = (
            _HEADER.unpack_from(page)
        )
        return cls(
            kind, size, seqno, vmpck, version, algo, header_version, header_size, tag[:TAG_SIZE]
        )


def seal(key: bytes, header: MessageHeader, payload: bytes) -> bytes:
    """A message page: the header, authenticated, and the encrypted payload.

    The nonce is the sequence number in 12 bytes.  The header's `size` is what it says even
    where it is not the payload's length.
    """
    clear = header.encode()
    sealed = AESGCM(key).encrypt(_nonce(header.seqno), payload, clear[_AUTHENTICATED_FROM:])
    body, tag = sealed[:-TAG_SIZE], sealed[-TAG_SIZE:]
    return (tag + clear[TAG_SIZE:] + body).ljust(layout.PAGE_SIZE, b"\0")


def unseal(key: bytes, page: bytes) -> tuple[MessageHeader, bytes]:
    """Check and decrypt a message page; MessageError when it is not what its sender sealed."""
    header = MessageHeader.decode(page)
    if header.algo != AEAD_AES_256_GCM or header.header_size != HEADER_SIZE:
        raise MessageError(f"not a message: {header}")
    if header.size > MAX_PAYLOAD:
        raise MessageError(f"payload of {header.size} bytes does not fit the page")
    body = page[HEADER_SIZE : HEADER_SIZE + header.size]
    try:
        payload = AESGCM(key).decrypt(
            _nonce(header.seqno), body + header.tag, page[_AUTHENTICATED_FROM:HEADER_SIZE]
        )
    except InvalidTag as error:
        raise MessageError(f"authentication tag is wrong: {header}") from error
    return header, payload


def _nonce(seqno: int) -> bytes:
    return seqno.to_bytes(12, "little")


def vmpck_of(secrets: bytes, level: int) -> bytes:
    """VM platform communication key `level` (0..3) of a secrets page."""
    offset = _VMPCK_OFFSET + 32 * level
    return secrets[offset : offset + 32]


def report_request(report_data: bytes = b"", *, vmpl: int = 0, key_select: int = 0) -> bytes:
    """Payload of MSG_REPORT_REQ: 64 bytes of the guest's own, VMPL, 0 any, 1 VCEK or 2 VLEK."""
    return _REPORT_REQUEST.pack(report_data, vmpl, key_select & 3, b"")


def key_request(
    *,
    root_key_select: int = 0,
    field_select: int = 0,
    vmpl: int = 0,
    guest_svn: int = 0,
    tcb_version: int = 0,
) -> bytes:
    """Payload of MSG_KEY_REQ: which root (0 VCEK or VLEK, 1 VMRK) and what to mix in."""
    return _KEY_REQUEST.pack(root_key_select, 0, field_select, vmpl, guest_svn, tcb_version)


@dataclass(frozen=True, slots=True)
class ReportResponse:
    """Payload of MSG_REPORT_RSP."""

    status: int
    report: bytes

    @classmethod
    def decode(cls, payload: bytes) -> ReportResponse:
        """Read it; MessageError when its size is not possible."""
        if len(payload) < 32:
            raise MessageError(f"MSG_REPORT_RSP of {len(payload)} bytes")
        status, size = struct.unpack_from("<II", payload)
        if 32 + size > len(payload):
            raise MessageError(f"MSG_REPORT_RSP of {len(payload)} bytes claims {size} of report")
        return cls(_status(status, "MSG_REPORT_RSP"), payload[32 : 32 + size])


@dataclass(frozen=True, slots=True)
class KeyResponse:
    """Payload of MSG_KEY_RSP."""

    status: int
    key: bytes

    @classmethod
    def decode(cls, payload: bytes) -> KeyResponse:
        """Read it; MessageError when it is too short."""
        if len(payload) < 64:
            raise MessageError(f"MSG_KEY_RSP of {len(payload)} bytes")
        status = int.from_bytes(payload[:4], "little")
        return cls(_status(status, "MSG_KEY_RSP"), payload[32:64])


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """What a guest request gave: the exit, and the response if there was one."""

    exit: VmgExitResult
    header: MessageHeader | None = None
    payload: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether hypervisor and firmware carried it out."""
        return self.header is not None

    @property
    def operation(self) -> str:
        """The exit that carried the request."""
        return self.exit.operation

    def __str__(self) -> str:
        """What came of it in words."""
        return "success" if self.ok else str(self.exit)

    def __repr__(self) -> str:
        return f"{self.operation}: {self}"

    @property
    def fw_error(self) -> int:
        """The firmware's error."""
        error = self.exit.info2 & 0xFFFFFFFF
        return Number(error, f"{self.operation} firmware status", status_name)

    @property
    def vmm_error(self) -> int:
        """The hypervisor's error: 1 invalid length, 2 busy."""
        return Number(self.exit.info2 >> 32, f"{self.operation} hypervisor's error")


class Messenger:
    """Sends messages of a vCPU to the firmware under one VMPCK, counting sequence numbers."""

    def __init__(
        self,
        cpu: GuestCommands,
        *,
        level: int = 0,
        key: bytes | None = None,
        request: int | None = None,
        response: int | None = None,
    ) -> None:
        """Take the key from the guest's secrets page unless given.

        request, response: GPAs of two shared pages (default: the vCPU's buffer).
        """
        self.cpu = cpu
        self.level = level
        self.key = key or cpu.read(layout.SECRETS_GPA + _VMPCK_OFFSET + 32 * level, 32)
        self.seqno = 1
        self.request = layout.buffer(cpu.index) if request is None else request
        self.response = self.request + layout.PAGE_SIZE if response is None else response

    def send(
        self,
        kind: int,
        payload: bytes,
        *,
        version: int = 1,
        extended: bool = False,
        data_gpa: int = 0,
        data_pages: int = 0,
    ) -> Answer:
        """Send one message and open the response; numbers advance by two when there was one.

        A response that does not authenticate, answers another message or has a wrong number
        raises MessageError.
        """
        header = MessageHeader(kind, len(payload), self.seqno, self.level, version)
        page = seal(self.key, header, payload)
        answer = self.send_page(page, extended=extended, data_gpa=data_gpa, data_pages=data_pages)
        if answer.header is None:
            return answer
        if answer.header.type != kind + 1 or answer.header.vmpck != self.level:
            raise MessageError(f"this does not answer message type {kind}: {answer.header}")
        if answer.header.seqno != self.seqno + 1:
            raise MessageError(f"sequence number {answer.header.seqno} after {self.seqno}")
        self.seqno += 2
        return answer

    def send_page(
        self,
        page: bytes,
        *,
        extended: bool = False,
        data_gpa: int = 0,
        data_pages: int = 0,
    ) -> Answer:
        """Send any page as a request; a response is decrypted, its numbers are not judged."""
        vm = self.cpu.guest.vm
        vm.write_gpa(self.request, page)
        vm.write_gpa(self.response, bytes(layout.PAGE_SIZE))
        left = self.cpu.guest_request(
            self.request,
            self.response,
            extended=extended,
            data_gpa=data_gpa,
            data_pages=data_pages,
        )
        if left.info1 & 0xFFFFFFFF or left.info2:
            return Answer(left)
        header, payload = unseal(self.key, vm.read_gpa(self.response, layout.PAGE_SIZE))
        return Answer(left, header, payload)

    def report(self, report_data: bytes = b"", *, vmpl: int = 0, key_select: int = 0) -> bytes:
        """An attestation report (see `harness.vm.attestation`); MessageError when refused."""
        request = report_request(report_data, vmpl=vmpl, key_select=key_select)
        answer = self.send(MessageType.REPORT_REQ, request)
        response = ReportResponse.decode(_payload(answer))
        if response.status:
            raise MessageError(f"the firmware refused a report: {status_name(response.status)}")
        return response.report

    def derived_key(self, request: bytes | None = None) -> bytes:
        """A derived key of 32 bytes for a payload of `key_request`; MessageError when refused."""
        answer = self.send(MessageType.KEY_REQ, key_request() if request is None else request)
        response = KeyResponse.decode(_payload(answer))
        if response.status:
            raise MessageError(f"the firmware refused a key: {status_name(response.status)}")
        return response.key


def _status(value: int, message: str) -> int:
    return Number(value, f"{message} status", status_name)


def _payload(answer: Answer) -> bytes:
    if not answer.ok:
        raise MessageError(f"{answer.operation}: {answer.exit}; want a response")
    return answer.payload
