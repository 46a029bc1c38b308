# SPDX-License-Identifier: GPL-2.0-only
"""The firmware's front door: a command, the address of its buffer, a status.

Not modelled, answered with UNSUPPORTED: page swapping and moving, ACTIVATE_EX and
SNP_ACTIVATE_EX, firmware download.  A command that does not exist, and SEV-TIO's, are
INVALID_COMMAND.  WBINVD_REQUIRED is for machines that tell of each WBINVD (`caches`,
`Psp.wbinvd`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from harness.emulator.memory import BusError, PhysicalMemory
from harness.emulator.psp.asids import Asids
from harness.emulator.psp.certificates import Certificates
from harness.emulator.psp.command import Command
from harness.emulator.psp.debug import Debug
from harness.emulator.psp.endorsement import load_hashstick
from harness.emulator.psp.features import FeatureCommands
from harness.emulator.psp.guest_context import Guests
from harness.emulator.psp.guest_request import GuestRequests
from harness.emulator.psp.keys import Secrets
from harness.emulator.psp.launch import UPDATE, Launch
from harness.emulator.psp.pages import Pages
from harness.emulator.psp.platform import Platform, PlatformCommands
from harness.emulator.psp.policy import PlatformFeatures
from harness.emulator.psp.sev_commands import sev_commands
from harness.emulator.psp.sev_guest import SevGuests
from harness.emulator.psp.status import Refused
from harness.emulator.rmp import Rmp
from harness.uapi import psp_newer as newer
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from harness.uapi.layout import Struct, size
from harness.uapi.psp import command_name

API = (1, 55)
BUILD = 40

MAX_ASID = 1006
"""Encryption-capable ASIDs of a Genoa; the RMP has room for 1023."""

Log = Callable[[str], None]


_UNSUPPORTED: Final = frozenset(
    number
    for module in (sev, newer)
    for name, number in vars(module).items()
    if name.startswith("SEV_CMD_")
)


class Psp:
    """The firmware of one machine."""

    def __init__(
        self,
        memory: PhysicalMemory,
        rmp: Rmp,
        *,
        seed: int = 0,
        api: tuple[int, int] = API,
        build: int = BUILD,
        max_asid: int = MAX_ASID,
        es_asids: int | None = None,
        caches: bool = False,
        cbit: int = 51,
        features: PlatformFeatures | None = None,
        log: Log | None = None,
    ) -> None:
        """The firmware of a machine whose memory and RMP these are.

        max_asid: CPUID 0x8000001F ECX.  es_asids: how many of them are for SEV-ES and SNP
        guests (EDX - 1); None: every guest may have any.  caches: the machine calls `wbinvd`
        whenever all processors have executed WBINVD, and DF_FLUSH insists on it.
        """
        self.log = log
        """Called with one line for each command that is refused."""
        self.counts: dict[int, int] = {}
        """How often each command was issued."""
        self._memory = memory
        self.secrets = Secrets(seed)
        self.platform = Platform((*api, build), self.secrets, features or PlatformFeatures())
        self._pages = Pages(memory, rmp, cbit)
        self.asids = Asids(max_asid, es_asids, caches=caches)
        self.guests = Guests(self._pages, self.secrets, self.asids)
        self.sev_guests = SevGuests(self.platform, self.asids)
        self.certificates = Certificates(self.platform)
        self._commands = self._table()

    def wbinvd(self) -> None:
        """Every processor has executed WBINVD."""
        self.asids.wbinvd()

    def command(self, cmd: int, paddr: int) -> int:
        """Run a command whose buffer is at `paddr` (0 where it has none); returns the status."""
        self.counts[cmd] = self.counts.get(cmd, 0) + 1
        try:
            self._run(cmd, paddr)
        except Refused as refused:
            if self.log is not None:
                self.log(f"{command_name(cmd)}: {refused}")
            return int(refused.status)
        except BusError as error:
            if self.log is not None:
                self.log(f"{command_name(cmd)}: {error}")
            return int(SevFwError.INVALID_ADDRESS)
        return int(SevFwError.SUCCESS)

    def _run(self, cmd: int, paddr: int) -> None:
        command = self._commands.get(cmd)
        if command is None:
            known = cmd in _UNSUPPORTED
            raise Refused(
                SevFwError.UNSUPPORTED if known else SevFwError.INVALID_COMMAND, f"{cmd:#x}"
            )
        if command.snp and not self.platform.snp_initialized:
            raise Refused(SevFwError.INVALID_PLATFORM_STATE, "SNP is not initialised")
        buffer = b""
        if command.length:
            if paddr <= 0:
                raise Refused(SevFwError.INVALID_ADDRESS, "no command buffer")
            if command.writes:
                paddr = self._pages.output(paddr, command.length, align=8)
            buffer = self._pages.read(paddr, command.length)
        try:
            answer = command.run(buffer)
        except Refused as refused:
            self._answer(paddr, refused.answer)
            raise
        self._answer(paddr, answer)

    def _answer(self, paddr: int, answer: bytes | None) -> None:
        if answer is not None:
            self._memory.write(self._pages.address(paddr, len(answer), 1), answer)

    # -- the table -------------------------------------------------------------------------

    def _table(self) -> dict[int, Command]:
        platform = PlatformCommands(self.platform, self.guests, self._pages)
        features = FeatureCommands(self.platform, self._pages)
        launch = Launch(self.platform, self.guests, self._pages)
        requests = GuestRequests(self.platform, self.guests, self._pages)
        debug = Debug(self.guests, self._pages)

        def snp(run: Callable[[bytes], None], buffer: type[Struct]) -> Command:
            return Command(run, size(buffer), snp=True)

        return {
            **sev_commands(self.platform, self.sev_guests, self.asids, self._pages),
            sev.SEV_CMD_SNP_INIT: Command(platform.init),
            sev.SEV_CMD_SNP_INIT_EX: Command(platform.init_ex, size(sev.sev_data_snp_init_ex)),
            sev.SEV_CMD_SNP_SHUTDOWN: Command(platform.shutdown, snp=True),
            sev.SEV_CMD_SNP_SHUTDOWN_EX: snp(platform.shutdown_ex, sev.sev_data_snp_shutdown_ex),
            sev.SEV_CMD_SNP_PLATFORM_STATUS: Command(platform.status, size(sev.sev_data_snp_addr)),
            sev.SEV_CMD_SNP_DF_FLUSH: Command(platform.df_flush, snp=True),
            sev.SEV_CMD_SNP_CONFIG: snp(platform.config, sev.sev_user_data_snp_config),
            newer.SEV_CMD_SNP_FEATURE_INFO: Command(
                features.feature_info, size(newer.sev_data_snp_feature_info)
            ),
            newer.SEV_CMD_SNP_VERIFY_MITIGATION: Command(
                features.verify_mitigation, size(newer.sev_data_snp_verify_mitigation)
            ),
            sev.SEV_CMD_SNP_COMMIT: Command(platform.commit, size(sev.sev_data_snp_commit)),
            sev.SEV_CMD_SNP_GCTX_CREATE: snp(self._gctx_create, sev.sev_data_snp_addr),
            sev.SEV_CMD_SNP_ACTIVATE: snp(self._activate, sev.sev_data_snp_activate),
            sev.SEV_CMD_SNP_DECOMMISSION: snp(self._decommission, sev.sev_data_snp_addr),
            sev.SEV_CMD_SNP_GUEST_STATUS: snp(self._guest_status, sev.sev_data_snp_guest_status),
            sev.SEV_CMD_SNP_LAUNCH_START: snp(launch.start, sev.sev_data_snp_launch_start),
            sev.SEV_CMD_SNP_LAUNCH_UPDATE: Command(launch.update, UPDATE.size, snp=True),
            sev.SEV_CMD_SNP_LAUNCH_FINISH: snp(launch.finish, sev.sev_data_snp_launch_finish),
            sev.SEV_CMD_SNP_GUEST_REQUEST: snp(requests.request, sev.sev_data_snp_guest_request),
            sev.SEV_CMD_SNP_DBG_DECRYPT: snp(debug.decrypt, sev.sev_data_snp_dbg),
            sev.SEV_CMD_SNP_DBG_ENCRYPT: snp(debug.encrypt, sev.sev_data_snp_dbg),
            sev.SEV_CMD_SNP_VLEK_LOAD: snp(self._vlek_load, sev.sev_user_data_snp_vlek_load),
            sev.SEV_CMD_SNP_PAGE_RECLAIM: snp(self._page_reclaim, sev.sev_data_snp_page_reclaim),
            sev.SEV_CMD_SNP_PAGE_UNSMASH: snp(self._page_unsmash, sev.sev_data_snp_page_unsmash),
            sev.SEV_CMD_SNP_PAGE_SET_STATE: Command(
                self._page_set_state, _SET_STATE.size, snp=True
            ),
        }

    # -- guests and pages ------------------------------------------------------------------

    def _gctx_create(self, buffer: bytes) -> None:
        self.guests.create(sev.sev_data_snp_addr.from_bytes(buffer).address)

    def _activate(self, buffer: bytes) -> None:
        data = sev.sev_data_snp_activate.from_bytes(buffer)
        self.guests.activate(self.guests.find(data.gctx_paddr), data.asid)

    def _decommission(self, buffer: bytes) -> None:
        address = sev.sev_data_snp_addr.from_bytes(buffer).address
        self.guests.decommission(self.guests.find(address))

    def _guest_status(self, buffer: bytes) -> None:
        data = sev.sev_data_snp_guest_status.from_bytes(buffer)
        guest = self.guests.find(data.gctx_paddr)
        target = self._pages.output(data.address, _STATUS.size, align=8)
        self._memory.write(target, _STATUS.pack(guest.policy, guest.asid, guest.state))

    def _vlek_load(self, buffer: bytes) -> None:
        data = sev.sev_user_data_snp_vlek_load.from_bytes(buffer)
        if data.len < len(buffer):
            raise Refused(SevFwError.INVALID_LEN, f"length {data.len}")
        if data.vlek_wrapped_version or any(bytes(data.rsvd)):
            raise Refused(SevFwError.INVALID_PARAM, "version, or reserved bits")
        length = size(sev.sev_user_data_snp_wrapped_vlek_hashstick)
        load_hashstick(self.platform, self._pages.read(data.vlek_wrapped_address, length))

    def _page_reclaim(self, buffer: bytes) -> None:
        self._pages.reclaim(sev.sev_data_snp_page_reclaim.from_bytes(buffer).paddr)

    def _page_unsmash(self, buffer: bytes) -> None:
        self._pages.unsmash(sev.sev_data_snp_page_unsmash.from_bytes(buffer).paddr)

    def _page_set_state(self, buffer: bytes) -> None:
        length, reserved, ranges = _SET_STATE.unpack(buffer)
        if length < _SET_STATE.size:
            raise Refused(SevFwError.INVALID_LEN, f"length {length}")
        if reserved:
            raise Refused(SevFwError.INVALID_PARAM, "reserved bits")
        self._pages.fix(self._pages.range_list(ranges))


_STATUS = struct.Struct("<QIB3x")
"""Structure of SNP_GUEST_STATUS: policy, ASID, state (firmware ABI 56860, SNP_GUEST_STATUS)."""

_SET_STATE = struct.Struct("<IIQ")
"""SNP_PAGE_SET_STATE: length, reserved, address of a RANGE_LIST (56860, SNP_PAGE_SET_STATE)."""
