# SPDX-License-Identifier: GPL-2.0-only
"""The socket between the machine's PSP device and the firmware process.

One connection; QEMU (qemu/patches, hw/misc/snp-psp.c) is the client.  Little endian; a frame is
u32 type, u32 length of the payload, payload:

    1 HELLO    to the firmware    u32 version, u32 regions, u64 RMP base, u64 RMP size,
                                  u32 C-bit position, u32 number of ASIDs, u32 first ASID of
                                  plain SEV (CPUID 0x8000001F EDX), u32 zero, then for each region
                                  u64 physical address, u64 size, u64 offset in its file;
                                  the files' descriptors ride along (SCM_RIGHTS), in that order
    2 WELCOME  to the device      u32 version, u32 status (0: ready)
    3 COMMAND  to the firmware    u32 command, u32 zero, u64 physical address of the buffer
    4 RESULT   to the device      u32 status (the firmware's), u32 zero
    5 RESET    to the firmware    nothing: forget everything, the machine was reset; WELCOME
    6 IOMMU    to the firmware    u64 each, registers of the IOMMU: event log base, PPR log base,
                                  exclusion base and limit; sent before a COMMAND when they have
                                  changed since HELLO, RESET or the last IOMMU, not answered
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

from harness.emulator.psp.iommu import IommuRegisters
from harness.emulator.regions import Region

VERSION = 1
MAX_REGIONS = 16
MAX_PAYLOAD = 4096
FRAME_SECONDS = 30.0
"""A frame that has begun is complete within this time."""

_HEADER = struct.Struct("<II")
_HELLO = struct.Struct("<IIQQIII4x")
_REGION = struct.Struct("<QQQ")
_PAIR = struct.Struct("<II")
_COMMAND = struct.Struct("<IIQ")
_IOMMU = struct.Struct("<QQQQ")


class ProtocolError(Exception):
    """The peer sent what it must not send."""


class FrameType(IntEnum):
    """Types of frames."""

    HELLO = 1
    WELCOME = 2
    COMMAND = 3
    RESULT = 4
    RESET = 5
    IOMMU = 6


@dataclass(frozen=True)
class Hello:
    """What the device tells of its machine; who receives it closes the regions' descriptors."""

    regions: tuple[Region, ...]
    rmp_base: int
    rmp_size: int
    cbit: int
    max_asid: int
    """CPUID 0x8000001F ECX: ASIDs are 1 to this."""
    min_sev_asid: int
    """EDX: lower ones are for SEV-ES and SNP."""

    @classmethod
    def decode(cls, payload: bytes, fds: list[int]) -> Hello:
        """The contents of a HELLO frame; ProtocolError where they contradict each other."""
        if len(payload) < _HELLO.size:
            raise ProtocolError(f"HELLO of {len(payload)} bytes")
        version, count, base, size, *cpuid = _HELLO.unpack_from(payload)
        if version != VERSION:
            raise ProtocolError(f"the device speaks version {version} of the protocol")
        if len(payload) != _HELLO.size + count * _REGION.size or count > MAX_REGIONS:
            raise ProtocolError(f"HELLO of {len(payload)} bytes for {count} regions")
        if len(fds) != count:
            raise ProtocolError(f"{len(fds)} descriptors for {count} regions")
        regions = []
        for index, fd in enumerate(fds):
            pa, length, offset = _REGION.unpack_from(payload, _HELLO.size + index * _REGION.size)
            regions.append(Region(pa, length, offset, fd))
        return cls(tuple(regions), base, size, *cpuid)

    def encode(self) -> bytes:
        """The payload that stands for this, without the descriptors."""
        head = _HELLO.pack(
            VERSION,
            len(self.regions),
            self.rmp_base,
            self.rmp_size,
            self.cbit,
            self.max_asid,
            self.min_sev_asid,
        )
        return head + b"".join(_REGION.pack(r.pa, r.size, r.offset) for r in self.regions)


