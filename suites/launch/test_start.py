# SPDX-License-Identifier: GPL-2.0-only
"""KVM_SEV_SNP_LAUNCH_START: the policy matrix, and every way to be refused."""

from __future__ import annotations

import errno

import pytest

from harness.uapi import sev as sevapi
from harness.uapi.errors import SevFwError
from harness.uapi.interfaces import Interface
from harness.vm import layout
from harness.vm.host import Host
from harness.vm.results import OK, CallResult, failed
from harness.vm.vm import DEFAULT_POLICY, Vm
from suites.launch.launching import (
    add_private,
    command_at,
    launch_guest,
    policy_bits,
    report_of,
    start,
    update,
)

pytestmark = [
    pytest.mark.patches(10),
    pytest.mark.areas("launch", "launch start"),
    pytest.mark.needs("snp"),
]

SMT = sevapi.SNP_POLICY_MASK_SMT
MBO = sevapi.SNP_POLICY_MASK_RSVD_MBO
DEBUG = sevapi.SNP_POLICY_MASK_DEBUG
SINGLE_SOCKET = sevapi.SNP_POLICY_MASK_SINGLE_SOCKET
FIRST_RESERVED_BIT = 26
GOSVW_OFFSET = 0x10
"""In the secrets page (56860, secrets page)."""

REFUSED = {
    "no SMT": MBO,
    "single socket": SMT | MBO | SINGLE_SOCKET,
    "no reserved one": SMT,
    "nothing": 0,
    "debug only": DEBUG,
    "everything": (1 << 64) - 1,
}
ACCEPTED = {
    "default": SMT | MBO,
    "debug": SMT | MBO | DEBUG,
    "ABI 0.255": SMT | MBO | 0xFF,
    "ABI 1.0": SMT | MBO | 0x100,
}


def refusal(interface: Interface, policy: int) -> CallResult:
    """Who refuses a bad policy: KVM where the interface looks at the bit, else the firmware.

    A single socket is a limit that the firmware can keep, where KVM lets it through.
    """
    unknown = 0 if interface.policy_valid is None else policy & ~interface.policy_valid
    missing = interface.policy_required & ~policy
    if unknown or missing or policy & interface.policy_refused:
        return failed(errno.EINVAL)
    if policy == SMT | MBO | SINGLE_SOCKET:
        return OK
    return failed(errno.EIO, SevFwError.POLICY_FAILURE)


@pytest.mark.parametrize("policy", ACCEPTED.values(), ids=ACCEPTED)
def test_good_policy(initialised: Vm, policy: int) -> None:
    """A policy that the platform can honour is accepted."""
    assert start(initialised, policy) == OK


@pytest.mark.parametrize("policy", REFUSED.values(), ids=REFUSED)
def test_bad_policy(initialised: Vm, policy: int) -> None:
    """A policy that the platform cannot honour is refused, by KVM or by the firmware.

    A limit to one socket is kept by a machine of one socket, where KVM leaves that to the firmware.
    """
    assert start(initialised, policy) == refusal(initialised.interface, policy)


@pytest.mark.parametrize("bit", range(FIRST_RESERVED_BIT, 64, 5))
def test_reserved_policy_bits(initialised: Vm, bit: int) -> None:
    """A policy with a reserved bit set is refused."""
    policy = DEFAULT_POLICY | 1 << bit
    assert start(initialised, policy) == refusal(initialised.interface, policy)


@pytest.mark.needs("policy_valid")
def test_policy_bits_that_kvm_does_not_know(initialised: Vm) -> None:
    """KVM refuses every policy bit that it does not know, before the firmware is asked."""
    valid = policy_bits(initialised.host)
    for bit in range(64):
        if not valid >> bit & 1:
            policy = DEFAULT_POLICY | 1 << bit
            assert start(initialised, policy) == failed(errno.EINVAL), f"bit {bit}"
    assert start(initialised) == OK


@pytest.mark.needs("policy_bits_attribute")
def test_policy_bits_that_kvm_publishes(host: Host, initialised: Vm) -> None:
    """Every policy bit that /dev/kvm reports is one that KVM lets through to the firmware."""
    bits = policy_bits(initialised.host)
    assert bits & DEFAULT_POLICY == DEFAULT_POLICY
    for bit in range(16, 64):
        if bits >> bit & 1:
            with host.create_vm(initialised.type) as vm:
                vm.sev_init2()
                result = start(vm, DEFAULT_POLICY | 1 << bit)
                assert result.errno in (0, errno.EIO), f"bit {bit}"
                assert bool(result.errno) == bool(result.fw_error), f"bit {bit}: {result}"


