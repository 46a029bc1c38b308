# SPDX-License-Identifier: GPL-2.0-only
"""The firmware model: launch of plain SEV and SEV-ES guests, handles, states, ASIDs."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.emulator.memory import PAGE_SIZE
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from tests.psp_host import SIZE, TABLE
from tests.psp_sev_host import ASIDS, ES, ES_ASIDS, SevHost, sev_host

PLAIN = ES_ASIDS + 1
LUPDATE, LSECRET, RUNNING = 1, 2, 3
NODBG, NOKS = 1, 2


@pytest.fixture(params=[False, True], ids=["sev", "snp"])
def host(request: pytest.FixtureRequest) -> Iterator[SevHost]:
    with sev_host(snp=request.param) as made:
        yield made


@pytest.fixture
def alone() -> Iterator[SevHost]:
    with sev_host() as made:
        yield made


# -- a whole launch ------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [0, ES], ids=["SEV", "SEV-ES"])
def test_whole_launch_is_measured(host: SevHost, policy: int) -> None:
    """HMAC over 04h, API, build, policy, SHA-256 of what was launched, nonce (55766, 6.5.1)."""
    asid = 1 if policy else PLAIN
    first, second, vmsa = b"first" * 1000, b"second" * 8, b"vmsa" * 1024
    handle = host.launched(policy, asid)
    assert host.guest(handle).state == LUPDATE
    big, small = host.blank(2), host.blank()
    host.memory.write(big, first)
    host.memory.write(small, second)
    assert host.update_data(handle, big, 4992) == SevFwError.SUCCESS
    assert host.update_data(handle, small, 48) == SevFwError.SUCCESS
    measured = first[:4992].ljust(4992, b"\0") + second
    if policy:
        page = host.blank()
        host.memory.write(page, vmsa)
        assert host.update_vmsa(handle, page) == SevFwError.SUCCESS
        assert host.memory.read(page, PAGE_SIZE) == vmsa
        measured += vmsa
    assert host.memory.read(big, 4992) == first[:4992]

    error, length, output = host.measure(handle)
    assert (error, length) == (SevFwError.SUCCESS, 48)
    digest, nonce = hashlib.sha256(measured).digest(), output[32:]
    message = bytes((4, 1, 55, 40)) + policy.to_bytes(4, "little") + digest + nonce
    assert output[:32] == hmac.new(bytes(16), message, "sha256").digest()
    assert any(nonce)

    assert host.guest(handle).state == LSECRET
    assert host.launch_finish(handle) == SevFwError.SUCCESS
    status = host.guest(handle)
    assert (status.state, status.policy, status.asid) == (RUNNING, policy, asid)
    assert host.unbind(handle) == SevFwError.SUCCESS
    assert host.forget(handle) == SevFwError.SUCCESS


def test_each_measurement_has_its_own_nonce(host: SevHost) -> None:
    outputs = [host.measure(host.launched(0, PLAIN + n))[2] for n in range(2)]
    assert outputs[0][32:] != outputs[1][32:]


def test_long_ranges_are_measured_and_copied_whole(alone: SevHost) -> None:
    """Longer than what the model reads in one go, and not a multiple of it."""
    length = (2 << 20) + 48
    content = bytes(range(251)) * (length // 251 + 1)
    source, target = 8 << 20, 16 << 20
    alone.memory.write(source, content[:length])
    handle = alone.launched()
    assert alone.update_data(handle, source, length) == SevFwError.SUCCESS
    copied = debug(
        alone, handle, sev.SEV_CMD_DBG_DECRYPT, src_addr=source, dst_addr=target, len=length
    )
    assert copied == SevFwError.SUCCESS
    assert alone.memory.read(target, length + 1) == content[:length] + b"\0"
    alone.measure(handle)
    guest = alone.psp.sev_guests.get(handle)
    assert guest is not None
    assert guest.launch_digest == hashlib.sha256(content[:length]).digest()


def test_order_is_measured(alone: SevHost) -> None:
    page = {name: alone.put(name.encode() * PAGE_SIZE) for name in "ab"}
    for asid, order in ((PLAIN, "ab"), (PLAIN + 1, "ba")):
        handle = alone.launched(0, asid)
        for name in order:
            assert alone.update_data(handle, page[name]) == SevFwError.SUCCESS
        alone.measure(handle)
        content = "".join(name * PAGE_SIZE for name in order).encode()
        guest = alone.psp.sev_guests.get(handle)
        assert guest is not None
        assert guest.launch_digest == hashlib.sha256(content).digest()


@pytest.mark.parametrize("length", [0, 1, 47])
def test_short_measurement_buffer_is_told_the_length(host: SevHost, length: int) -> None:
    handle = host.launched()
    assert host.measure(handle, length)[:2] == (SevFwError.INVALID_LEN, 48)
    assert host.guest(handle).state == LUPDATE
    assert host.measure(handle, 48)[:2] == (SevFwError.SUCCESS, 48)


def test_guest_memory_is_the_firmwares_during_updates_under_snp() -> None:
    """The driver lends it: a page of the hypervisor's is refused, and nothing is measured."""
    with sev_host(snp=True) as host:
        handle = host.launched()
        page = host.page()
        assert host.update_data(handle, page) == SevFwError.INVALID_PAGE_STATE
        host.lend(page)
        assert host.update_data(handle, page) == SevFwError.SUCCESS
        host.take_back(page)
        host.measure(handle)
        guest = host.psp.sev_guests.get(handle)
        assert guest is not None
        assert guest.launch_digest == hashlib.sha256(bytes(PAGE_SIZE)).digest()


