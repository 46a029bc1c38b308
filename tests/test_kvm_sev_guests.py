# SPDX-License-Identifier: GPL-2.0-only
"""Plain SEV and SEV-ES VMs of the emulated KVM: launched, measured, debugged, given back."""

from __future__ import annotations

import errno
import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import pytest

from harness.emulator.kvm import vmsa
from harness.emulator.memory import PAGE_SIZE
from harness.uapi import kvm as uapi
from harness.uapi import sev as abi
from harness.uapi.errors import SevFwError
from harness.uapi.interfaces import INTERFACES
from tests.test_kvm_sev import Guest, Host

ES = 1 << 2
LUPDATE, LSECRET, RUNNING = 1, 2, 3


class SevGuest(Guest):
    """A VM of plain SEV, or of SEV-ES where the policy says so."""

    def __init__(self, host: Host, policy: int = 0) -> None:
        super().__init__(host, uapi.KVM_X86_SEV_ES_VM if policy & ES else uapi.KVM_X86_SEV_VM)
        self.policy = policy
        assert self.init2() == 0

    def answer(self, id: int, data: Any) -> tuple[tuple[int, int], Any]:
        """Issue a command: (errno, firmware error), and the structure as it came back."""
        result = self.command(id, data)
        raw = self.kernel.read(self.params, len(bytes(data)))
        return result, type(data).from_buffer_copy(raw)

    def begin(self, **fields: Any) -> int:
        """LAUNCH_START; the handle."""
        data = abi.kvm_sev_launch_start(policy=self.policy, **fields)
        result, data = self.answer(abi.KVM_SEV_LAUNCH_START, data)
        assert result == (0, 0)
        return int(data.handle)

    def state(self) -> tuple[int, int]:
        result, data = self.answer(abi.KVM_SEV_GUEST_STATUS, abi.kvm_sev_guest_status())
        assert result == (0, 0)
        assert data.policy == self.policy
        return data.handle, data.state

    def user(self, content: bytes) -> int:
        address = self.kernel.mmap(len(content))
        self.kernel.write(address, content)
        return address

    def launch_data(self, address: int, length: int) -> tuple[int, int]:
        data = abi.kvm_sev_launch_update_data(uaddr=address, len=length)
        return self.command(abi.KVM_SEV_LAUNCH_UPDATE_DATA, data)

    def measure(self, length: int = 256) -> tuple[tuple[int, int], int, bytes]:
        address = self.kernel.mmap(PAGE_SIZE)
        data = abi.kvm_sev_launch_measure(uaddr=address, len=length)
        result, data = self.answer(abi.KVM_SEV_LAUNCH_MEASURE, data)
        return result, int(data.len), self.kernel.read(address, 48)

    def debug(self, id: int, src: int, dst: int, length: int) -> tuple[int, int]:
        return self.command(id, abi.kvm_sev_dbg(src_uaddr=src, dst_uaddr=dst, len=length))

    def running(self) -> SevGuest:
        self.begin()
        assert self.measure()[0] == (0, 0)
        assert self.command(abi.KVM_SEV_LAUNCH_FINISH) == (0, 0)
        return self


