# SPDX-License-Identifier: GPL-2.0-only
"""The firmware model under random commands of plain SEV: a status each, and no harm done."""

from __future__ import annotations

import ctypes

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.emulator.memory import PAGE_SIZE
from harness.emulator.rmp import PageState
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from tests.psp_host import SIZE, TABLE
from tests.psp_sev_host import ES, SevHost, sev_host

SHAPES: dict[int, type[ctypes.Structure]] = {
    sev.SEV_CMD_PEK_CSR: sev.sev_data_pek_csr,
    sev.SEV_CMD_PEK_CERT_IMPORT: sev.sev_data_pek_cert_import,
    sev.SEV_CMD_PDH_CERT_EXPORT: sev.sev_data_pdh_cert_export,
    sev.SEV_CMD_DECOMMISSION: sev.sev_data_decommission,
    sev.SEV_CMD_ACTIVATE: sev.sev_data_activate,
    sev.SEV_CMD_DEACTIVATE: sev.sev_data_deactivate,
    sev.SEV_CMD_GUEST_STATUS: sev.sev_data_guest_status,
    sev.SEV_CMD_LAUNCH_START: sev.sev_data_launch_start,
    sev.SEV_CMD_LAUNCH_UPDATE_DATA: sev.sev_data_launch_update_data,
    sev.SEV_CMD_LAUNCH_UPDATE_VMSA: sev.sev_data_launch_update_vmsa,
    sev.SEV_CMD_LAUNCH_MEASURE: sev.sev_data_launch_measure,
    sev.SEV_CMD_LAUNCH_UPDATE_SECRET: sev.sev_data_launch_secret,
    sev.SEV_CMD_LAUNCH_FINISH: sev.sev_data_launch_finish,
    sev.SEV_CMD_ATTESTATION_REPORT: sev.sev_data_attestation_report,
    sev.SEV_CMD_SEND_START: sev.sev_data_send_start,
    sev.SEV_CMD_SEND_UPDATE_DATA: sev.sev_data_send_update_data,
    sev.SEV_CMD_SEND_UPDATE_VMSA: sev.sev_data_send_update_data,
    sev.SEV_CMD_SEND_FINISH: sev.sev_data_send_finish,
    sev.SEV_CMD_SEND_CANCEL: sev.sev_data_send_cancel,
    sev.SEV_CMD_RECEIVE_START: sev.sev_data_receive_start,
    sev.SEV_CMD_RECEIVE_UPDATE_DATA: sev.sev_data_receive_update_data,
    sev.SEV_CMD_RECEIVE_UPDATE_VMSA: sev.sev_data_receive_update_data,
    sev.SEV_CMD_RECEIVE_FINISH: sev.sev_data_receive_finish,
    sev.SEV_CMD_DBG_DECRYPT: sev.sev_data_dbg,
    sev.SEV_CMD_DBG_ENCRYPT: sev.sev_data_dbg,
}
PAGES, FIRST = 12, 0x400000
"""Firmware pages, then the hypervisor's, then pages of an SNP guest."""

addresses = st.one_of(
    st.integers(0, PAGES - 1).map(lambda n: FIRST + n * PAGE_SIZE),
    st.integers(0, PAGES * 256 - 1).map(lambda n: FIRST + n * 16),
    st.sampled_from([0, 8, SIZE, SIZE - 16, TABLE, TABLE + 0x4000, 1 << 51, (1 << 64) - 16]),
    st.integers(0, (1 << 64) - 1),
)
lengths = st.one_of(
    st.sampled_from([0, 16, 48, 52, 128, 208, 0x824, 0x186C, PAGE_SIZE, 0x4000, 0xFFFFFFF0]),
    st.integers(0, 0x5000),
)
small = st.integers(0, 6)


@st.composite
def commands(draw: st.DrawFn) -> tuple[int, ctypes.Structure]:
    """A command whose fields are mostly sensible."""
    cmd = draw(st.sampled_from(sorted(SHAPES)))
    data = SHAPES[cmd]()
    for name, *_ in data._fields_:
        if name.endswith(("address", "addr")):
            setattr(data, name, draw(addresses))
        elif name.endswith("len"):
            setattr(data, name, draw(lengths))
        elif name in ("handle", "asid", "policy"):
            setattr(data, name, draw(small))
    return cmd, data


def prepare(host: SevHost) -> None:
    """A guest in each state that this platform can bring it to, and pages of every kind."""
    host.launched(ES, 1)
    host.launched(0, 5)
    host.measure(host.launched(0, 6))
    host.ready(ES, 2)
    for page in range(PAGES):
        pa = FIRST + page * PAGE_SIZE
        host.memory.write(pa, bytes((page + 1,)) * PAGE_SIZE)
        if host.snp and page < 4:
            host.assign(pa)
    if host.snp:
        gctx = host.launching(asid=3)
        for page in range(8, PAGES):
            pa = host.assign(FIRST + page * PAGE_SIZE, page << 12, 3)
            assert host.update(gctx, pa) == SevFwError.SUCCESS


@given(st.lists(commands(), min_size=3, max_size=12), st.booleans())
@settings(max_examples=200, deadline=None)
def test_random_commands(run: list[tuple[int, ctypes.Structure]], snp: bool) -> None:
    """Under SNP nothing but Firmware pages is written, and the RMP stays as it is."""
    statuses = {int(status) for status in SevFwError}
    with sev_host(snp=snp) as host:
        prepare(host)
        for cmd, data in run:
            before = host.rmp.lo.copy()
            kept = {
                pa: host.memory.read(pa, PAGE_SIZE)
                for pa in range(FIRST, FIRST + PAGES * PAGE_SIZE, PAGE_SIZE)
                if snp and host.state(pa) != PageState.FIRMWARE
            }
            assert host.error(cmd, data) in statuses
            assert (host.rmp.lo == before).all()
            assert {pa: host.memory.read(pa, PAGE_SIZE) for pa in kept} == kept
