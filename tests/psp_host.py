# SPDX-License-Identifier: GPL-2.0-only
"""A host without a kernel: memory, RMP and PSP, and the commands as one-liners."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.emulator.memory import PAGE_SIZE, PAGE_SIZE_2M, PhysicalMemory
from harness.emulator.psp import Psp
from harness.emulator.rmp import PageSize, PageState, Rmp, RmpCode
from harness.uapi import sev
from harness.uapi.errors import SevFwError

SIZE = 64 << 20
TABLE = SIZE - (2 << 20)
POLICY = 0x30000
BUFFER = 0x1000


class PspHost:
    """Gives pages to the firmware and issues commands."""

    def __init__(self, **psp: Any) -> None:
        self.memory = PhysicalMemory(SIZE)
        self.rmp = Rmp(self.memory, TABLE, TABLE // PAGE_SIZE)
        self.psp = Psp(self.memory, self.rmp, **psp)
        self._next = 0x10000

    def page(self) -> int:
        """A page that nothing uses yet."""
        self._next += PAGE_SIZE
        return self._next - PAGE_SIZE

    def assign(self, pa: int, gpa: int = 0, asid: int = 0, *, huge: bool = False) -> int:
        """RMPUPDATE with Immutable: Firmware without an ASID, Pre-Guest with one."""
        size = PageSize.PG_2M if huge else PageSize.PG_4K
        code = self.rmp.rmpupdate(pa, assigned=True, gpa=gpa, asid=asid, size=size, immutable=True)
        assert code == RmpCode.SUCCESS
        return pa

    def firmware_page(self) -> int:
        return self.assign(self.page())

    def issue(self, cmd: int, data: ctypes.Structure | bytes = b"", at: int = BUFFER) -> SevFwError:
        """Issue a command whose buffer is written to memory first."""
        raw = bytes(data)
        self.memory.write(at, raw)
        return SevFwError(self.psp.command(cmd, at if raw else 0))

    def must(self, cmd: int, data: ctypes.Structure | bytes = b"") -> None:
        assert self.issue(cmd, data) == SevFwError.SUCCESS

    def init(self) -> PspHost:
        self.must(sev.SEV_CMD_SNP_INIT_EX, sev.sev_data_snp_init_ex(init_rmp=1))
        self.must(sev.SEV_CMD_SNP_DF_FLUSH)
        return self

    def gctx(self) -> int:
        pa = self.firmware_page()
        self.must(sev.SEV_CMD_SNP_GCTX_CREATE, sev.sev_data_snp_addr(address=pa))
        return pa

    def start(self, gctx: int, policy: int = POLICY, **fields: Any) -> SevFwError:
        data = sev.sev_data_snp_launch_start(gctx_paddr=gctx, policy=policy, **fields)
        return self.issue(sev.SEV_CMD_SNP_LAUNCH_START, data)

    def activate(self, gctx: int, asid: int) -> SevFwError:
        data = sev.sev_data_snp_activate(gctx_paddr=gctx, asid=asid)
        return self.issue(sev.SEV_CMD_SNP_ACTIVATE, data)

    def decommission(self, gctx: int) -> SevFwError:
        return self.issue(sev.SEV_CMD_SNP_DECOMMISSION, sev.sev_data_snp_addr(address=gctx))

    def launching(self, asid: int = 1, policy: int = POLICY, **fields: Any) -> int:
        """A guest in GSTATE_LAUNCH."""
        gctx = self.gctx()
        assert self.start(gctx, policy, **fields) == SevFwError.SUCCESS
        assert self.activate(gctx, asid) == SevFwError.SUCCESS
        return gctx

    def update(self, gctx: int, pa: int, page_type: int = 1, **fields: Any) -> SevFwError:
        data = sev.sev_data_snp_launch_update(
            gctx_paddr=gctx, address=pa, page_type=page_type, **fields
        )
        return self.issue(sev.SEV_CMD_SNP_LAUNCH_UPDATE, data)

    def finish(self, gctx: int, **fields: Any) -> SevFwError:
        data = sev.sev_data_snp_launch_finish(gctx_paddr=gctx, **fields)
        return self.issue(sev.SEV_CMD_SNP_LAUNCH_FINISH, data)

    def running(self, asid: int = 1, **finish: Any) -> int:
        """A guest in GSTATE_RUNNING, without any page."""
        gctx = self.launching(asid)
        assert self.finish(gctx, **finish) == SevFwError.SUCCESS
        return gctx

    def reclaim(self, pa: int) -> SevFwError:
        data = sev.sev_data_snp_page_reclaim(paddr=pa)
        return self.issue(sev.SEV_CMD_SNP_PAGE_RECLAIM, data)

    def state(self, pa: int) -> PageState:
        return self.rmp.state_of(pa)

    def status(self) -> sev.sev_user_data_snp_status:
        pa = self.page()
        if self.psp.platform.snp_initialized:
            self.assign(pa)
        self.must(sev.SEV_CMD_SNP_PLATFORM_STATUS, sev.sev_data_snp_addr(address=pa))
        return sev.sev_user_data_snp_status.from_bytes(self.memory.read(pa, 32))

    def huge_page(self) -> int:
        return 8 * PAGE_SIZE_2M


@contextmanager
def psp_host(**psp: Any) -> Iterator[PspHost]:
    """An initialised host for the length of a block."""
    host = PspHost(**psp)
    try:
        yield host.init()
    finally:
        host.memory.close()
