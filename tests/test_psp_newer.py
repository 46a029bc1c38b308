# SPDX-License-Identifier: GPL-2.0-only
"""The firmware model: what kernels newer than 6.12 ask for, and how older ABIs refuse it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.psp.policy import PlatformFeatures
from harness.emulator.rmp import PageState
from harness.uapi import psp_newer as newer
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from tests.psp_host import POLICY, PspHost
from tests.psp_sev_host import ES, ES_ASIDS, SevHost

ALL = PlatformFeatures(
    can_disable_rapl=True, can_hide_ciphertext=True, x86_shutdown=True, mitigations=0b101
)
RAPL_DIS, CIPHERTEXT_HIDING = 1 << 23, 1 << 24


@pytest.fixture
def cold() -> Iterator[SevHost]:
    made = SevHost(features=ALL)
    yield made
    made.memory.close()


@pytest.fixture
def older() -> Iterator[PspHost]:
    """Firmware that has none of the newer features."""
    made = PspHost(features=PlatformFeatures(feature_info=False))
    yield made
    made.memory.close()


def status(host: PspHost) -> newer.sev_user_data_snp_status:
    pa = host.page()
    if host.psp.platform.snp_initialized:
        host.assign(pa)
    host.must(sev.SEV_CMD_SNP_PLATFORM_STATUS, sev.sev_data_snp_addr(address=pa))
    return newer.sev_user_data_snp_status.from_bytes(host.memory.read(pa, 32))


def features(host: PspHost, at: int | None = None, **fields: int) -> tuple[SevFwError, bytes]:
    target = host.page() if at is None else at
    data = newer.sev_data_snp_feature_info(**{"length": 16, "feature_info_paddr": target, **fields})
    error = host.issue(newer.SEV_CMD_SNP_FEATURE_INFO, data)
    return error, host.memory.read(target, 16) if at is None else b""


def init(host: PspHost, **fields: int) -> SevFwError:
    data = newer.sev_data_snp_init_ex(init_rmp=1, **fields)
    return host.issue(sev.SEV_CMD_SNP_INIT_EX, data)


@pytest.mark.parametrize(
    ("newest", "known"),
    [
        (newer.sev_data_snp_init_ex, sev.sev_data_snp_init_ex),
        (newer.sev_data_snp_shutdown_ex, sev.sev_data_snp_shutdown_ex),
        (newer.sev_user_data_snp_status, sev.sev_user_data_snp_status),
    ],
)
def test_newer_fields_lie_where_older_kernels_reserve(
    newest: type[ctypes.Structure], known: type[ctypes.Structure]
) -> None:
    assert ctypes.sizeof(newest) == ctypes.sizeof(known)


# -- SNP_FEATURE_INFO ----------------------------------------------------------------------


def test_feature_info_is_announced_and_answers(cold: SevHost) -> None:
    """Linux 7 asks before SNP_INIT: VLEK, X86 shutdown, RAPL, ciphertext, mitigations."""
    assert status(cold).feature_info == 1
    error, raw = features(cold)
    assert error == SevFwError.SUCCESS
    answer = newer.snp_feature_info.from_bytes(raw)
    assert (answer.eax, answer.ebx, answer.edx) == (0, 1, 0)
    assert answer.ecx == 0b1111 | 1 << 13


def test_feature_info_tells_only_of_what_there_is() -> None:
    host = PspHost()
    try:
        assert newer.snp_feature_info.from_bytes(features(host)[1]).ecx == 1
    finally:
        host.memory.close()


def test_feature_info_is_refused(cold: SevHost) -> None:
    assert features(cold, length=15)[0] == SevFwError.INVALID_PARAM
    assert features(cold, ecx_in=1)[0] == SevFwError.INVALID_PARAM
    assert features(cold, 0x20002)[0] == SevFwError.INVALID_ADDRESS
    assert features(cold, 0x20000 + PAGE_SIZE - 12)[0] == SevFwError.INVALID_ADDRESS
    assert features(cold, 0x20000 + PAGE_SIZE - 16)[0] == SevFwError.SUCCESS
    cold.init()
    assert features(cold)[0] == SevFwError.INVALID_PAGE_STATE
    assert features(cold, cold.firmware_page())[0] == SevFwError.SUCCESS


def test_older_firmware_has_no_feature_info(older: PspHost) -> None:
    assert status(older).feature_info == 0
    assert features(older)[0] == SevFwError.UNSUPPORTED


def test_linux_7_still_offers_sev_es(cold: SevHost) -> None:
    """sev_firmware_allows_es() of drivers/crypto/ccp/sev-dev.c: SVN of the SNP firmware < 0x1b."""
    assert status(cold).current_tcb_version >> 48 & 0xFF < 0x1B


# -- SNP_INIT_EX ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"rapl_dis": 1}, {"ciphertext_hiding_en": 1, "max_snp_asid": 1}, {"max_snp_asid": 1}],
)
def test_older_firmware_takes_newer_fields_for_reserved(
    older: PspHost, fields: dict[str, int]
) -> None:
    assert init(older, **fields) == SevFwError.INVALID_PARAM
    assert init(older) == SevFwError.SUCCESS


@pytest.mark.parametrize(
    "fields",
    [
        {"tio_en": 1},
        {"max_snp_asid": 1},
        {"ciphertext_hiding_en": 1},
        {"ciphertext_hiding_en": 1, "max_snp_asid": ES_ASIDS + 1},
        {"rsvd": 1},
    ],
)
def test_init_ex_refuses(cold: SevHost, fields: dict[str, int]) -> None:
    assert init(cold, **fields) == SevFwError.INVALID_PARAM
    assert not cold.psp.platform.snp_initialized
    assert status(cold).ciphertext_hiding_en == 0


def test_ciphertext_hiding_splits_the_asids(cold: SevHost) -> None:
    """SNP guests get those up to MAX_SNP_ASID, SEV-ES guests the rest below CPUID's EDX."""
    assert init(cold, ciphertext_hiding_en=1, max_snp_asid=2) == SevFwError.SUCCESS
    cold.must(sev.SEV_CMD_SNP_DF_FLUSH)
    found = status(cold)
    assert (found.ciphertext_hiding_cap, found.ciphertext_hiding_en) == (1, 1)
    guests = cold.psp.sev_guests
    assert cold.psp.asids.snp_limit == 2
    gctx = cold.gctx()
    assert cold.start(gctx, POLICY | CIPHERTEXT_HIDING) == SevFwError.SUCCESS
    assert cold.activate(gctx, 3) == SevFwError.INVALID_ASID
    assert cold.activate(gctx, 2) == SevFwError.SUCCESS
    tmr = cold.huge_page()
    cold.rmp.rmpupdate_range(tmr, 512, assigned=True, immutable=True)
    data = sev.sev_data_init(flags=1, tmr_address=tmr, tmr_len=2 << 20)
    cold.must(sev.SEV_CMD_INIT, data)
    cold.must(sev.SEV_CMD_DF_FLUSH)
    cold.snp = True
    cold.assign(cold._commands[True])
    es = cold.launch(ES)
    assert cold.bind(es, 1) == SevFwError.INVALID_ASID
    assert cold.bind(es, ES_ASIDS) == SevFwError.SUCCESS
    plain = cold.launch()
    assert cold.bind(plain, ES_ASIDS) == SevFwError.INVALID_ASID
    assert cold.bind(plain, ES_ASIDS + 1) == SevFwError.SUCCESS
    assert len(guests) == 2


