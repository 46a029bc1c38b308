# SPDX-License-Identifier: GPL-2.0-only
"""KVM_SEV_SNP_LAUNCH_FINISH: protected state, host data, keys, and every way to be refused."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from harness.uapi import kvm as uapi
from harness.uapi.errors import SevFwError
from harness.vm import exits
from harness.vm.attestation import SIGNED_BY_VCEK
from harness.vm.errors import MessageError
from harness.vm.host import Host
from harness.vm.results import OK, failed
from harness.vm.vm import Vm
from suites.launch.launching import (
    add_private,
    command_at,
    finish,
    launch_guest,
    raw_finish,
    report_of,
    start,
    vcpu_ioctl,
)

pytestmark = [
    pytest.mark.patches(12),
    pytest.mark.areas("launch", "launch finish"),
    pytest.mark.needs("snp"),
]

BAD_ADDRESS = 0x1000
REGISTER_IOCTLS = {
    "get regs": (uapi.KVM_GET_REGS, uapi.kvm_regs()),
    "set regs": (uapi.KVM_SET_REGS, uapi.kvm_regs(rip=0x1000, rflags=2)),
    "get sregs": (uapi.KVM_GET_SREGS, uapi.kvm_sregs()),
    "set sregs": (uapi.KVM_SET_SREGS, uapi.kvm_sregs()),
    "get fpu": (uapi.KVM_GET_FPU, uapi.kvm_fpu()),
    "set fpu": (uapi.KVM_SET_FPU, uapi.kvm_fpu()),
}


# -- order ---------------------------------------------------------------------------------


def test_before_init2_and_start(vm: Vm) -> None:
    """LAUNCH_FINISH is ENOTTY before KVM_SEV_INIT2, EINVAL before LAUNCH_START."""
    assert finish(vm) == failed(errno.ENOTTY)
    vm.sev_init2()
    assert finish(vm) == failed(errno.EINVAL)
    assert start(vm) == OK
    assert finish(vm) == OK


def test_without_vcpus_and_pages(initialised: Vm) -> None:
    """A launch without any page or vCPU can be finished."""
    assert start(initialised) == OK
    assert finish(initialised) == OK


def test_twice(finished: Vm) -> None:
    """A second LAUNCH_FINISH is refused: no vCPU is measured twice."""
    assert finish(finished) == failed(errno.EINVAL)


def test_twice_without_vcpus(started: Vm) -> None:
    """Without a vCPU it is the firmware that refuses a second LAUNCH_FINISH."""
    assert finish(started) == OK
    assert finish(started) == failed(errno.EIO, SevFwError.INVALID_GUEST_STATE)


def test_start_after_finish(finished: Vm) -> None:
    """No second launch can begin in a VM that was launched."""
    assert start(finished) == failed(errno.EINVAL)


@pytest.mark.needs("launch_flags")
def test_flags_must_be_zero(started: Vm) -> None:
    """Each of the 16 flags is refused, and measures nothing: the launch can still be finished."""
    started.create_vcpu()
    for bit in range(16):
        assert finish(started, flags=1 << bit) == failed(errno.EINVAL), f"flag {bit}"
    assert finish(started) == OK


def test_unreadable_structure(started: Vm) -> None:
    """A structure that cannot be read is EFAULT and measures nothing."""
    started.create_vcpu()
    command = started.interface.launch_finish.id
    assert command_at(started, command, BAD_ADDRESS) == failed(errno.EFAULT)
    assert finish(started) == OK


def test_descriptor_that_is_not_dev_sev(started: Vm) -> None:
    """Without /dev/sev no vCPU is measured and its VMSA stays the host's; then it is as before."""
    vcpu = started.create_vcpu()
    command = started.interface.launch_finish
    for fd in (-1, started.fd):
        refused = started.sev_call(command.id, command.struct(), sev_fd=fd)
        assert refused.outcome == failed(errno.EBADF)
        vcpu.set_regs(vcpu.get_regs())
    assert finish(started) == OK


@pytest.mark.parametrize("address", [0, BAD_ADDRESS], ids=["null", "unmapped"])
@pytest.mark.parametrize("field", ["id_block_uaddr", "id_auth_uaddr"])
def test_id_block_that_cannot_be_read(started: Vm, field: str, address: int) -> None:
    """An ID block or its authentication at a bad address is refused before the firmware sees it."""
    good = started.stage(bytes(8192))
    fields = {"id_block_uaddr": good, "id_auth_uaddr": good + 4096, field: address}
    expected = errno.EFAULT if address else errno.EINVAL
    assert raw_finish(started, id_block_en=1, **fields) == failed(expected)
    assert finish(started) == OK


def test_addresses_without_enable_bit(started: Vm) -> None:
    """Addresses of an ID block that is not enabled are not looked at."""
    outcome = raw_finish(started, id_block_uaddr=BAD_ADDRESS, id_auth_uaddr=1, auth_key_en=1)
    assert outcome == OK


# -- protected state -----------------------------------------------------------------------


