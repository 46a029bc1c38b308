# SPDX-License-Identifier: GPL-2.0-only
"""Plain SEV and SEV-ES guests: handles, states, ASIDs (SEV API 55766, guest management)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

from harness.emulator.psp.asids import Asids, Kind
from harness.emulator.psp.platform import Platform
from harness.emulator.psp.sev_channel import Channel
from harness.emulator.psp.status import Refused, require
from harness.uapi import sev
from harness.uapi.errors import SevFwError

if TYPE_CHECKING:
    from hashlib import _Hash


class SevGuestState(IntEnum):
    """GSTATE_* (55766, guest states)."""

    UNINIT = 0
    LUPDATE = 1
    LSECRET = 2
    RUNNING = 3
    SUPDATE = 4
    RUPDATE = 5
    SENT = 6


class SevPolicy(IntFlag):
    """Bits of a guest's policy (55766, guest policy); the API's version follows at bit 16."""

    NODBG = 1 << 0
    NOKS = 1 << 1
    ES = 1 << 2
    NOSEND = 1 << 3
    DOMAIN = 1 << 4
    SEV = 1 << 5


_RESERVED = 0xFFC0


@dataclass(slots=True)
class SevGuest:
    """One guest, from LAUNCH_START or RECEIVE_START to DECOMMISSION."""

    handle: int
    policy: int
    state: SevGuestState
    channel: Channel
    asid: int = 0
    digest: _Hash = field(default_factory=hashlib.sha256)
    """Of what LAUNCH_UPDATE_DATA and LAUNCH_UPDATE_VMSA encrypted so far."""
    launch_digest: bytes = bytes(32)
    measure: bytes = bytes(32)

    @property
    def es(self) -> bool:
        """Whether it is an SEV-ES guest."""
        return bool(self.policy & SevPolicy.ES)

    def require_state(self, *states: SevGuestState) -> None:
        """Refuse the command in any other state."""
        require(self.state in states, SevFwError.INVALID_GUEST_STATE, self.state.name)

    def require_active(self) -> None:
        """Refuse the command without an ASID."""
        require(self.asid != 0, SevFwError.INACTIVE, "the guest has no ASID")


class SevGuests:
    """All guests by handle; the platform is WORKING while there are any."""

    def __init__(self, platform: Platform, asids: Asids) -> None:
        self._platform, self._asids = platform, asids
        self._guests: dict[int, SevGuest] = {}

    def __len__(self) -> int:
        return len(self._guests)

    def get(self, handle: int) -> SevGuest | None:
        """The guest with this handle, where there is one."""
        return self._guests.get(handle)

    def find(self, handle: int) -> SevGuest:
        """The guest with this handle, on a platform that has guests."""
        self._platform.require_sev(sev.SEV_STATE_WORKING)
        guest = self._guests.get(handle)
        if guest is None:
            raise Refused(SevFwError.INVALID_GUEST, f"handle {handle}")
        return guest

    def check_policy(self, policy: int, shared: int) -> None:
        """Refuse to share the key of a guest that does not allow it, or SEV-ES that is off."""
        if shared:
            other = self._guests.get(shared)
            if other is None:
                raise Refused(SevFwError.INVALID_GUEST, f"handle {shared}")
            same = other.policy == policy and not policy & SevPolicy.NOKS
            require(same, SevFwError.POLICY_FAILURE, "no sharing of keys")
        good = self._platform.sev_es or not policy & SevPolicy.ES
        require(good, SevFwError.UNSUPPORTED, "SEV-ES is not enabled")

    def check_owner_policy(self, policy: int) -> None:
        """Refuse a policy, proved to be an owner's, that this firmware cannot keep."""
        version = policy >> 16 & 0xFF, policy >> 24
        known = version <= self._platform.version[:2]
        require(known, SevFwError.POLICY_FAILURE, f"wants API {version[0]}.{version[1]}")
        require(not policy & _RESERVED, SevFwError.POLICY_FAILURE, "reserved policy bits")

    def create(self, policy: int, state: SevGuestState, channel: Channel) -> SevGuest:
        """A new guest with the lowest free handle."""
        limit = self._asids.limit
        free = (number for number in range(1, limit + 1) if number not in self._guests)
        handle = next(free, 0)
        require(handle != 0, SevFwError.RESOURCE_LIMIT, f"{limit} guests")
        guest = SevGuest(handle, policy, state, channel)
        self._guests[handle] = guest
        self._platform.sev_state = sev.SEV_STATE_WORKING
        return guest

    def activate(self, guest: SevGuest, asid: int) -> None:
        """ACTIVATE: bind a guest to an ASID."""
        require(guest.state != SevGuestState.SENT, SevFwError.INVALID_GUEST_STATE, "SENT")
        self._asids.check(asid, Kind.SEV_ES if guest.es else Kind.SEV)
        require(guest.asid == 0, SevFwError.ACTIVE, f"has ASID {guest.asid}")
        self._asids.take(asid, guest)
        guest.asid = asid

    def deactivate(self, guest: SevGuest) -> None:
        """DEACTIVATE: give the ASID up."""
        guest.require_active()
        self._asids.release(guest.asid)
        guest.asid = 0

    def decommission(self, guest: SevGuest) -> None:
        """DECOMMISSION: forget a guest."""
        require(guest.asid == 0, SevFwError.ACTIVE, f"has ASID {guest.asid}")
        del self._guests[guest.handle]
        if not self._guests:
            self._platform.sev_state = sev.SEV_STATE_INIT

    def clear(self) -> None:
        """SHUTDOWN: all guests are lost, their ASIDs wait for a flush."""
        for guest in self._guests.values():
            if guest.asid:
                self._asids.release(guest.asid)
        self._guests.clear()


class SevGuestCommands:
    """ACTIVATE, DEACTIVATE, DECOMMISSION and GUEST_STATUS."""

    def __init__(self, platform: Platform, guests: SevGuests) -> None:
        self._platform, self._guests = platform, guests

    def activate(self, buffer: bytes) -> None:
        """ACTIVATE."""
        data = sev.sev_data_activate.from_bytes(buffer)
        self._guests.activate(self._guests.find(data.handle), data.asid)

    def deactivate(self, buffer: bytes) -> None:
        """DEACTIVATE."""
        handle = sev.sev_data_deactivate.from_bytes(buffer).handle
        self._guests.deactivate(self._guests.find(handle))

    def decommission(self, buffer: bytes) -> None:
        """DECOMMISSION."""
        handle = sev.sev_data_decommission.from_bytes(buffer).handle
        self._guests.decommission(self._guests.find(handle))

    def status(self, buffer: bytes) -> bytes:
        """GUEST_STATUS: a handle that is nobody's is in state UNINIT, and no error."""
        self._platform.require_sev(sev.SEV_STATE_INIT, sev.SEV_STATE_WORKING)
        data = sev.sev_data_guest_status.from_bytes(buffer)
        guest = self._guests.get(data.handle)
        data.state = SevGuestState.UNINIT if guest is None else guest.state
        if guest is not None:
            data.policy, data.asid = guest.policy, guest.asid
        return bytes(data)