def test_range_with_one_foreign_page_is_refused_under_snp() -> None:
    with sev_host(snp=True) as host:
        handle = host.launched()
        pages = host.lend(host.put(bytes(2 * PAGE_SIZE)))
        assert host.update_data(handle, pages + 16) == SevFwError.INVALID_PAGE_STATE
        assert host.update_data(handle, pages + 16, PAGE_SIZE - 16) == SevFwError.SUCCESS


def test_command_buffers_that_are_written_are_firmware_pages_under_snp() -> None:
    with sev_host(snp=True) as host:
        data = sev.sev_data_launch_start()
        assert host.issue(sev.SEV_CMD_LAUNCH_START, data) == SevFwError.INVALID_PAGE_STATE
        assert len(host.psp.sev_guests) == 0


# -- handles and policies ------------------------------------------------------------------


def test_handles_are_not_zero_and_used_again(alone: SevHost) -> None:
    handles = [alone.launch() for _ in range(3)]
    assert handles == [1, 2, 3]
    assert alone.forget(2) == SevFwError.SUCCESS
    assert alone.launch() == 2


def test_there_are_as_many_guests_as_asids(alone: SevHost) -> None:
    for _ in range(ASIDS):
        alone.launch()
    data = sev.sev_data_launch_start()
    assert alone.error(sev.SEV_CMD_LAUNCH_START, data) == SevFwError.RESOURCE_LIMIT


def test_sharing_a_key(alone: SevHost) -> None:
    """A handle passed to LAUNCH_START names a guest with the same policy, without NOKS."""
    shared, private = alone.launch(NODBG), alone.launch(NOKS)

    def start(handle: int, policy: int) -> SevFwError:
        data = sev.sev_data_launch_start(handle=handle, policy=policy)
        return alone.error(sev.SEV_CMD_LAUNCH_START, data)

    assert start(shared, NODBG) == SevFwError.SUCCESS
    assert start(shared, 0) == SevFwError.POLICY_FAILURE
    assert start(private, NOKS) == SevFwError.POLICY_FAILURE
    assert start(99, 0) == SevFwError.INVALID_GUEST


def test_sev_es_guest_on_a_platform_without() -> None:
    with sev_host(es=False) as host:
        data = sev.sev_data_launch_start(policy=ES)
        assert host.error(sev.SEV_CMD_LAUNCH_START, data) == SevFwError.UNSUPPORTED
        host.launch()


def test_status_of_a_handle_that_is_nobodys(host: SevHost) -> None:
    """It is UNINIT; the command succeeds."""
    assert host.guest(7).state == 0


Issue = Callable[[SevHost, int], SevFwError]