@pytest.mark.parametrize("name", REGISTER_IOCTLS)
def test_registers_before_finish(started: Vm, name: str) -> None:
    """Until LAUNCH_FINISH userspace reads and writes the registers of a vCPU."""
    vcpu = started.create_vcpu()
    request, struct = REGISTER_IOCTLS[name]
    assert vcpu_ioctl(started.kernel, vcpu.fd, request, struct).ok


@pytest.mark.parametrize("name", [name for name in REGISTER_IOCTLS if "fpu" not in name])
def test_registers_after_finish(started: Vm, name: str) -> None:
    """After LAUNCH_FINISH the registers of every vCPU can be neither read nor written."""
    vcpus = [started.create_vcpu() for _ in range(3)]
    assert finish(started) == OK
    request, struct = REGISTER_IOCTLS[name]
    for vcpu in vcpus:
        result = vcpu_ioctl(started.kernel, vcpu.fd, request, struct)
        assert result.errno == errno.EINVAL
        assert result.data == bytes(struct), "something was read"


def test_fpu_after_finish(host: Host) -> None:
    """After LAUNCH_FINISH the FPU state that userspace gives is refused or ignored.

    KVM marks the FPU state of SEV-ES guests confidential; that of SNP guests it takes, and the
    VMSA has another (6.12, 7.3).
    """
    with launch_guest(host) as guest:
        cpu = guest.cpu()
        broken = uapi.kvm_fpu(fcw=0x27F, mxcsr=0)  # every SSE exception unmasked
        for request in (uapi.KVM_GET_FPU, uapi.KVM_SET_FPU):
            result = vcpu_ioctl(host.kernel, cpu.vcpu.fd, request, broken)
            assert result.errno in (0, errno.EINVAL)
        cpu.boot()
        assert report_of(guest).measurement == guest.expected_digest()


def test_registers_stay_open_when_kvm_refuses(started: Vm) -> None:
    """A LAUNCH_FINISH that fails before the vCPUs are measured leaves their registers open."""
    vcpu = started.create_vcpu()
    command = started.interface.launch_finish.id
    assert command_at(started, command, BAD_ADDRESS) == failed(errno.EFAULT)
    assert vcpu.get_regs().rflags == 2


def test_vcpu_does_not_run_before_finish(started: Vm) -> None:
    """A vCPU of a guest under launch has no encrypted state: KVM_RUN enters no guest code."""
    outcome = started.create_vcpu().run()
    assert isinstance(outcome, exits.FailEntryExit | exits.RunError), outcome


def test_vcpu_does_not_run_before_init2(vm: Vm) -> None:
    """KVM_RUN is EINVAL on a VM that was not initialised."""
    assert vm.create_vcpu().run() == exits.RunError(errno.EINVAL)


@pytest.mark.needs("pre_fault_memory")
def test_memory_is_pre_faulted_after_finish_only(initialised: Vm) -> None:
    """KVM_PRE_FAULT_MEMORY would break the launch and is EOPNOTSUPP until it is finished."""
    gpa = 0x100000
    add_private(initialised, gpa=gpa)
    vcpu = initialised.create_vcpu()
    initialised.launch_start()
    assert vcpu.pre_fault(gpa, 4096) == (errno.EOPNOTSUPP, gpa, 4096)
    initialised.launch_finish()
    assert vcpu.pre_fault(gpa, 4096) == (0, gpa + 4096, 0)


@pytest.mark.needs("pre_fault_memory")
def test_refused_finish_allows_no_pre_fault(initialised: Vm) -> None:
    """A LAUNCH_FINISH that the firmware refuses does not open the memory."""
    gpa = 0x100000
    add_private(initialised, gpa=gpa)
    vcpu = initialised.create_vcpu()
    initialised.launch_start()
    blank = initialised.stage(bytes(8192))
    fields: dict[str, Any] = {"id_block_uaddr": blank, "id_auth_uaddr": blank + 4096}
    assert raw_finish(initialised, id_block_en=1, **fields).errno == errno.EIO
    assert vcpu.pre_fault(gpa, 4096) == (errno.EOPNOTSUPP, gpa, 4096)


# -- what the report shows -----------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [bytes(32), b"\xff" * 32, bytes(range(32))], ids=["zeros", "ones", "counting"]
)
def test_host_data(host: Host, data: bytes) -> None:
    """The attestation report carries the host data of LAUNCH_FINISH."""
    with launch_guest(host, finish={"host_data": data}) as guest:
        assert report_of(guest).host_data == data


def test_report_without_id_block(host: Host) -> None:
    """Without an ID block the report has no key digests, ids or SVN, and the VCEK signs it."""
    with launch_guest(host) as guest:
        report = report_of(guest)
    assert report.id_key_digest == bytes(48)
    assert report.author_key_digest == bytes(48)
    assert report.family_id == bytes(16)
    assert report.image_id == bytes(16)
    assert (report.guest_svn, report.author_key_en) == (0, False)
    assert report.signing_key == SIGNED_BY_VCEK


def test_vcek_can_be_disabled(host: Host) -> None:
    """A guest that refuses the VCEK gets no report signed by it."""
    field = host.interface.finish_key_field
    with launch_guest(host, finish={field: 1}) as guest:
        with pytest.raises(MessageError, match="refused a report"):
            report_of(guest)
