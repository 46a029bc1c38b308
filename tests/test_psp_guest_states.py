# SPDX-License-Identifier: GPL-2.0-only
"""The firmware model: guest contexts, ASIDs, page states."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from harness.emulator.memory import PAGE_SIZE, PAGE_SIZE_2M
from harness.emulator.psp.policy import PlatformFeatures
from harness.emulator.rmp import PageSize, PageState, RmpEntry
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from tests.psp_host import POLICY, PspHost, psp_host


@pytest.fixture
def host() -> Iterator[PspHost]:
    with psp_host(max_asid=8) as made:
        yield made


# -- contexts ------------------------------------------------------------------------------


def test_context_page_goes_from_firmware_to_context_and_back(host: PspHost) -> None:
    gctx = host.gctx()
    assert host.state(gctx) == PageState.CONTEXT
    assert any(host.memory.read(gctx, PAGE_SIZE))
    assert host.status().guest_count == 1
    assert host.reclaim(gctx) == SevFwError.INVALID_PAGE_STATE
    assert host.decommission(gctx) == SevFwError.SUCCESS
    assert host.state(gctx) == PageState.FIRMWARE
    assert not any(host.memory.read(gctx, PAGE_SIZE))
    assert host.reclaim(gctx) == SevFwError.SUCCESS
    assert host.state(gctx) == PageState.RECLAIM
    assert host.status().guest_count == 0


def test_gctx_create_wants_a_firmware_page(host: PspHost) -> None:
    def create(pa: int) -> SevFwError:
        return host.issue(sev.SEV_CMD_SNP_GCTX_CREATE, sev.sev_data_snp_addr(address=pa))

    assert create(host.page()) == SevFwError.INVALID_PAGE_STATE
    assert create(host.firmware_page() + 8) == SevFwError.INVALID_ADDRESS
    assert create(1 << 40) == SevFwError.INVALID_ADDRESS
    assert create(host.assign(host.huge_page(), huge=True)) == SevFwError.INVALID_PAGE_SIZE
    assert create(host.gctx()) == SevFwError.INVALID_PAGE_STATE


Call = Callable[[PspHost, int], SevFwError]
_CALLS: dict[str, Call] = {
    "start": lambda host, gctx: host.start(gctx),
    "activate": lambda host, gctx: host.activate(gctx, 5),
    "update": lambda host, gctx: host.update(gctx, host.assign(host.page(), 0, 1)),
    "finish": lambda host, gctx: host.finish(gctx),
    "request": lambda host, gctx: host.issue(
        sev.SEV_CMD_SNP_GUEST_REQUEST,
        sev.sev_data_snp_guest_request(gctx_paddr=gctx, req_paddr=host.page()),
    ),
}


@pytest.mark.parametrize("name", [*_CALLS, "decommission"])
def test_commands_want_a_context_page(host: PspHost, name: str) -> None:
    call: Call = _CALLS.get(name, lambda host, gctx: host.decommission(gctx))
    assert call(host, host.firmware_page()) == SevFwError.INVALID_PAGE_STATE
    assert call(host, host.page()) == SevFwError.INVALID_PAGE_STATE
    assert call(host, host.gctx() + 1) == SevFwError.INVALID_ADDRESS


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("start", {"init"}),
        ("activate", {"launch"}),
        ("update", {"launch"}),
        ("finish", {"launch"}),
        ("request", {"running"}),
    ],
)
@pytest.mark.parametrize("state", ["init", "launch", "running"])
def test_guest_state_matrix(host: PspHost, name: str, allowed: set[str], state: str) -> None:
    made = {"init": host.gctx, "launch": host.launching, "running": host.running}[state]()
    error = _CALLS[name](host, made)
    if state in allowed:
        assert error != SevFwError.INVALID_GUEST_STATE
    elif name == "activate" and state == "running":
        assert error == SevFwError.ACTIVE
    else:
        assert error == SevFwError.INVALID_GUEST_STATE


def test_guest_status_follows_the_guest(host: PspHost) -> None:
    def status() -> tuple[int, ...]:
        page = host.firmware_page()
        data = sev.sev_data_snp_guest_status(gctx_paddr=gctx, address=page)
        host.must(sev.SEV_CMD_SNP_GUEST_STATUS, data)
        return struct.unpack("<QIB", host.memory.read(page, 13))

    gctx = host.gctx()
    assert status() == (0, 0, 0)
    assert host.start(gctx) == SevFwError.SUCCESS
    assert status() == (POLICY, 0, 1)
    assert host.activate(gctx, 3) == SevFwError.SUCCESS
    assert host.finish(gctx) == SevFwError.SUCCESS
    assert status() == (POLICY, 3, 2)


# -- ASIDs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("asid", [0, 9, 0xFFFFFFFF])
def test_asid_out_of_range(host: PspHost, asid: int) -> None:
    gctx = host.gctx()
    host.start(gctx)
    assert host.activate(gctx, asid) == SevFwError.INVALID_ASID


def test_asid_belongs_to_one_guest_until_flushed(host: PspHost) -> None:
    first = host.launching(asid=4)
    assert host.activate(first, 5) == SevFwError.ACTIVE
    second = host.gctx()
    assert host.start(second) == SevFwError.SUCCESS
    assert host.activate(second, 4) == SevFwError.ASID_OWNED
    assert host.decommission(first) == SevFwError.SUCCESS
    assert host.activate(second, 4) == SevFwError.DFFLUSH_REQUIRED
    assert host.activate(second, 5) == SevFwError.SUCCESS
    host.must(sev.SEV_CMD_SNP_DF_FLUSH)
    third = host.gctx()
    assert host.start(third) == SevFwError.SUCCESS
    assert host.activate(third, 4) == SevFwError.SUCCESS


def test_asids_need_a_flush_after_init() -> None:
    host = PspHost()
    host.must(sev.SEV_CMD_SNP_INIT)
    gctx = host.gctx()
    assert host.start(gctx) == SevFwError.SUCCESS
    assert host.activate(gctx, 1) == SevFwError.DFFLUSH_REQUIRED
    host.memory.close()


def test_shutdown_waits_for_guests_and_flush(host: PspHost) -> None:
    gctx = host.launching()
    assert host.issue(sev.SEV_CMD_SNP_SHUTDOWN) == SevFwError.DFFLUSH_REQUIRED
    host.must(sev.SEV_CMD_SNP_DF_FLUSH)
    assert host.issue(sev.SEV_CMD_SNP_SHUTDOWN) == SevFwError.DFFLUSH_REQUIRED
    assert host.decommission(gctx) == SevFwError.SUCCESS
    assert host.issue(sev.SEV_CMD_SNP_SHUTDOWN) == SevFwError.DFFLUSH_REQUIRED
    host.must(sev.SEV_CMD_SNP_DF_FLUSH)
    host.must(sev.SEV_CMD_SNP_SHUTDOWN)


def test_update_and_finish_need_an_asid(host: PspHost) -> None:
    gctx = host.gctx()
    assert host.start(gctx) == SevFwError.SUCCESS
    assert host.update(gctx, host.assign(host.page(), 0, 1)) == SevFwError.INACTIVE
    assert host.finish(gctx) == SevFwError.INACTIVE


# -- policy --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (0x30000, SevFwError.SUCCESS),
        (0x30137, SevFwError.SUCCESS),
        (0x30138, SevFwError.POLICY_FAILURE),
        (0x30200, SevFwError.POLICY_FAILURE),
        (0x20000, SevFwError.POLICY_FAILURE),
        (0x10000, SevFwError.POLICY_FAILURE),
        (0x30000 | 1 << 18, SevFwError.SUCCESS),
        (0x30000 | 1 << 19, SevFwError.SUCCESS),
        (0x30000 | 1 << 20, SevFwError.SUCCESS),
        (0x30000 | 1 << 21, SevFwError.SUCCESS),
        (0x30000 | 1 << 22, SevFwError.POLICY_FAILURE),
        (0x30000 | 1 << 23, SevFwError.POLICY_FAILURE),
        (0x30000 | 1 << 24, SevFwError.POLICY_FAILURE),
        (0x30000 | 1 << 26, SevFwError.POLICY_FAILURE),
        (0x30000 | 1 << 63, SevFwError.POLICY_FAILURE),
    ],
)
def test_policy(host: PspHost, policy: int, error: SevFwError) -> None:
    gctx = host.gctx()
    assert host.start(gctx, policy) == error
    # A refused start leaves the context as it was.
    if error:
        assert host.start(gctx) == SevFwError.SUCCESS


def test_policy_of_other_platforms() -> None:
    with psp_host(features=PlatformFeatures(smt=False, cxl=True, sockets=2)) as host:
        assert host.start(host.gctx(), 0x20000) == SevFwError.POLICY_FAILURE
        assert host.start(host.gctx(), 0x20000 | 1 << 21) == SevFwError.SUCCESS
        assert host.start(host.gctx(), 0x20000 | 3 << 20) == SevFwError.POLICY_FAILURE


def test_migration_agent_must_run_and_be_allowed(host: PspHost) -> None:
    agent = host.running(asid=2)
    policy = POLICY | sev.SNP_POLICY_MASK_MIGRATE_MA

    def start(agent: int, policy: int = policy) -> SevFwError:
        return host.start(host.gctx(), policy, ma_en=1, ma_gctx_paddr=agent)

    assert start(agent) == SevFwError.SUCCESS
    assert start(agent, POLICY) == SevFwError.POLICY_FAILURE
    assert start(host.launching(asid=3)) == SevFwError.INVALID_GUEST
    migratable = host.launching(asid=4, policy=policy, ma_en=1, ma_gctx_paddr=agent)
    assert host.finish(migratable) == SevFwError.SUCCESS
    assert start(migratable) == SevFwError.INVALID_GUEST
    assert start(host.page()) == SevFwError.INVALID_PAGE_STATE


# -- pages ---------------------------------------------------------------------------------


def test_update_makes_the_page_the_guests(host: PspHost) -> None:
    gctx = host.launching()
    pa = host.assign(host.page(), 0x5000, 1)
    assert host.state(pa) == PageState.PRE_GUEST
    error = host.update(gctx, pa, vmpl1_perms=3, vmpl2_perms=5, vmpl3_perms=1)
    assert error == SevFwError.SUCCESS
    entry = host.rmp.entry(pa)
    expected = RmpEntry(True, PageSize.PG_4K, False, 0x5000, 1, False, True, (15, 3, 5, 1))
    assert entry == expected
    vmsa = host.assign(host.page(), 0xFFFFFFFFF000, 1)
    assert host.update(gctx, vmsa, sev.SNP_PAGE_TYPE_VMSA) == SevFwError.SUCCESS
    assert host.rmp.entry(vmsa).vmsa


def test_update_of_2m_and_its_sizes(host: PspHost) -> None:
    gctx = host.launching()
    pa = host.assign(host.huge_page(), PAGE_SIZE_2M, 1, huge=True)
    assert host.update(gctx, pa) == SevFwError.INVALID_PAGE_SIZE
    assert host.update(gctx, pa + PAGE_SIZE, page_size=1) == SevFwError.INVALID_ADDRESS
    for page_type in (sev.SNP_PAGE_TYPE_VMSA, sev.SNP_PAGE_TYPE_SECRET, sev.SNP_PAGE_TYPE_CPUID):
        assert host.update(gctx, pa, page_type, page_size=1) == SevFwError.INVALID_PAGE_SIZE
    assert host.update(gctx, pa, page_size=1) == SevFwError.SUCCESS
    assert host.state(pa + 5 * PAGE_SIZE) == PageState.GUEST_VALID
    small = host.assign(host.huge_page() + PAGE_SIZE_2M, PAGE_SIZE_2M, 1)
    assert host.update(gctx, small, page_size=1) == SevFwError.INVALID_PAGE_SIZE


def test_update_refuses_pages_in_other_states(host: PspHost) -> None:
    gctx = host.launching()
    other = host.page()
    host.rmp.rmpupdate(other, assigned=True, gpa=0, asid=1)
    states = {
        host.page(): SevFwError.INVALID_PAGE_STATE,
        host.firmware_page(): SevFwError.INVALID_PAGE_STATE,
        gctx: SevFwError.INVALID_PAGE_STATE,
        other: SevFwError.INVALID_PAGE_STATE,
        host.assign(host.page(), 0, 2): SevFwError.INVALID_PAGE_OWNER,
        1 << 40: SevFwError.INVALID_ADDRESS,
        0x12345: SevFwError.INVALID_ADDRESS,
    }
    for pa, error in states.items():
        assert host.update(gctx, pa) == error
    done = host.assign(host.page(), 0, 1)
    assert host.update(gctx, done) == SevFwError.SUCCESS
    assert host.update(gctx, done) == SevFwError.INVALID_PAGE_STATE


@pytest.mark.parametrize(
    "fields",
    [
        {"page_type": 0},
        {"page_type": 7},
        {"imi_page": 1},
        {"rsvd": 1},
        {"rsvd2": 1},
        {"rsvd3": 1},
        {"rsvd4": 1},
        {"vmpl1_perms": 0x10},
        {"vmpl3_perms": 0x80},
    ],
)
def test_update_refuses_parameters(host: PspHost, fields: dict[str, int]) -> None:
    gctx = host.launching()
    pa = host.assign(host.page(), 0, 1)
    assert host.update(gctx, pa, **fields) == SevFwError.INVALID_PARAM
    assert host.state(pa) == PageState.PRE_GUEST


def test_reclaim_gives_back_what_the_firmware_holds(host: PspHost) -> None:
    pre_guest = host.assign(host.page(), 0x7000, 3)
    assert host.reclaim(pre_guest) == SevFwError.SUCCESS
    assert host.state(pre_guest) == PageState.GUEST_INVALID
    assert host.rmp.entry(pre_guest).asid == 3
    metadata = host.page()
    host.rmp.write_entry(metadata, RmpEntry(True, immutable=True, gpa=0x1000))
    assert host.reclaim(metadata) == SevFwError.SUCCESS
    assert host.state(metadata) == PageState.RECLAIM
    swap = host.page()
    host.rmp.write_entry(swap, RmpEntry(True, immutable=True, asid=1, validated=True))
    assert host.reclaim(swap) == SevFwError.SUCCESS
    assert host.state(swap) == PageState.GUEST_VALID
    assert host.reclaim(host.page()) == SevFwError.INVALID_PAGE_STATE
    assert host.reclaim(metadata) == SevFwError.INVALID_PAGE_STATE
    assert host.reclaim(0x3002) == SevFwError.INVALID_ADDRESS


def test_reclaim_of_2m(host: PspHost) -> None:
    pa = host.assign(host.huge_page(), huge=True)
    assert host.reclaim(pa) == SevFwError.INVALID_PAGE_SIZE
    assert host.reclaim(pa + PAGE_SIZE | 1) == SevFwError.INVALID_ADDRESS
    assert host.reclaim(pa | 1) == SevFwError.SUCCESS
    assert host.state(pa + PAGE_SIZE) == PageState.RECLAIM


def test_unsmash_joins_512_like_pages(host: PspHost) -> None:
    pa = host.huge_page()
    host.rmp.rmpupdate_range(pa, 512, assigned=True, gpa=0, asid=1, immutable=True)
    data = sev.sev_data_snp_page_unsmash(paddr=pa | 1)
    host.assign(pa + 7 * PAGE_SIZE + PAGE_SIZE_2M)
    host.must(sev.SEV_CMD_SNP_PAGE_UNSMASH, data)
    assert host.rmp.entry(pa).size == PageSize.PG_2M
    assert host.issue(sev.SEV_CMD_SNP_PAGE_UNSMASH, data) == SevFwError.INVALID_PAGE_SIZE
    mixed = sev.sev_data_snp_page_unsmash(paddr=pa + PAGE_SIZE_2M)
    assert host.issue(sev.SEV_CMD_SNP_PAGE_UNSMASH, mixed) == SevFwError.INVALID_PAGE_STATE


def test_page_set_state_fixes_free_pages_only(host: PspHost) -> None:
    free, listing = host.page(), host.page()
    taken = host.assign(host.page(), 0, 1)

    def fix(pa: int, length: int = 16) -> SevFwError:
        host.memory.write(listing, struct.pack("<IIQII", 1, 0, pa, 1, 0))
        data = struct.pack("<IIQ", length, 0, listing)
        return host.issue(sev.SEV_CMD_SNP_PAGE_SET_STATE, data)

    assert fix(free, 15) == SevFwError.INVALID_LEN
    assert fix(free + 1) == SevFwError.INVALID_ADDRESS
    assert fix(taken) == SevFwError.INVALID_PAGE_STATE
    assert fix(free) == SevFwError.SUCCESS
    assert host.state(free) == PageState.HV_FIXED


def test_debugging_only_where_the_policy_allows_it(host: PspHost) -> None:
    def debug(cmd: int, gctx: int, source: int, target: int) -> SevFwError:
        data = sev.sev_data_snp_dbg(gctx_paddr=gctx, src_addr=source, dst_addr=target)
        return host.issue(cmd, data)

    decrypt, encrypt = sev.SEV_CMD_SNP_DBG_DECRYPT, sev.SEV_CMD_SNP_DBG_ENCRYPT
    out = host.firmware_page()
    closed = host.launching(asid=2)
    private = host.assign(host.page(), 0, 1)
    host.memory.write(private, b"secret")
    assert debug(decrypt, closed, private, out) == SevFwError.POLICY_FAILURE
    gctx = host.launching(asid=1, policy=POLICY | sev.SNP_POLICY_MASK_DEBUG)
    assert debug(decrypt, gctx, private, host.page()) == SevFwError.INVALID_PAGE_STATE
    assert debug(decrypt, gctx, host.page(), out) == SevFwError.INVALID_PAGE_STATE
    foreign = host.assign(host.page(), 0, 2)
    assert debug(decrypt, gctx, foreign, out) == SevFwError.INVALID_PAGE_OWNER
    assert debug(decrypt, gctx, private, out) == SevFwError.SUCCESS
    assert host.memory.read(out, 6) == b"secret"
    assert debug(encrypt, gctx, host.page(), private) == SevFwError.SUCCESS
    assert host.memory.read(private, 6) == bytes(6)
    assert debug(encrypt, gctx, host.page(), out) == SevFwError.INVALID_PAGE_STATE
