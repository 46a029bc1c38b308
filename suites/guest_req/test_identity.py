# SPDX-License-Identifier: GPL-2.0-only
"""The commands for plain SEV that an SNP host still offers: state, identity, certificates.

Once SNP is initialised the firmware writes to memory in the firmware state only, so the driver
lends it pages for these (drivers/crypto/ccp/sev-dev.c, snp_map_cmd_buf_desc).
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from harness.operations import Ioctl
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.uapi.errors import SevFwError
from harness.uapi.sev_channel import sev_cert
from harness.vm.attestation import Report
from harness.vm.guest import Guest
from harness.vm.guest_message import Messenger
from harness.vm.host import Host
from harness.vm.results import OK, Number

pytestmark = [
    pytest.mark.patches(27),
    pytest.mark.areas("platform", "/dev/sev"),
    pytest.mark.needs("snp"),
]

PAGE: Final = 4096
CERT: Final = ctypes.sizeof(sev_cert)
BAD_ADDRESS: Final = 0x1000
STATUSES, LAUNCHES, FIRST_THREAD = 25, 8, 300
GUARD: Final = b"\xa5" * 64


@pytest.fixture
def memory(host: Host) -> Iterator[int]:
    """Pages of the process's memory; nothing of the host's is left with the firmware."""
    inspector = host.kernel.inspector
    host.sev.platform_status()
    before = inspector.firmware_pages() if inspector else 0
    address = host.kernel.mmap(16 * PAGE)
    yield address
    host.kernel.munmap(address, 16 * PAGE)
    if inspector:
        assert inspector.firmware_pages() == before
        assert not inspector.counters()["leaked_pages"]


def get_id(host: Host, address: int, length: int) -> tuple[int, int, int]:
    """SEV_GET_ID2: errno, the firmware's error, the length that comes back."""
    wanted = sevapi.sev_user_data_get_id2(address=address, length=length)
    result = host.sev.call(sevapi.SEV_GET_ID2, bytes(wanted))
    length = sevapi.sev_user_data_get_id2.from_buffer_copy(result.data).length
    return result.errno, result.fw_error, Number(length, "SEV_GET_ID2 length")


def export(host: Host, pdh: int, pdh_len: int, chain: int, chain_len: int) -> tuple[int, ...]:
    """SEV_PDH_CERT_EXPORT: errno, the firmware's error, the two lengths that come back."""
    wanted = sevapi.sev_user_data_pdh_cert_export(pdh, pdh_len, chain, chain_len)
    result = host.sev.call(sevapi.SEV_PDH_CERT_EXPORT, bytes(wanted))
    after = sevapi.sev_user_data_pdh_cert_export.from_buffer_copy(result.data)
    lengths = (
        Number(after.pdh_cert_len, "SEV_PDH_CERT_EXPORT pdh_cert_len"),
        Number(after.cert_chain_len, "SEV_PDH_CERT_EXPORT cert_chain_len"),
    )
    return result.errno, result.fw_error, *lengths


def test_status(host: Host, memory: int) -> None:
    """SEV's status and SNP's agree about the firmware; SEV is initialised beside SNP."""
    empty = bytes(sevapi.sev_user_data_status())
    result = host.sev.call(sevapi.SEV_PLATFORM_STATUS, empty)
    status = sevapi.sev_user_data_status.from_buffer_copy(result.data)
    snp = host.sev.platform_status()
    assert result.outcome == OK
    assert (status.api_major, status.api_minor) == (snp.api_major, snp.api_minor)
    assert status.state == sevapi.SEV_STATE_INIT
    assert snp.state == 1


@pytest.mark.parametrize("length", [0, 1, 63])
def test_length_of_the_id(host: Host, memory: int, length: int) -> None:
    """A buffer too short for the ID is told how long it has to be, and not written to."""
    host.kernel.write(memory, GUARD)
    answer = get_id(host, memory if length else 0, length)
    assert answer == (errno.EIO, SevFwError.INVALID_LEN, 64)
    assert host.kernel.read(memory, len(GUARD)) == GUARD


def test_id_is_that_of_reports(host: Host, memory: int) -> None:
    """The ID is the chip's in a guest's report; what lies behind it is not written."""
    host.kernel.write(memory, bytes(64) + GUARD)
    assert get_id(host, memory, 64) == (0, 0, 64)
    ident = host.kernel.read(memory, 64 + len(GUARD))
    assert ident[64:] == GUARD
    with Guest.launch(host) as guest:
        report = Report.decode(Messenger(guest.cpu()).report(b""))
    assert bytes(report.chip_id) == ident[:64]


@pytest.mark.parametrize("length", [65, PAGE])
def test_room_for_more_than_the_id(host: Host, memory: int, length: int) -> None:
    """A larger buffer has the ID, and is told its length."""
    assert get_id(host, memory, 64) == (0, 0, 64)
    expected = host.kernel.read(memory, 64)
    host.kernel.write(memory, bytes(64))
    assert get_id(host, memory, length) == (0, 0, 64)
    assert host.kernel.read(memory, 64) == expected


def test_room_for_more_than_a_page(boot: Callable[..., Host]) -> None:
    """A buffer of more than a page has the ID, too; on a host of its own, which may suffer."""
    host = boot()
    memory = host.kernel.mmap(4 * PAGE)
    assert get_id(host, memory, 64) == (0, 0, 64)
    expected = host.kernel.read(memory, 64)
    host.kernel.write(memory, bytes(64))
    assert get_id(host, memory, PAGE + 1) == (0, 0, 64)
    assert host.kernel.read(memory, 64) == expected