def test_policies_follow_what_init_ex_set(cold: SevHost) -> None:
    assert init(cold) == SevFwError.SUCCESS
    for bit in (RAPL_DIS, CIPHERTEXT_HIDING):
        assert cold.start(cold.gctx(), POLICY | bit) == SevFwError.POLICY_FAILURE
    cold.must(sev.SEV_CMD_SNP_DF_FLUSH)
    cold.must(sev.SEV_CMD_SNP_SHUTDOWN)
    assert init(cold, rapl_dis=1) == SevFwError.SUCCESS
    found = status(cold)
    assert (found.rapl_dis, found.ciphertext_hiding_en) == (1, 0)
    assert cold.start(cold.gctx(), POLICY | RAPL_DIS) == SevFwError.SUCCESS


# -- SNP_SHUTDOWN_EX -----------------------------------------------------------------------


def test_x86_shutdown_ends_the_rmp(cold: SevHost) -> None:
    """No page has a state any more, and SNP cannot come back without a new RMP."""
    cold.init()
    page = cold.firmware_page()
    down = newer.sev_data_snp_shutdown_ex(len=8, iommu_snp_shutdown=1, x86_snp_shutdown=1)
    cold.must(sev.SEV_CMD_SNP_SHUTDOWN_EX, down)
    assert cold.state(page) == PageState.HYPERVISOR
    assert status(cold).is_rmp_initialized == 0
    again = newer.sev_data_snp_init_ex(init_rmp=0)
    error = cold.issue(sev.SEV_CMD_SNP_INIT_EX, again)
    assert error == SevFwError.RMP_INIT_REQUIRED
    assert init(cold) == SevFwError.SUCCESS


