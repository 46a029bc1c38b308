# SPDX-License-Identifier: GPL-2.0-only
"""A host that launches plain SEV guests, with what the ccp driver does to buffers under SNP."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.rmp import PageState, RmpCode
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from tests.psp_host import PspHost

S = TypeVar("S", bound=ctypes.Structure)

ES = 1 << 2
ASIDS, ES_ASIDS = 12, 4
"""ASIDs 1 to 4 are for SEV-ES and SNP guests, 5 to 12 for plain SEV."""

WRITABLE = {
    sev.SEV_CMD_PLATFORM_STATUS,
    sev.SEV_CMD_GUEST_STATUS,
    sev.SEV_CMD_LAUNCH_START,
    sev.SEV_CMD_RECEIVE_START,
    sev.SEV_CMD_LAUNCH_MEASURE,
    sev.SEV_CMD_SEND_START,
    sev.SEV_CMD_SEND_UPDATE_DATA,
    sev.SEV_CMD_SEND_UPDATE_VMSA,
    sev.SEV_CMD_PEK_CSR,
    sev.SEV_CMD_PDH_CERT_EXPORT,
    sev.SEV_CMD_GET_ID,
    sev.SEV_CMD_ATTESTATION_REPORT,
}


class SevHost(PspHost):
    """Issues plain SEV's commands; with `snp` after SNP_INIT, as Linux does."""

    def __init__(self, *, snp: bool = False, **psp: Any) -> None:
        super().__init__(**{"max_asid": ASIDS, "es_asids": ES_ASIDS, **psp})
        self.snp = snp
        self._commands = {False: self.page(), True: self.page()}

    def up(self, *, es: bool = True) -> SevHost:
        """SNP_INIT_EX where wanted, INIT, DF_FLUSH; SNP is flushed with the same command."""
        if self.snp:
            self.must(sev.SEV_CMD_SNP_INIT_EX, sev.sev_data_snp_init_ex(init_rmp=1))
            self.assign(self._commands[True])
        length = (2 if self.snp else 1) << 20
        tmr = self.huge_page()
        if self.snp:
            self.rmp.rmpupdate_range(tmr, length // PAGE_SIZE, assigned=True, immutable=True)
        flags = sev.SEV_INIT_FLAGS_SEV_ES if es else 0
        self.must(
            sev.SEV_CMD_INIT,
            sev.sev_data_init(flags=flags, tmr_address=tmr if es else 0, tmr_len=length),
        )
        self.psp.wbinvd()
        self.must(sev.SEV_CMD_DF_FLUSH)
        return self

    def ask(self, cmd: int, data: S) -> tuple[SevFwError, S]:
        """Issue a command: its status, and its buffer as the firmware left it."""
        at = self._commands[self.snp and cmd in WRITABLE]
        error = self.issue(cmd, data, at)
        return error, type(data).from_buffer_copy(self.memory.read(at, ctypes.sizeof(data)))

    def error(self, cmd: int, data: ctypes.Structure) -> SevFwError:
        return self.ask(cmd, data)[0]

    # -- memory ----------------------------------------------------------------------------

    def blank(self, npages: int = 1) -> int:
        """Consecutive pages that the firmware may write to, for as long as the test runs."""
        first = self.page()
        for _ in range(npages - 1):
            self.page()
        return self.lend(first, npages * PAGE_SIZE)

    def lend(self, pa: int, length: int = PAGE_SIZE) -> int:
        """rmp_mark_pages_firmware, under SNP."""
        for page in range(pa & -PAGE_SIZE, pa + length, PAGE_SIZE) if self.snp else ():
            if self.state(page) != PageState.FIRMWARE:
                self.assign(page)
        return pa

    def take_back(self, pa: int) -> None:
        """snp_reclaim_pages, for one page."""
        if self.snp:
            assert self.reclaim(pa) == SevFwError.SUCCESS
            assert self.rmp.rmpupdate(pa, assigned=False) == RmpCode.SUCCESS

    def put(self, content: bytes) -> int:
        """An input buffer of the host's."""
        pa = self.page()
        for _ in range(len(content) // PAGE_SIZE):
            self.page()
        self.memory.write(pa, content)
        return pa

    # -- guests ----------------------------------------------------------------------------

    def launch(self, policy: int = 0, **fields: Any) -> int:
        """LAUNCH_START; the handle."""
        data = sev.sev_data_launch_start(policy=policy, **fields)
        error, data = self.ask(sev.SEV_CMD_LAUNCH_START, data)
        assert error == SevFwError.SUCCESS
        return int(data.handle)

    def bind(self, handle: int, asid: int) -> SevFwError:
        return self.error(sev.SEV_CMD_ACTIVATE, sev.sev_data_activate(handle=handle, asid=asid))

    def unbind(self, handle: int) -> SevFwError:
        return self.error(sev.SEV_CMD_DEACTIVATE, sev.sev_data_deactivate(handle=handle))

    def forget(self, handle: int) -> SevFwError:
        return self.error(sev.SEV_CMD_DECOMMISSION, sev.sev_data_decommission(handle=handle))

    def launched(self, policy: int = 0, asid: int | None = None, **fields: Any) -> int:
        """A guest in GSTATE.LUPDATE with an ASID."""
        handle = self.launch(policy, **fields)
        if asid is None:
            asid = 1 if policy & ES else ES_ASIDS + 1
        assert self.bind(handle, asid) == SevFwError.SUCCESS
        return handle

    def update_data(self, handle: int, pa: int, length: int = PAGE_SIZE) -> SevFwError:
        data = sev.sev_data_launch_update_data(handle=handle, address=pa, len=length)
        return self.error(sev.SEV_CMD_LAUNCH_UPDATE_DATA, data)

    def update_vmsa(self, handle: int, pa: int, length: int = PAGE_SIZE) -> SevFwError:
        data = sev.sev_data_launch_update_vmsa(handle=handle, address=pa, len=length)
        return self.error(sev.SEV_CMD_LAUNCH_UPDATE_VMSA, data)

    def measure(self, handle: int, length: int = 256) -> tuple[SevFwError, int, bytes]:
        """Status, length as the firmware says it, content of the buffer."""
        pa = self.blank()
        data = sev.sev_data_launch_measure(handle=handle, address=pa, len=length)
        error, data = self.ask(sev.SEV_CMD_LAUNCH_MEASURE, data)
        return error, int(data.len), self.memory.read(pa, 48)

    def launch_finish(self, handle: int) -> SevFwError:
        return self.error(sev.SEV_CMD_LAUNCH_FINISH, sev.sev_data_launch_finish(handle=handle))

    def ready(self, policy: int = 0, asid: int | None = None, **fields: Any) -> int:
        """A guest in GSTATE.RUNNING."""
        handle = self.launched(policy, asid, **fields)
        assert self.measure(handle)[0] == SevFwError.SUCCESS
        assert self.launch_finish(handle) == SevFwError.SUCCESS
        return handle

    def guest(self, handle: int) -> sev.sev_data_guest_status:
        error, data = self.ask(
            sev.SEV_CMD_GUEST_STATUS, sev.sev_data_guest_status(handle=handle, state=0x77)
        )
        assert error == SevFwError.SUCCESS
        return data

    def platform(self) -> sev.sev_user_data_status:
        error, data = self.ask(sev.SEV_CMD_PLATFORM_STATUS, sev.sev_user_data_status())
        assert error == SevFwError.SUCCESS
        return data


@contextmanager
def sev_host(*, snp: bool = False, es: bool = True, **psp: Any) -> Iterator[SevHost]:
    """An initialised host for the length of a block."""
    host = SevHost(snp=snp, **psp)
    try:
        yield host.up(es=es)
    finally:
        host.memory.close()