@dataclass(frozen=True)
class Frame:
    """One frame and the descriptors that came with it."""

    kind: FrameType
    payload: bytes = b""
    fds: tuple[int, ...] = ()

    def command(self) -> tuple[int, int]:
        """Command number and buffer address of a COMMAND."""
        number, _, address = self._unpack(_COMMAND)
        return number, address

    def pair(self) -> tuple[int, int]:
        """The two numbers of a WELCOME (version, status) or a RESULT (status, 0)."""
        first, second = self._unpack(_PAIR)
        return first, second

    def iommu(self) -> IommuRegisters:
        """The registers of an IOMMU frame."""
        return IommuRegisters(*self._unpack(_IOMMU))

    def _unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        if len(self.payload) != layout.size:
            raise ProtocolError(f"{self.kind.name} of {len(self.payload)} bytes")
        return layout.unpack(self.payload)


def pair(kind: FrameType, first: int, second: int = 0) -> Frame:
    """A WELCOME or a RESULT."""
    return Frame(kind, _PAIR.pack(first, second))


def command(number: int, address: int) -> Frame:
    """A COMMAND."""
    return Frame(FrameType.COMMAND, _COMMAND.pack(number, 0, address))


def iommu(registers: IommuRegisters) -> Frame:
    """An IOMMU frame."""
    return Frame(
        FrameType.IOMMU,
        _IOMMU.pack(
            registers.event_base,
            registers.ppr_base,
            registers.exclusion_base,
            registers.exclusion_limit,
        ),
    )


_TYPES = frozenset(FrameType)


class Channel:
    """Frames over a connected unix stream socket, which it owns."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._fds: list[int] = []
        self._buffer = b""

    def close(self) -> None:
        """Close the socket, and descriptors that nobody took."""
        self._close_fds()
        self._socket.close()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, frame: Frame) -> None:
        """Send a frame; OSError when the peer is gone or takes nothing for too long."""
        self._socket.settimeout(FRAME_SECONDS)
        raw = _HEADER.pack(frame.kind, len(frame.payload)) + frame.payload
        if frame.fds:
            sent = socket.send_fds(self._socket, [raw], list(frame.fds))
            raw = raw[sent:]
        if raw:
            self._socket.sendall(raw)

    def receive(self, wait: float | None = None) -> Frame | None:
        """The next frame; None when the peer closed the connection between two.

        `wait` bounds the time until it begins, for ever without.  TimeoutError when it does not
        begin or does not end in time, ProtocolError for anything that is no frame.
        """
        if not self._buffer and not self._fill(wait):
            return None
        self._need(_HEADER.size)
        kind, length = _HEADER.unpack_from(self._buffer)
        if kind not in _TYPES:
            raise ProtocolError(f"frame of type {kind}")
        if length > MAX_PAYLOAD:
            raise ProtocolError(f"frame of {length} bytes")
        end = _HEADER.size + length
        self._need(end)
        payload, self._buffer = self._buffer[_HEADER.size : end], self._buffer[end:]
        fds, self._fds = tuple(self._fds), []
        if fds and kind != FrameType.HELLO:
            _close(fds)
            raise ProtocolError(f"descriptors with a frame of type {kind}")
        return Frame(FrameType(kind), payload, fds)

    def _fill(self, wait: float | None) -> bool:
        """Read what there is; False at the end of the connection."""
        self._socket.settimeout(wait)
        data, fds, flags, _ = socket.recv_fds(
            self._socket, _HEADER.size + MAX_PAYLOAD, MAX_REGIONS, socket.MSG_CMSG_CLOEXEC
        )
        self._fds += fds
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError(f"more than {MAX_REGIONS} descriptors")
        self._buffer += data
        return bool(data)

    def _need(self, length: int) -> None:
        while len(self._buffer) < length:
            if not self._fill(FRAME_SECONDS):
                raise ProtocolError("the connection ended within a frame")

    def _close_fds(self) -> None:
        _close(tuple(self._fds))
        self._fds = []


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
