# SPDX-License-Identifier: GPL-2.0-only
"""The firmware model: platform states, configuration, legacy commands."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from harness.emulator.psp.endorsement import emulated_hashstick
from harness.emulator.psp.tcb import Tcb
from harness.emulator.rmp import PageState
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from tests.psp_host import BUFFER, TABLE, PspHost, psp_host


@pytest.fixture
def host() -> Iterator[PspHost]:
    with psp_host() as made:
        yield made


@pytest.fixture
def cold() -> Iterator[PspHost]:
    made = PspHost()
    yield made
    made.memory.close()


def test_init_once_and_shut_down(cold: PspHost) -> None:
    assert cold.status().state == 0
    cold.init()
    status = cold.status()
    assert (status.api_major, status.api_minor, status.state) == (1, 55, 1)
    assert status.is_rmp_initialized == 1
    assert cold.issue(sev.SEV_CMD_SNP_INIT) == SevFwError.INVALID_PLATFORM_STATE
    down = sev.sev_data_snp_shutdown_ex(len=8, iommu_snp_shutdown=1)
    assert cold.issue(sev.SEV_CMD_SNP_SHUTDOWN_EX, down) == SevFwError.SUCCESS
    assert cold.status().state == 0
    assert cold.issue(sev.SEV_CMD_SNP_SHUTDOWN_EX, down) == SevFwError.INVALID_PLATFORM_STATE


def test_init_without_rmp_needs_an_earlier_one(cold: PspHost) -> None:
    data = sev.sev_data_snp_init_ex(init_rmp=0)
    assert cold.issue(sev.SEV_CMD_SNP_INIT_EX, data) == SevFwError.RMP_INIT_REQUIRED
    cold.init()
    cold.must(sev.SEV_CMD_SNP_SHUTDOWN)
    cold.must(sev.SEV_CMD_SNP_INIT_EX, data)


def test_init_ex_fixes_the_listed_ranges(cold: PspHost) -> None:
    table = cold.page()
    cold.memory.write(table, struct.pack("<IIQIIQII", 2, 0, 0x800000, 2, 0, 1 << 40, 9, 0))
    data = sev.sev_data_snp_init_ex(init_rmp=1, list_paddr_en=1, list_paddr=table)
    cold.must(sev.SEV_CMD_SNP_INIT_EX, data)
    assert cold.state(0x801000) == PageState.HV_FIXED
    assert cold.state(0x802000) == PageState.HYPERVISOR


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"rsvd": 1}, SevFwError.INVALID_PARAM),
        ({"rsvd2": b"\1" * 48}, SevFwError.INVALID_PARAM),
        ({"list_paddr_en": 1, "list_paddr": 1 << 45}, SevFwError.INVALID_ADDRESS),
        ({"list_paddr_en": 1, "list_paddr": 0x2004}, SevFwError.INVALID_ADDRESS),
    ],
)
def test_init_ex_refuses(cold: PspHost, fields: dict[str, object], error: SevFwError) -> None:
    data = sev.sev_data_snp_init_ex(init_rmp=1, **fields)
    assert cold.issue(sev.SEV_CMD_SNP_INIT_EX, data) == error
    assert not cold.psp.platform.snp_initialized


@pytest.mark.parametrize(
    "cmd",
    [
        sev.SEV_CMD_SNP_GCTX_CREATE,
        sev.SEV_CMD_SNP_ACTIVATE,
        sev.SEV_CMD_SNP_DECOMMISSION,
        sev.SEV_CMD_SNP_GUEST_STATUS,
        sev.SEV_CMD_SNP_LAUNCH_START,
        sev.SEV_CMD_SNP_LAUNCH_UPDATE,
        sev.SEV_CMD_SNP_LAUNCH_FINISH,
        sev.SEV_CMD_SNP_GUEST_REQUEST,
        sev.SEV_CMD_SNP_PAGE_RECLAIM,
        sev.SEV_CMD_SNP_CONFIG,
        sev.SEV_CMD_SNP_DF_FLUSH,
    ],
)
def test_guest_commands_need_snp(cold: PspHost, cmd: int) -> None:
    assert cold.issue(cmd, bytes(128)) == SevFwError.INVALID_PLATFORM_STATE


def test_unknown_and_unsupported_commands(host: PspHost) -> None:
    assert host.issue(0x7FF, bytes(64)) == SevFwError.INVALID_COMMAND
    assert host.issue(sev.SEV_CMD_SNP_PAGE_MOVE, bytes(64)) == SevFwError.UNSUPPORTED


@pytest.mark.parametrize("paddr", [0, -4096, 1 << 45, (64 << 20) - 4])
def test_command_buffer_must_be_memory(host: PspHost, paddr: int) -> None:
    status = host.psp.command(sev.SEV_CMD_SNP_GCTX_CREATE, paddr)
    assert status == SevFwError.INVALID_ADDRESS


def test_cbit_in_addresses_is_ignored(host: PspHost) -> None:
    pa = host.firmware_page()
    data = sev.sev_data_snp_addr(address=pa | 1 << 51)
    host.must(sev.SEV_CMD_SNP_GCTX_CREATE, data)
    assert host.state(pa) == PageState.CONTEXT


def test_status_page_must_be_the_firmwares(host: PspHost) -> None:
    data = sev.sev_data_snp_addr(address=host.page())
    error = host.issue(sev.SEV_CMD_SNP_PLATFORM_STATUS, data)
    assert error == SevFwError.INVALID_PAGE_STATE


def test_output_never_goes_into_the_rmp(cold: PspHost) -> None:
    data = sev.sev_data_snp_addr(address=TABLE + 0x5000)
    error = cold.issue(sev.SEV_CMD_SNP_PLATFORM_STATUS, data)
    assert error == SevFwError.INVALID_ADDRESS


def test_config_sets_what_reports_say(host: PspHost) -> None:
    old = Tcb(boot_loader=1, snp=3, microcode=7)
    data = sev.sev_user_data_snp_config(reported_tcb=old.value, mask_chip_id=1, mask_chip_key=1)
    host.must(sev.SEV_CMD_SNP_CONFIG, data)
    status = host.status()
    assert status.reported_tcb_version == old.value != status.current_tcb_version
    assert (status.mask_chip_id, status.mask_chip_key) == (1, 1)
    host.must(sev.SEV_CMD_SNP_CONFIG, sev.sev_user_data_snp_config())
    status = host.status()
    assert status.reported_tcb_version == status.current_tcb_version


@pytest.mark.parametrize(
    "fields",
    [
        {"reported_tcb": Tcb(boot_loader=255).value},
        {"reported_tcb": 1 << 20},
        {"rsvd": 1},
        {"rsvd1": b"\1" * 52},
    ],
)
def test_config_refuses(host: PspHost, fields: dict[str, object]) -> None:
    data = sev.sev_user_data_snp_config(**fields)
    assert host.issue(sev.SEV_CMD_SNP_CONFIG, data) == SevFwError.INVALID_PARAM


def test_commit_checks_its_length(host: PspHost) -> None:
    commit = sev.sev_data_snp_commit
    assert host.issue(sev.SEV_CMD_SNP_COMMIT, commit(len=3)) == SevFwError.INVALID_LEN
    assert host.issue(sev.SEV_CMD_SNP_COMMIT, commit(len=4)) == SevFwError.SUCCESS


def load_vlek(host: PspHost, blob: bytes, **fields: object) -> SevFwError:
    pa = host.page()
    host.memory.write(pa, blob)
    data = sev.sev_user_data_snp_vlek_load(**{"len": 16, "vlek_wrapped_address": pa, **fields})
    return host.issue(sev.SEV_CMD_SNP_VLEK_LOAD, data)


def test_vlek_load_takes_only_what_was_wrapped_for_this_chip(host: PspHost) -> None:
    blob = emulated_hashstick(0, host.psp.platform.tcb)
    assert load_vlek(host, emulated_hashstick(1, Tcb(1))) == SevFwError.BAD_MEASUREMENT
    for at in (0, 0x10, 0x18F, 0x190, 0x1A0):
        bad = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        assert load_vlek(host, bad) == SevFwError.BAD_MEASUREMENT
    assert load_vlek(host, blob, len=15) == SevFwError.INVALID_LEN
    assert load_vlek(host, blob, vlek_wrapped_version=1) == SevFwError.INVALID_PARAM
    assert host.status().vlek_en == 0
    assert load_vlek(host, blob) == SevFwError.SUCCESS
    assert host.status().vlek_en == 1


# -- legacy SEV ----------------------------------------------------------------------------


def legacy_status(host: PspHost, at: int) -> sev.sev_user_data_status:
    assert host.issue(sev.SEV_CMD_PLATFORM_STATUS, bytes(12), at) == SevFwError.SUCCESS
    return sev.sev_user_data_status.from_bytes(host.memory.read(at, 12))


def test_legacy_init_and_status(cold: PspHost) -> None:
    assert legacy_status(cold, BUFFER).state == sev.SEV_STATE_UNINIT
    assert cold.issue(sev.SEV_CMD_DF_FLUSH) == SevFwError.INVALID_PLATFORM_STATE
    tmr = 1 << 20
    data = sev.sev_data_init(flags=sev.SEV_INIT_FLAGS_SEV_ES, tmr_address=tmr, tmr_len=1 << 20)
    cold.must(sev.SEV_CMD_INIT, data)
    cold.must(sev.SEV_CMD_DF_FLUSH)
    status = legacy_status(cold, BUFFER)
    assert (status.api_major, status.api_minor) == (1, 55)
    assert (status.state, status.flags) == (sev.SEV_STATE_INIT, sev.SEV_STATUS_FLAGS_CONFIG_ES)
    assert cold.issue(sev.SEV_CMD_INIT, data) == SevFwError.INVALID_PLATFORM_STATE
    assert cold.issue(sev.SEV_CMD_SNP_INIT) == SevFwError.INVALID_PLATFORM_STATE
    assert cold.issue(sev.SEV_CMD_FACTORY_RESET) == SevFwError.INVALID_PLATFORM_STATE
    cold.must(sev.SEV_CMD_SHUTDOWN)
    cold.must(sev.SEV_CMD_FACTORY_RESET)


def test_legacy_buffers_are_firmware_pages_under_snp(host: PspHost) -> None:
    error = host.issue(sev.SEV_CMD_PLATFORM_STATUS, bytes(12))
    assert error == SevFwError.INVALID_PAGE_STATE
    assert legacy_status(host, host.firmware_page()).state == sev.SEV_STATE_UNINIT


def test_legacy_init_under_snp_wants_a_larger_firmware_tmr(host: PspHost) -> None:
    tmr = host.huge_page()
    flags = sev.SEV_INIT_FLAGS_SEV_ES

    def init(length: int) -> SevFwError:
        data = sev.sev_data_init(flags=flags, tmr_address=tmr, tmr_len=length)
        return host.issue(sev.SEV_CMD_INIT, data)

    assert init(1 << 20) == SevFwError.INVALID_LEN
    assert init(2 << 20) == SevFwError.INVALID_PAGE_STATE
    host.rmp.rmpupdate_range(tmr, 512, assigned=True, immutable=True)
    assert init(2 << 20) == SevFwError.SUCCESS


def test_get_id_says_how_long_it_is(host: PspHost) -> None:
    buffer = host.firmware_page()
    short = host.issue(sev.SEV_CMD_GET_ID, struct.pack("<QI", 0, 0), buffer)
    assert short == SevFwError.INVALID_LEN
    assert host.memory.read_u32(buffer + 8) == 64
    target = host.firmware_page()
    data = struct.pack("<QI", target, 64)
    assert host.issue(sev.SEV_CMD_GET_ID, data, buffer) == SevFwError.SUCCESS
    assert host.memory.read(target, 64) == host.psp.platform.chip_id