@pytest.fixture(params=[True, False], ids=["snp", "sev"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    made = Host(INTERFACES["merged"], sev_snp=request.param, asids=3)
    yield made
    made.kernel.shutdown()


@pytest.mark.parametrize("policy", [0, ES], ids=["SEV", "SEV-ES"])
def test_launch_is_measured(host: Host, policy: int) -> None:
    guest = SevGuest(host, policy)
    guest.vcpu()
    handle = guest.begin()
    assert guest.state() == (handle, LUPDATE)
    content = b"firmware of the guest" * 500
    assert guest.launch_data(guest.user(content[:8192]), 8192) == (0, 0)
    expected = content[:8192]
    if policy:
        expected += vmsa.build(guest.vm.vcpus[0])
        assert guest.command(abi.KVM_SEV_LAUNCH_UPDATE_VMSA) == (0, 0)
        assert guest.command(abi.KVM_SEV_LAUNCH_UPDATE_VMSA) == (errno.EINVAL, 0)
    else:
        assert guest.command(abi.KVM_SEV_LAUNCH_UPDATE_VMSA) == (errno.ENOTTY, 0)
    result, length, output = guest.measure()
    assert (result, length) == ((0, 0), 48)
    digest = hashlib.sha256(expected).digest()
    message = b"\x04\x01\x37\x28" + policy.to_bytes(4, "little") + digest + output[32:]
    assert output[:32] == hmac.new(bytes(16), message, "sha256").digest()
    assert guest.state() == (handle, LSECRET)
    assert guest.command(abi.KVM_SEV_LAUNCH_FINISH) == (0, 0)
    assert guest.state() == (handle, RUNNING)
    guest.close()
    assert len(host.kernel.machine.psp.sev_guests) == 0


def test_length_of_the_measurement(host: Host) -> None:
    guest = SevGuest(host)
    guest.begin()
    error = errno.EIO, int(SevFwError.INVALID_LEN)
    assert guest.measure(0)[:2] == (error, 48)
    assert guest.measure(47)[:2] == (error, 47)
    assert guest.measure(48)[0] == (0, 0)


def test_errors_of_the_firmware_reach_userspace(host: Host) -> None:
    guest = SevGuest(host)
    page = guest.user(bytes(PAGE_SIZE))
    assert guest.launch_data(page, PAGE_SIZE) == (errno.EBADF, 0)
    guest.begin()
    assert guest.launch_data(page, 8) == (errno.EIO, SevFwError.INVALID_LEN)
    assert guest.launch_data(page + 8, 16) == (errno.EIO, SevFwError.INVALID_ADDRESS)
    state = errno.EIO, int(SevFwError.INVALID_GUEST_STATE)
    assert guest.command(abi.KVM_SEV_LAUNCH_FINISH) == state
    assert guest.launch_data(0x1000, PAGE_SIZE) == (errno.ENOMEM, 0)
    data = abi.kvm_sev_launch_start()
    owned = errno.EIO, int(SevFwError.ASID_OWNED)
    assert guest.command(abi.KVM_SEV_LAUNCH_START, data) == owned
    assert len(host.kernel.machine.psp.sev_guests) == 1


@pytest.mark.parametrize(
    ("src", "dst", "length"),
    [(0, 0, 8192), (16, 32, 64), (1, 8, 23), (4090, 3, 17), (7, 4095, 4096), (5, 5, 1)],
)
def test_debugging_at_any_offset(host: Host, src: int, dst: int, length: int) -> None:
    guest = SevGuest(host, ES).running()
    plain = bytes(n * 7 & 0xFF for n in range(3 * PAGE_SIZE))
    source, private = guest.user(plain), guest.user(b"\xaa" * 3 * PAGE_SIZE)
    target = guest.user(b"\x55" * 3 * PAGE_SIZE)
    done = guest.debug(abi.KVM_SEV_DBG_ENCRYPT, source + src, private + dst, length)
    assert done == (0, 0)
    expected = b"\xaa" * dst + plain[src : src + length]
    found = guest.kernel.read(private, 3 * PAGE_SIZE)
    assert found == expected.ljust(3 * PAGE_SIZE, b"\xaa")
    done = guest.debug(abi.KVM_SEV_DBG_DECRYPT, private + dst, target + src, length)
    assert done == (0, 0)
    expected = b"\x55" * src + plain[src : src + length]
    assert guest.kernel.read(target, 3 * PAGE_SIZE) == expected.ljust(3 * PAGE_SIZE, b"\x55")


def test_debugging_is_up_to_the_policy(host: Host) -> None:
    guest = SevGuest(host, 1).running()
    page = guest.user(bytes(2 * PAGE_SIZE))
    refused = errno.EIO, int(SevFwError.POLICY_FAILURE)
    assert guest.debug(abi.KVM_SEV_DBG_DECRYPT, page, page + PAGE_SIZE, 16) == refused
    assert guest.debug(abi.KVM_SEV_DBG_DECRYPT, page, page, 0) == (errno.EINVAL, 0)


@pytest.mark.parametrize("policy", [0, ES], ids=["SEV", "SEV-ES"])
def test_guests_in_turn_use_asids_again(host: Host, policy: int) -> None:
    """More than there are ASIDs: KVM flushes, and the firmware lets them be taken again."""
    config = host.kernel.machine.config
    rounds = 2 * config.asids + 1 if policy else 2
    for _ in range(rounds):
        guest = SevGuest(host, policy).running()
        guest.close()
    assert len(host.kernel.machine.psp.sev_guests) == 0
    assert host.counters["asids"] == 0
    assert host.counters["leaked_pages"] == 0


def test_nothing_stays_with_the_firmware(host: Host) -> None:
    """What the driver lent to it under SNP is the hypervisor's again."""
    before = host.kernel.machine.rmp.assigned_pages()
    guest = SevGuest(host, ES)
    guest.vcpu()
    guest.begin()
    page = guest.user(bytes(2 * PAGE_SIZE))
    assert guest.launch_data(page, 2 * PAGE_SIZE) == (0, 0)
    assert guest.launch_data(page, 24) == (errno.EIO, SevFwError.INVALID_LEN)
    assert guest.command(abi.KVM_SEV_LAUNCH_UPDATE_VMSA) == (0, 0)
    assert guest.measure()[0] == (0, 0)
    assert host.kernel.machine.rmp.assigned_pages() == before
    guest.close()


def test_attestation(host: Host) -> None:
    guest = SevGuest(host).running()
    address = guest.kernel.mmap(PAGE_SIZE)
    data = abi.kvm_sev_attestation_report(mnonce=b"0123456789abcdef")
    result, answer = guest.answer(abi.KVM_SEV_GET_ATTESTATION_REPORT, data)
    assert (result, answer.len) == ((errno.EIO, SevFwError.INVALID_LEN), 208)
    data.uaddr, data.len = address, 208
    assert guest.answer(abi.KVM_SEV_GET_ATTESTATION_REPORT, data)[0] == (0, 0)
    report = guest.kernel.read(address, 48)
    assert report == b"0123456789abcdef" + hashlib.sha256().digest()