ON_A_GUEST: dict[str, Issue] = {
    "ACTIVATE": lambda host, handle: host.bind(handle, PLAIN),
    "DEACTIVATE": SevHost.unbind,
    "DECOMMISSION": SevHost.forget,
    "LAUNCH_UPDATE_DATA": lambda host, handle: host.update_data(handle, host.blank()),
    "LAUNCH_UPDATE_VMSA": lambda host, handle: host.update_vmsa(handle, host.blank()),
    "LAUNCH_MEASURE": lambda host, handle: host.measure(handle)[0],
    "LAUNCH_SECRET": lambda host, handle: host.error(
        sev.SEV_CMD_LAUNCH_UPDATE_SECRET,
        sev.sev_data_launch_secret(
            handle=handle,
            hdr_address=host.page(),
            hdr_len=52,
            guest_address=host.blank(),
            guest_len=16,
            trans_address=host.page(),
            trans_len=16,
        ),
    ),
    "LAUNCH_FINISH": SevHost.launch_finish,
    "ATTESTATION": lambda host, handle: host.error(
        sev.SEV_CMD_ATTESTATION_REPORT,
        sev.sev_data_attestation_report(handle=handle, address=host.blank(), len=208),
    ),
    "DBG_DECRYPT": lambda host, handle: debug(host, handle, sev.SEV_CMD_DBG_DECRYPT),
    "DBG_ENCRYPT": lambda host, handle: debug(host, handle, sev.SEV_CMD_DBG_ENCRYPT),
    "SEND_FINISH": lambda host, handle: host.error(
        sev.SEV_CMD_SEND_FINISH, sev.sev_data_send_finish(handle=handle)
    ),
    "SEND_CANCEL": lambda host, handle: host.error(
        sev.SEV_CMD_SEND_CANCEL, sev.sev_data_send_cancel(handle=handle)
    ),
    "RECEIVE_FINISH": lambda host, handle: host.error(
        sev.SEV_CMD_RECEIVE_FINISH, sev.sev_data_receive_finish(handle=handle)
    ),
}


def debug(host: SevHost, handle: int, cmd: int, **fields: int) -> SevFwError:
    given = {"src_addr": host.page(), "dst_addr": host.blank(), "len": PAGE_SIZE, **fields}
    return host.error(cmd, sev.sev_data_dbg(handle=handle, **given))


@pytest.mark.parametrize("name", ON_A_GUEST)
def test_unknown_handles(host: SevHost, name: str) -> None:
    host.launch()
    for handle in (0, 2, 0xFFFFFFFF):
        assert ON_A_GUEST[name](host, handle) == SevFwError.INVALID_GUEST


@pytest.mark.parametrize("name", ON_A_GUEST)
def test_without_a_guest_the_platform_is_not_working(host: SevHost, name: str) -> None:
    assert ON_A_GUEST[name](host, 1) == SevFwError.INVALID_PLATFORM_STATE


UPDATES = {"LAUNCH_UPDATE_DATA", "LAUNCH_UPDATE_VMSA", "LAUNCH_MEASURE"}
SECRETS = {"LAUNCH_SECRET", "LAUNCH_FINISH"}
SENDS = {"SEND_FINISH", "SEND_CANCEL", "RECEIVE_FINISH"}


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        (LUPDATE, SECRETS | SENDS | {"ATTESTATION"}),
        (LSECRET, UPDATES | SENDS),
        (RUNNING, UPDATES | SECRETS | SENDS),
    ],
)
def test_states(alone: SevHost, state: int, refused: set[str]) -> None:
    """What is not refused for the guest's state may fail for another reason only."""
    for name, issue in ON_A_GUEST.items():
        handle = alone.launched(ES, 1)
        if state >= LSECRET:
            assert alone.measure(handle)[0] == SevFwError.SUCCESS
        if state == RUNNING:
            assert alone.launch_finish(handle) == SevFwError.SUCCESS
        error = issue(alone, handle)
        assert (error == SevFwError.INVALID_GUEST_STATE) == (name in refused), name
        if alone.guest(handle).asid:
            assert alone.unbind(handle) == SevFwError.SUCCESS
        assert alone.forget(handle) == SevFwError.SUCCESS
        alone.must(sev.SEV_CMD_DF_FLUSH)


@pytest.mark.parametrize(
    "name", ["LAUNCH_UPDATE_DATA", "LAUNCH_UPDATE_VMSA", "DBG_DECRYPT", "DEACTIVATE"]
)
def test_without_an_asid(host: SevHost, name: str) -> None:
    assert ON_A_GUEST[name](host, host.launch(ES)) == SevFwError.INACTIVE


def test_secret_without_an_asid(alone: SevHost) -> None:
    handle = alone.launch()
    assert alone.measure(handle)[0] == SevFwError.SUCCESS
    assert ON_A_GUEST["LAUNCH_SECRET"](alone, handle) == SevFwError.INACTIVE


# -- addresses and lengths -----------------------------------------------------------------