def test_current_abi_version(initialised: Vm) -> None:
    """A policy may demand exactly the ABI version that the firmware has."""
    status = initialised.host.sev.platform_status()
    policy = DEFAULT_POLICY | status.api_major << 8 | status.api_minor
    assert start(initialised, policy) == OK


@pytest.mark.parametrize(("major", "minor"), [(0, 1), (1, 0)], ids=["minor", "major"])
def test_later_abi_version(initialised: Vm, major: int, minor: int) -> None:
    """The firmware refuses a policy that demands a later ABI version, and KVM lets one retry."""
    status = initialised.host.sev.platform_status()
    wanted = status.api_major + major << 8 | status.api_minor + minor
    refused = failed(errno.EIO, SevFwError.POLICY_FAILURE)
    assert start(initialised, DEFAULT_POLICY | wanted) == refused
    assert start(initialised) == OK


@pytest.mark.parametrize("policy", [MBO, SMT | MBO | SINGLE_SOCKET], ids=["SMT", "socket"])
def test_again_after_kvm_refused(initialised: Vm, policy: int) -> None:
    """A policy that KVM refuses leaves no context behind where KVM looks at it first.

    v12 makes the context before it looks, and every later start is refused.
    """
    refused = refusal(initialised.interface, policy)
    assert start(initialised, policy) == refused
    if refused != failed(errno.EINVAL):
        assert start(initialised) == (failed(errno.EINVAL) if refused == OK else OK)
        return
    good = initialised.interface.policy_checked_first
    assert start(initialised) == (OK if good else failed(errno.EINVAL))


@pytest.mark.parametrize("policy", [SMT | MBO, SMT | MBO | DEBUG], ids=["default", "debug"])
def test_policy_is_that_of_the_report(host: Host, policy: int) -> None:
    """The attestation report shows the policy that LAUNCH_START was given."""
    with launch_guest(host, start={"policy": policy}) as guest:
        assert report_of(guest).policy == policy


def test_gosvw_reaches_the_guest(host: Host) -> None:
    """The guest finds the host's OS visible workarounds in its secrets page."""
    gosvw = bytes(range(0xA0, 0xB0))
    with launch_guest(host, start={"gosvw": gosvw}) as guest:
        assert guest.cpu().read(layout.SECRETS_GPA + GOSVW_OFFSET, 16) == gosvw


def test_before_init2(vm: Vm) -> None:
    """LAUNCH_START before KVM_SEV_INIT2 is ENOTTY: the VM is no SNP guest yet."""
    assert start(vm) == failed(errno.ENOTTY)
    vm.sev_init2()
    assert start(vm) == OK


def test_twice(initialised: Vm) -> None:
    """A second LAUNCH_START is refused, and the launch begun by the first goes on."""
    add_private(initialised)
    assert start(initialised) == OK
    assert start(initialised) == failed(errno.EINVAL)
    assert start(initialised, 0) == failed(errno.EINVAL)
    assert update(initialised) == OK


@pytest.mark.needs("launch_flags")
def test_flags_must_be_zero(initialised: Vm) -> None:
    """Each of the 16 flags is refused, and the launch can begin afterwards."""
    for bit in range(16):
        assert start(initialised, flags=1 << bit) == failed(errno.EINVAL), f"flag {bit}"
    assert start(initialised) == OK


def test_unreadable_structure(initialised: Vm) -> None:
    """A structure that cannot be read is EFAULT and leaves no context behind."""
    command = initialised.interface.launch_start.id
    assert command_at(initialised, command, 0x1000) == failed(errno.EFAULT)
    assert start(initialised) == OK


def test_descriptor_that_is_not_dev_sev(initialised: Vm) -> None:
    """Without /dev/sev no context can be made (ENOTTY); with it the next start works."""
    for fd in (-1, initialised.fd, initialised.host.fd):
        assert start(initialised, sev_fd=fd) == failed(errno.ENOTTY)
    assert start(initialised) == OK


def test_firmware_counts_the_guest(initialised: Vm) -> None:
    """The firmware has one guest more from LAUNCH_START until the VM's end."""
    sev = initialised.host.sev
    before = sev.platform_status().guest_count
    assert start(initialised) == OK
    assert sev.platform_status().guest_count == before + 1
    initialised.close()
    assert sev.platform_status().guest_count == before