def test_id_to_nowhere(host: Host, memory: int) -> None:
    """A buffer that cannot be written is EFAULT, and the next request is served."""
    assert get_id(host, BAD_ADDRESS, 64)[0] == errno.EFAULT
    assert get_id(host, memory, 64) == (0, 0, 64)


def test_lengths_of_certificates(host: Host, memory: int) -> None:
    """Without buffers the export says how long the certificates are."""
    assert export(host, 0, 0, 0, 0) == (errno.EIO, SevFwError.INVALID_LEN, CERT, 3 * CERT)
    # Short of one address there is no buffer at all.
    answer = export(host, memory, CERT, 0, 3 * CERT)
    assert answer == (errno.EIO, SevFwError.INVALID_LEN, CERT, 3 * CERT)


def test_certificates(host: Host, memory: int) -> None:
    """The export has the PDH and its chain, the same each time, and nothing behind them."""
    chain = memory + PAGE + 16
    seen = []
    for _ in range(2):
        host.kernel.write(memory, bytes(4 * PAGE))
        host.kernel.write(memory + CERT, GUARD)
        host.kernel.write(chain + 3 * CERT, GUARD)
        assert export(host, memory, CERT, chain, 3 * CERT) == (0, 0, CERT, 3 * CERT)
        pdh = host.kernel.read(memory, CERT + len(GUARD))
        rest = host.kernel.read(chain, 3 * CERT + len(GUARD))
        assert pdh[CERT:] == GUARD
        assert rest[3 * CERT :] == GUARD
        seen.append(pdh + rest)
    assert seen[0] == seen[1]
    certs = [seen[0][:CERT], *(rest[n * CERT : (n + 1) * CERT] for n in range(3))]
    assert len(set(certs)) == 4
    assert all(any(cert) for cert in certs)


def test_certificates_that_are_too_long(host: Host, memory: int) -> None:
    """No buffer may be longer than the firmware's largest blob."""
    limit, chain = sevapi.SEV_FW_BLOB_MAX_SIZE, memory + 8 * PAGE
    assert export(host, memory, limit + 1, chain, 3 * CERT)[0] == errno.EFAULT
    assert export(host, memory, CERT, chain, limit + 1)[0] == errno.EFAULT
    answer = export(host, memory, CERT, chain, 3 * CERT)
    assert answer == (0, 0, CERT, 3 * CERT)


@pytest.mark.parametrize(
    "command",
    [sevapi.SEV_PLATFORM_STATUS, sevapi.SEV_GET_ID2, sevapi.SNP_PLATFORM_STATUS],
    ids=["status", "id", "SNP status"],
)
def test_structure_to_nowhere(host: Host, memory: int, command: int) -> None:
    """A structure that cannot be written is EFAULT, and costs the host no page."""
    request = sevapi.sev_issue_cmd(cmd=command, data=BAD_ADDRESS)
    result = host.kernel.ioctl(host.sev.fd, sevapi.SEV_ISSUE_CMD, bytes(request))
    assert result.errno == errno.EFAULT
    assert host.sev.platform_status().state == 1


def test_snp_status_without_structure(host: Host) -> None:
    """SNP_PLATFORM_STATUS has to be given a structure."""
    assert host.sev.call(sevapi.SNP_PLATFORM_STATUS).errno == errno.EINVAL


def test_other_requests(host: Host) -> None:
    """/dev/sev knows one ioctl; a command that cannot be read is EFAULT."""
    request = bytes(sevapi.sev_issue_cmd(cmd=sevapi.SEV_PLATFORM_STATUS))
    assert host.kernel.ioctl(host.sev.fd, sevapi.SEV_ISSUE_CMD + 1, request).errno == errno.EINVAL
    unread = host.kernel.ioctl(host.sev.fd, sevapi.SEV_ISSUE_CMD, BAD_ADDRESS)
    assert unread.errno == errno.EFAULT


def test_many_statuses(host: Host, memory: int) -> None:
    """The status can be asked for any number of times, and no page of it stays away."""
    for _ in range(40):
        assert host.sev.platform_status().state == 1


def test_commands_from_all_sides(host: Host, memory: int) -> None:
    """Commands of several threads and of guests under launch wait for each other."""
    request = [
        sevapi.sev_issue_cmd(cmd=command, data=memory + PAGE * number)
        for number, command in enumerate([sevapi.SNP_PLATFORM_STATUS, sevapi.SEV_PLATFORM_STATUS])
    ]
    batches = [
        [Ioctl(host.sev.fd, sevapi.SEV_ISSUE_CMD, bytes(each))] * STATUSES for each in request * 2
    ]
    tickets = [
        host.kernel.start(ops, thread=FIRST_THREAD + number) for number, ops in enumerate(batches)
    ]
    for _ in range(LAUNCHES):
        with host.create_vm(uapi.KVM_X86_SNP_VM) as vm:
            vm.sev_init2()
            vm.launch_start()
            vm.launch_finish()
    for ticket in tickets:
        results = host.kernel.wait(ticket)
        assert [result.errno for result in results] == [0] * STATUSES
    assert host.sev.platform_status().guest_count == 0