@pytest.mark.parametrize("address", [8, SIZE - PAGE_SIZE + 16, 1 << 45, TABLE + 0x4000])
def test_update_refuses_addresses(alone: SevHost, address: int) -> None:
    handle = alone.launched(ES)
    assert alone.update_data(handle, address) == SevFwError.INVALID_ADDRESS
    assert alone.update_vmsa(handle, address) == SevFwError.INVALID_ADDRESS


@pytest.mark.parametrize("length", [0, 1, 8, PAGE_SIZE + 8])
def test_update_refuses_lengths(alone: SevHost, length: int) -> None:
    handle = alone.launched(ES)
    assert alone.update_data(handle, 0x200000, length) == SevFwError.INVALID_LEN
    assert alone.update_vmsa(handle, 0x200000, length) == SevFwError.INVALID_LEN


def test_vmsa_is_one_page_of_an_es_guest(alone: SevHost) -> None:
    page = alone.page()
    plain, es = alone.launched(), alone.launched(ES)
    assert alone.update_vmsa(plain, page) == SevFwError.UNSUPPORTED
    assert alone.update_vmsa(es, page, 2 * PAGE_SIZE) == SevFwError.INVALID_LEN
    assert alone.update_vmsa(es, page) == SevFwError.SUCCESS


def test_cbit_of_an_address_is_ignored(alone: SevHost) -> None:
    handle = alone.launched()
    assert alone.update_data(handle, alone.page() | 1 << 51) == SevFwError.SUCCESS


# -- debugging -----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [0, ES], ids=["SEV", "SEV-ES"])
def test_debugging_copies(host: SevHost, policy: int) -> None:
    """Also a part of a page; before the launch is finished, too."""
    handle = host.launched(policy)
    private = host.lend(host.put(bytes(range(256)) * 16))
    for cmd in (sev.SEV_CMD_DBG_DECRYPT, sev.SEV_CMD_DBG_ENCRYPT):
        target = host.blank()
        part = {"src_addr": private + 32, "dst_addr": target + 16, "len": 48}
        assert debug(host, handle, cmd, **part) == SevFwError.SUCCESS
        expected = bytes(16) + bytes(range(32, 80)) + bytes(16)
        assert host.memory.read(target, 80) == expected


@pytest.mark.parametrize("cmd", [sev.SEV_CMD_DBG_DECRYPT, sev.SEV_CMD_DBG_ENCRYPT])
def test_debugging_is_refused(host: SevHost, cmd: int) -> None:
    handle = host.launched()
    assert debug(host, handle, cmd, src_addr=0x300008) == SevFwError.INVALID_ADDRESS
    assert debug(host, handle, cmd, dst_addr=0x300008) == SevFwError.INVALID_ADDRESS
    assert debug(host, handle, cmd, src_addr=1 << 45) == SevFwError.INVALID_ADDRESS
    assert debug(host, handle, cmd, len=24) == SevFwError.INVALID_LEN
    secret = host.launched(NODBG, PLAIN + 1)
    assert debug(host, secret, cmd) == SevFwError.POLICY_FAILURE


def test_debugging_writes_to_the_firmwares_pages_only_under_snp() -> None:
    with sev_host(snp=True) as host:
        handle = host.launched()
        for cmd in (sev.SEV_CMD_DBG_DECRYPT, sev.SEV_CMD_DBG_ENCRYPT):
            error = debug(host, handle, cmd, dst_addr=host.page())
            assert error == SevFwError.INVALID_PAGE_STATE


def test_debugging_does_not_read_snp_guests() -> None:
    """Their pages would be noise on hardware; memory is not encrypted here."""
    with sev_host(snp=True) as host:
        gctx, handle = host.launching(asid=1), host.launched(ES, 2)
        private = host.assign(host.page(), 0x1000, 1)
        assert host.update(gctx, private) == SevFwError.SUCCESS
        error = debug(host, handle, sev.SEV_CMD_DBG_DECRYPT, src_addr=private)
        assert error == SevFwError.INVALID_PAGE_OWNER


# -- ASIDs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("asid", [0, ES_ASIDS, ASIDS + 1, 0xFFFFFFFF])
def test_asids_of_plain_guests(host: SevHost, asid: int) -> None:
    assert host.bind(host.launch(), asid) == SevFwError.INVALID_ASID


