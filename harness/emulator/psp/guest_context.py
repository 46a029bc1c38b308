# SPDX-License-Identifier: GPL-2.0-only
"""Guest contexts: what the firmware knows of each guest, from SNP_GCTX_CREATE to DECOMMISSION.

On hardware the context lives encrypted in the page that the host donates.  Here it is this
object; the page holds bytes that look like ciphertext, so that nobody reads anything from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.psp.asids import Asids, Kind
from harness.emulator.psp.digest import LaunchDigest
from harness.emulator.psp.keys import Secrets
from harness.emulator.psp.pages import CONTEXT_PAGE, FIRMWARE_PAGE, Pages
from harness.emulator.psp.status import Refused, require
from harness.emulator.psp.tcb import Tcb
from harness.emulator.rmp import PageState
from harness.uapi.errors import SevFwError

VMPCKS = 4


class GuestState(IntEnum):
    """GSTATE_* (firmware ABI 56860, guest states)."""

    INIT = 0
    LAUNCH = 1
    RUNNING = 2


@dataclass(slots=True)
class GuestContext:
    """One guest (56860, guest context)."""

    page: int
    vmpcks: tuple[bytes, ...]
    report_id: bytes
    vmrk: bytes
    state: GuestState = GuestState.INIT
    asid: int = 0
    policy: int = 0
    imi: bool = False
    migration_agent: GuestContext | None = None
    gosvw: bytes = bytes(16)
    desired_tsc_khz: int = 0
    digest: LaunchDigest = field(default_factory=LaunchDigest)
    launch_tcb: Tcb = field(default_factory=Tcb)
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    guest_svn: int = 0
    host_data: bytes = bytes(32)
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    author_key_en: bool = False
    vcek_disabled: bool = False
    message_counts: list[int] = field(default_factory=lambda: [0] * VMPCKS)

    def require_state(self, *states: GuestState) -> None:
        """Refuse the command in any other state."""
        require(self.state in states, SevFwError.INVALID_GUEST_STATE, self.state.name)


class Guests:
    """All contexts, found by the physical address of their page."""

    def __init__(self, pages: Pages, secrets: Secrets, asids: Asids) -> None:
        self._pages, self._secrets, self.asids = pages, secrets, asids
        self._guests: dict[int, GuestContext] = {}

    def __len__(self) -> int:
        return len(self._guests)

    def create(self, pa: int) -> None:
        """SNP_GCTX_CREATE: a Firmware page becomes a Context page."""
        pa = self._pages.address(pa)
        self._pages.expect(pa, PageState.FIRMWARE)
        draw = self._secrets.draw
        guest = GuestContext(
            pa,
            tuple(draw("VMPCK") for _ in range(VMPCKS)),
            draw("report id"),
            draw("VMRK"),
        )
        self._pages.rmp.write_entry(pa, CONTEXT_PAGE)
        self._pages.memory.write(pa, draw("context page", PAGE_SIZE))
        self._guests[pa] = guest

    def find(self, pa: int) -> GuestContext:
        """The guest whose context is in this page."""
        pa = self._pages.address(pa)
        guest = self._guests.get(pa)
        if guest is None:
            self._pages.expect(pa, PageState.CONTEXT)
            raise Refused(SevFwError.INVALID_GUEST, f"no context at 0x{pa:x}")
        return guest

    def activate(self, guest: GuestContext, asid: int) -> None:
        """SNP_ACTIVATE: bind a guest to an ASID."""
        guest.require_state(GuestState.LAUNCH, GuestState.RUNNING)
        self.asids.check(asid, Kind.SNP)
        require(guest.asid == 0, SevFwError.ACTIVE, f"has ASID {guest.asid}")
        self.asids.take(asid, guest)
        guest.asid = asid

    def decommission(self, guest: GuestContext) -> None:
        """SNP_DECOMMISSION: forget a guest; its page is the firmware's again."""
        if guest.asid:
            self.asids.release(guest.asid)
        for other in self._guests.values():
            if other.migration_agent is guest:
                other.migration_agent = None
        del self._guests[guest.page]
        self._pages.memory.zero(guest.page, PAGE_SIZE)
        self._pages.rmp.write_entry(guest.page, FIRMWARE_PAGE)

    def clear(self) -> None:
        """Forget all: the RMP has been initialised anew."""
        self._guests.clear()
        self.asids.clear()
