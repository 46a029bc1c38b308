# SPDX-License-Identifier: GPL-2.0-only
"""The firmware model against random commands: it never raises and never takes a page."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.rmp import PageState
from harness.emulator.rmp_entry import ASSIGNED
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from harness.uapi.layout import Struct, u64
from tests.psp_host import SIZE, TABLE, PspHost

COMMANDS = [number for name, number in vars(sev).items() if name.startswith("SEV_CMD_")]
PAGES = 24
FIRST = 0x200000
"""Pages that the host hands out in various states, where addresses often point."""

STATUSES = {int(status) for status in SevFwError}

addresses = st.one_of(
    st.integers(0, PAGES - 1).map(lambda n: FIRST + n * PAGE_SIZE),
    st.integers(0, PAGES - 1).map(lambda n: FIRST + n * PAGE_SIZE | 1),
    st.sampled_from([0, SIZE, SIZE - PAGE_SIZE, TABLE, TABLE + 0x4000, 1 << 51, 1 << 63, 0x400000]),
    st.integers(0, (1 << 64) - 1),
)
words = st.one_of(addresses, st.integers(0, 64), st.just(0x30000), st.integers(0, (1 << 64) - 1))
buffers = st.one_of(
    st.lists(words, max_size=8).map(lambda found: struct.pack(f"<{len(found)}Q", *found)),
    st.binary(max_size=128),
)
wild = st.tuples(
    st.sampled_from(COMMANDS) | st.integers(0, 0x200),
    st.one_of(st.just(0x1000), addresses),
    buffers,
)

SHAPES: dict[int, type[Struct]] = {
    sev.SEV_CMD_SNP_GCTX_CREATE: sev.sev_data_snp_addr,
    sev.SEV_CMD_SNP_DECOMMISSION: sev.sev_data_snp_addr,
    sev.SEV_CMD_SNP_PLATFORM_STATUS: sev.sev_data_snp_addr,
    sev.SEV_CMD_SNP_ACTIVATE: sev.sev_data_snp_activate,
    sev.SEV_CMD_SNP_GUEST_STATUS: sev.sev_data_snp_guest_status,
    sev.SEV_CMD_SNP_LAUNCH_START: sev.sev_data_snp_launch_start,
    sev.SEV_CMD_SNP_LAUNCH_UPDATE: sev.sev_data_snp_launch_update,
    sev.SEV_CMD_SNP_LAUNCH_FINISH: sev.sev_data_snp_launch_finish,
    sev.SEV_CMD_SNP_GUEST_REQUEST: sev.sev_data_snp_guest_request,
    sev.SEV_CMD_SNP_DBG_DECRYPT: sev.sev_data_snp_dbg,
    sev.SEV_CMD_SNP_DBG_ENCRYPT: sev.sev_data_snp_dbg,
    sev.SEV_CMD_SNP_PAGE_RECLAIM: sev.sev_data_snp_page_reclaim,
    sev.SEV_CMD_SNP_PAGE_UNSMASH: sev.sev_data_snp_page_unsmash,
}
_PICKED = {
    "gctx_paddr": st.integers(0, 2).map(lambda n: FIRST + n * PAGE_SIZE) | addresses,
    "policy": st.sampled_from([0x30000, 0xB0000, 0]),
    "asid": st.integers(0, 4),
    "page_size": st.sampled_from([0, 0, 0, 1]),
    "page_type": st.integers(0, 7),
}


@st.composite
def plausible(draw: st.DrawFn) -> tuple[int, int, bytes]:
    """A command whose buffer has the right layout and mostly sensible fields."""
    cmd = draw(st.sampled_from(sorted(SHAPES)))
    data = SHAPES[cmd]()
    for name, kind, *_ in data._fields_:
        if name in _PICKED:
            setattr(data, name, draw(_PICKED[name]))
        elif kind is u64 and not name.startswith("rsvd"):
            setattr(data, name, draw(addresses))
    return cmd, 0x1000, bytes(data)


commands = st.one_of(plausible(), plausible(), plausible(), wild)


def prepare(host: PspHost) -> None:
    """A guest in each state, and pages of every kind."""
    gctx = [FIRST, FIRST + PAGE_SIZE, FIRST + 2 * PAGE_SIZE]
    for number, pa in enumerate(gctx):
        host.assign(pa)
        host.must(sev.SEV_CMD_SNP_GCTX_CREATE, sev.sev_data_snp_addr(address=pa))
        if number:
            host.start(pa, 0x30000 | 1 << 19)
            host.activate(pa, number)
    host.finish(gctx[2])
    for number in range(3, 8):
        host.assign(FIRST + number * PAGE_SIZE)
    for number in range(8, 16):
        host.assign(FIRST + number * PAGE_SIZE, number << 12, 1 + number % 2)


@given(st.lists(commands, min_size=4, max_size=16), st.sampled_from([True, True, False]))
@settings(max_examples=300, deadline=None)
def test_random_commands(run: list[tuple[int, int, bytes]], initialised: bool) -> None:
    host = PspHost()
    try:
        if initialised:
            prepare(host.init())
        for cmd, paddr, buffer in run:
            host.memory.write(0x1000, buffer.ljust(128, b"\0"))
            before = host.rmp.lo.copy()
            private = [
                (pa, host.memory.read(pa, PAGE_SIZE))
                for pa in range(FIRST, FIRST + PAGES * PAGE_SIZE, PAGE_SIZE)
                if host.state(pa) in (PageState.GUEST_VALID, PageState.GUEST_INVALID)
            ]
            status = host.psp.command(cmd, paddr)
            assert status in STATUSES
            after = host.rmp.lo
            if cmd in (sev.SEV_CMD_SNP_INIT, sev.SEV_CMD_SNP_INIT_EX):
                assert not (after & ASSIGNED).any() or (before == after).all()
                continue
            assert ((before & ASSIGNED) == (after & ASSIGNED)).all()
            if status:
                assert (before == after).all()
            for pa, content in private:
                assert host.memory.read(pa, PAGE_SIZE) == content
    finally:
        host.memory.close()


@given(st.binary(max_size=PAGE_SIZE))
@settings(max_examples=60, deadline=None)
def test_random_messages_id_blocks_and_cpuid_pages(content: bytes) -> None:
    host = PspHost().init()
    try:
        source = host.page()
        host.memory.write(source, content)
        launching, running = host.launching(asid=1), host.running(asid=2)
        data = sev.sev_data_snp_guest_request(
            gctx_paddr=running, req_paddr=source, res_paddr=host.firmware_page()
        )
        assert host.issue(sev.SEV_CMD_SNP_GUEST_REQUEST, data) in (
            SevFwError.INVALID_PARAM,
            SevFwError.BAD_MEASUREMENT,
        )
        error = host.finish(
            launching, id_block_en=1, auth_key_en=1, id_block_paddr=source, id_auth_paddr=source
        )
        assert error in (SevFwError.INVALID_PARAM, SevFwError.BAD_SIGNATURE)
        host.assign(source, 0, 1)
        first = host.update(launching, source, sev.SNP_PAGE_TYPE_CPUID)
        assert first in (SevFwError.SUCCESS, SevFwError.INVALID_PARAM)
        if first:
            again = host.update(launching, source, sev.SNP_PAGE_TYPE_CPUID)
            assert again == SevFwError.SUCCESS
    finally:
        host.memory.close()