@pytest.mark.parametrize("asid", [0, PLAIN, ASIDS, ASIDS + 1])
def test_asids_of_es_guests(host: SevHost, asid: int) -> None:
    assert host.bind(host.launch(ES), asid) == SevFwError.INVALID_ASID


def test_ranges_end_where_they_should(host: SevHost) -> None:
    for policy, asids in ((ES, (1, ES_ASIDS)), (0, (PLAIN, ASIDS))):
        for asid in asids:
            assert host.bind(host.launch(policy), asid) == SevFwError.SUCCESS


def test_one_asid_a_guest_and_one_guest_an_asid(host: SevHost) -> None:
    first, second = host.launched(0, PLAIN), host.launch()
    assert host.bind(second, PLAIN) == SevFwError.ASID_OWNED
    assert host.bind(first, PLAIN + 1) == SevFwError.ACTIVE
    assert host.bind(first, PLAIN) == SevFwError.ACTIVE
    assert host.bind(second, PLAIN + 1) == SevFwError.SUCCESS


def test_active_guests_stay(host: SevHost) -> None:
    handle = host.launched()
    assert host.forget(handle) == SevFwError.ACTIVE
    assert host.unbind(handle) == SevFwError.SUCCESS
    assert host.unbind(handle) == SevFwError.INACTIVE
    assert host.forget(handle) == SevFwError.SUCCESS
    assert host.guest(handle).state == 0


def test_asid_is_flushed_before_it_is_used_again(host: SevHost) -> None:
    """KVM flushes with SNP_DF_FLUSH where SNP is enabled, whatever kind the guest was."""
    flush = sev.SEV_CMD_SNP_DF_FLUSH if host.snp else sev.SEV_CMD_DF_FLUSH
    old, new = host.launched(), host.launch()
    assert host.unbind(old) == SevFwError.SUCCESS
    assert host.bind(new, PLAIN) == SevFwError.DFFLUSH_REQUIRED
    assert host.bind(old, PLAIN) == SevFwError.DFFLUSH_REQUIRED
    host.must(flush)
    assert host.bind(new, PLAIN) == SevFwError.SUCCESS


def test_flush_after_init_is_required(alone: SevHost) -> None:
    alone.must(sev.SEV_CMD_SHUTDOWN)
    alone.must(sev.SEV_CMD_INIT, sev.sev_data_init())
    assert alone.bind(alone.launch(), PLAIN) == SevFwError.DFFLUSH_REQUIRED
    alone.must(sev.SEV_CMD_DF_FLUSH)
    assert alone.bind(1, PLAIN) == SevFwError.SUCCESS


def test_snp_and_es_guests_share_their_asids() -> None:
    with sev_host(snp=True) as host:
        gctx = host.launching(asid=2)
        es = host.launch(ES)
        assert host.bind(es, 2) == SevFwError.ASID_OWNED
        assert host.bind(es, 1) == SevFwError.SUCCESS
        other = host.gctx()
        assert host.start(other) == SevFwError.SUCCESS
        assert host.activate(other, 1) == SevFwError.ASID_OWNED
        assert host.activate(other, PLAIN) == SevFwError.INVALID_ASID
        assert host.decommission(gctx) == SevFwError.SUCCESS
        assert host.unbind(es) == SevFwError.SUCCESS
        assert host.bind(es, 2) == SevFwError.DFFLUSH_REQUIRED
        host.must(sev.SEV_CMD_SNP_DF_FLUSH)
        assert host.bind(es, 2) == SevFwError.SUCCESS


def test_wbinvd_comes_before_the_flush_where_caches_are_tracked() -> None:
    with sev_host(caches=True) as host:
        old, new = host.launched(), host.launch()
        host.must(sev.SEV_CMD_DF_FLUSH)
        assert host.unbind(old) == SevFwError.SUCCESS
        assert host.issue(sev.SEV_CMD_DF_FLUSH) == SevFwError.WBINVD_REQUIRED
        assert host.bind(new, PLAIN) == SevFwError.DFFLUSH_REQUIRED
        host.psp.wbinvd()
        host.must(sev.SEV_CMD_DF_FLUSH)
        assert host.bind(new, PLAIN) == SevFwError.SUCCESS


# -- platform ------------------------------------------------------------------------------