def test_x86_shutdown_where_the_machine_cannot(older: PspHost) -> None:
    older.init()
    down = newer.sev_data_snp_shutdown_ex(len=8, iommu_snp_shutdown=1, x86_snp_shutdown=1)
    assert older.issue(sev.SEV_CMD_SNP_SHUTDOWN_EX, down) == SevFwError.INVALID_PARAM
    assert status(older).state == 1


# -- SNP_VERIFY_MITIGATION -----------------------------------------------------------------


def mitigate(host: PspHost, subcommand: int, vector: int = 0, **fields: int) -> SevFwError:
    data = newer.sev_data_snp_verify_mitigation(
        **{"length": 64, "subcommand": subcommand, "vector": vector, **fields}
    )
    return host.issue(newer.SEV_CMD_SNP_VERIFY_MITIGATION, data)


def test_mitigations_are_verified_one_by_one(cold: SevHost) -> None:
    cold.init()
    target = cold.firmware_page()
    there = {"dst_paddr_en": 1, "dst_paddr": target}

    def seen() -> tuple[int, int, int]:
        raw = cold.memory.read(target, 20)
        found = newer.sev_data_snp_verify_mitigation_dst.from_bytes(raw)
        return found.mit_verified_vector, found.mit_supported_vector, found.mit_failure_status

    assert mitigate(cold, newer.SNP_MIT_SUBCMD_REQ_STATUS, **there) == SevFwError.SUCCESS
    assert seen() == (0, 0b101, 0)
    assert mitigate(cold, newer.SNP_MIT_SUBCMD_REQ_VERIFY, 0b100, **there) == SevFwError.SUCCESS
    assert seen() == (0b100, 0b101, 0)
    for vector in (0, 0b101, 0b10):
        error = mitigate(cold, newer.SNP_MIT_SUBCMD_REQ_VERIFY, vector, **there)
        assert error == SevFwError.INVALID_PARAM


def test_verify_mitigation_is_refused(cold: SevHost) -> None:
    cold.init()
    refused: list[tuple[int, dict[str, int], SevFwError]] = [
        (0, {"length": 63}, SevFwError.INVALID_PARAM),
        (2, {}, SevFwError.INVALID_PARAM),
        (0, {"rsvd": 1}, SevFwError.INVALID_PARAM),
        (0, {"dst_paddr_en": 1, "dst_paddr": cold.page()}, SevFwError.INVALID_PAGE_STATE),
    ]
    for subcommand, fields, error in refused:
        assert mitigate(cold, subcommand, **fields) == error
    page = cold.page()
    wrong = {"dst_paddr_en": 1, "dst_paddr": page}
    assert mitigate(cold, 1, 1, **wrong) == SevFwError.INVALID_PAGE_STATE
    assert cold.psp.platform.verified_mitigations == 0


def test_older_firmware_verifies_nothing(older: PspHost) -> None:
    older.init()
    assert mitigate(older, 0) == SevFwError.UNSUPPORTED


# -- refused as a whole --------------------------------------------------------------------


@pytest.mark.parametrize(
    "cmd",
    [
        sev.SEV_CMD_DOWNLOAD_FIRMWARE,
        sev.SEV_CMD_SNP_DOWNLOAD_FIRMWARE_EX,
        sev.SEV_CMD_SNP_ACTIVATE_EX,
        newer.SEV_CMD_ACTIVATE_EX,
    ],
)
def test_unsupported(cold: SevHost, cmd: int) -> None:
    """No kernel needs them: a refused download leaves it with the firmware there is."""
    assert cold.issue(cmd, bytes(64)) == SevFwError.UNSUPPORTED