def test_platform_works_while_there_are_guests(host: SevHost) -> None:
    def seen() -> tuple[int, int]:
        status = host.platform()
        return status.state, status.guest_count

    assert seen() == (sev.SEV_STATE_INIT, 0)
    first = host.launch()
    assert seen() == (sev.SEV_STATE_WORKING, 1)
    second = host.launch(ES)
    assert seen() == (sev.SEV_STATE_WORKING, 2)
    assert host.forget(first) == SevFwError.SUCCESS
    assert seen() == (sev.SEV_STATE_WORKING, 1)
    assert host.forget(second) == SevFwError.SUCCESS
    assert seen() == (sev.SEV_STATE_INIT, 0)


def test_shutdown_with_guests(alone: SevHost) -> None:
    """They are gone, and what they had waits for a flush."""
    alone.launched()
    alone.must(sev.SEV_CMD_SHUTDOWN)
    status = alone.platform()
    assert (status.state, status.guest_count) == (sev.SEV_STATE_UNINIT, 0)
    assert alone.forget(1) == SevFwError.INVALID_PLATFORM_STATE
    alone.must(sev.SEV_CMD_INIT, sev.sev_data_init())
    alone.must(sev.SEV_CMD_DF_FLUSH)
    assert alone.guest(1).state == 0
    alone.launched()


def test_shutdown_leaves_snp_guests_alone() -> None:
    """SNP's own shutdown then wants a flush first: DFFLUSH_REQUIRED is what Linux retries on."""
    with sev_host(snp=True) as host:
        gctx = host.launching(asid=1)
        host.launched(ES, 2)
        down = sev.sev_data_snp_shutdown_ex(len=8, iommu_snp_shutdown=1)
        error = host.issue(sev.SEV_CMD_SNP_SHUTDOWN_EX, down)
        assert error == SevFwError.INVALID_PLATFORM_STATE
        host.must(sev.SEV_CMD_SHUTDOWN)
        assert host.psp.guests.find(gctx).asid == 1
        assert host.decommission(gctx) == SevFwError.SUCCESS
        assert host.issue(sev.SEV_CMD_SNP_SHUTDOWN_EX, down) == SevFwError.DFFLUSH_REQUIRED
        host.must(sev.SEV_CMD_SNP_DF_FLUSH)
        host.must(sev.SEV_CMD_SNP_SHUTDOWN_EX, down)


def test_nothing_works_before_init() -> None:
    host = SevHost()
    try:
        refused = SevFwError.INVALID_PLATFORM_STATE
        assert host.error(sev.SEV_CMD_LAUNCH_START, sev.sev_data_launch_start()) == refused
        assert host.error(sev.SEV_CMD_RECEIVE_START, sev.sev_data_receive_start()) == refused
        assert host.error(sev.SEV_CMD_GUEST_STATUS, sev.sev_data_guest_status()) == refused
    finally:
        host.memory.close()


# -- anything goes -------------------------------------------------------------------------

_HANDLES = st.integers(0, 4)
_STEPS = st.one_of(
    st.tuples(st.just("LAUNCH_START"), st.sampled_from([0, NODBG, ES, ES | NOKS])),
    st.tuples(st.just("ACTIVATE"), _HANDLES, st.integers(0, ASIDS + 1)),
    st.tuples(st.just("DF_FLUSH")),
    st.tuples(st.sampled_from(sorted(ON_A_GUEST)), _HANDLES),
)


@given(st.lists(_STEPS, max_size=30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_random_commands_keep_the_books(steps: list[tuple[object, ...]], snp: bool) -> None:
    """ASIDs and their owners agree, and the platform works exactly while there are guests."""
    with sev_host(snp=snp) as host:
        for name, *arguments in steps:
            numbers = [int(str(number)) for number in arguments]
            if name == "LAUNCH_START":
                host.error(sev.SEV_CMD_LAUNCH_START, sev.sev_data_launch_start(policy=numbers[0]))
            elif name == "DF_FLUSH":
                host.must(sev.SEV_CMD_DF_FLUSH)
            elif len(numbers) == 2:
                host.bind(*numbers)
            else:
                ON_A_GUEST[str(name)](host, numbers[0])
            asids = host.psp.asids
            assert not asids.owners.keys() & asids.unflushed
            held = {}
            for handle in range(1, ASIDS + 1):
                guest = host.psp.sev_guests.get(handle)
                if guest is not None and guest.asid:
                    held[guest.asid] = guest
                    assert (guest.asid <= ES_ASIDS) == guest.es
            assert held == asids.owners
            working = host.platform().state == sev.SEV_STATE_WORKING
            assert working == (len(host.psp.sev_guests) > 0)
