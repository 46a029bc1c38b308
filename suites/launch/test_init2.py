# SPDX-License-Identifier: GPL-2.0-only
"""VM types and KVM_SEV_INIT2: what exists, what it takes, what it shuts out."""

from __future__ import annotations

import errno

import pytest

from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.vm.host import Host
from harness.vm.results import OK, failed
from harness.vm.vm import Vm
from suites.launch.launching import (
    command_at,
    init2,
    launch_guest,
    start,
    supported_features,
)

pytestmark = [
    pytest.mark.patches(6, 9),
    pytest.mark.areas("launch", "init2"),
    pytest.mark.needs("snp"),
]

GHCB_MSR_SEV_INFO_REQ = 2
LEGACY_COMMANDS = {
    name.removeprefix("KVM_SEV_").lower(): value
    for name, value in vars(sevapi).items()
    if name.startswith("KVM_SEV_")
    and type(value) is int
    and sevapi.KVM_SEV_LAUNCH_START <= value <= sevapi.KVM_SEV_SEND_CANCEL
    and not name.startswith("KVM_SEV_SNP_")
}
"""Commands of SEV and SEV-ES guests, without the initialisations."""


# -- types ---------------------------------------------------------------------------------


def test_snp_type_is_reported(host: Host) -> None:
    """KVM_CAP_VM_TYPES reports SNP beside the types it stands upon."""
    types = {uapi.KVM_X86_SEV_VM, uapi.KVM_X86_SEV_ES_VM, uapi.KVM_X86_SNP_VM}
    assert types <= host.vm_types


def test_snp_vm_offers_private_memory(host: Host, vm: Vm) -> None:
    """An SNP VM offers guest_memfd and the private attribute, a plain one no such attribute."""
    with host.create_vm(uapi.KVM_X86_DEFAULT_VM) as plain:
        assert not plain.extension(uapi.KVM_CAP_MEMORY_ATTRIBUTES)
    assert vm.extension(uapi.KVM_CAP_GUEST_MEMFD)
    attributes = vm.extension(uapi.KVM_CAP_MEMORY_ATTRIBUTES)
    assert attributes & uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE


# -- KVM_SEV_INIT2 -------------------------------------------------------------------------


def test_flags_must_be_zero(vm: Vm) -> None:
    """Each of the 32 flags is refused, and the VM can be initialised afterwards."""
    for bit in range(32):
        assert init2(vm, flags=1 << bit) == failed(errno.EINVAL), f"flag {bit}"
    assert init2(vm) == OK


def test_unsupported_vmsa_features_are_refused(vm: Vm) -> None:
    """Each vmsa_features bit that /dev/kvm does not report is refused, SNP_ACTIVE included."""
    supported = supported_features(vm.host)
    for bit in range(64):
        if not supported >> bit & 1:
            assert init2(vm, vmsa_features=1 << bit) == failed(errno.EINVAL), f"feature {bit}"
    assert init2(vm, vmsa_features=supported | 1) == failed(errno.EINVAL)
    assert init2(vm) == OK


def test_supported_vmsa_features_are_accepted(vm: Vm) -> None:
    """All vmsa_features that /dev/kvm reports are accepted together."""
    assert init2(vm, vmsa_features=supported_features(vm.host)) == OK


def test_plain_sev_takes_no_vmsa_features(host: Host) -> None:
    """A SEV guest without encrypted state has no VMSA, so no feature of one is accepted."""
    with host.create_vm(uapi.KVM_X86_SEV_VM) as vm:
        for bit in range(64):
            assert init2(vm, vmsa_features=1 << bit) == failed(errno.EINVAL), f"feature {bit}"


def test_unknown_device_attribute(host: Host) -> None:
    """/dev/kvm refuses attributes that it does not have with ENXIO."""
    group, _ = host.interface.vmsa_features_attribute
    for attribute in (7, 1 << 40):
        request = bytes(uapi.kvm_device_attr(group=group, attr=attribute))
        for ioctl in (uapi.KVM_HAS_DEVICE_ATTR, uapi.KVM_GET_DEVICE_ATTR):
            assert host.kernel.ioctl(host.fd, ioctl, request).errno == errno.ENXIO


@pytest.mark.needs("init2_ghcb_version")
@pytest.mark.parametrize("version", [0, 1, 2])
def test_known_ghcb_versions(vm: Vm, version: int) -> None:
    """GHCB versions 1 and 2, and 0 for the default, are accepted; 1 while SNP may have it."""
    refused = version == 1 and not vm.interface.ghcb_version_1
    assert init2(vm, ghcb_version=version) == (failed(errno.EINVAL) if refused else OK)


@pytest.mark.needs("init2_ghcb_version")
@pytest.mark.parametrize("version", [0, 1, 2])
def test_known_ghcb_versions_of_sev_es(host: Host, version: int) -> None:
    """A SEV-ES guest may have either version of the GHCB protocol, whatever SNP may have."""
    with host.create_vm(uapi.KVM_X86_SEV_ES_VM) as vm:
        assert init2(vm, ghcb_version=version) == OK


@pytest.mark.needs("init2_ghcb_version")
def test_unknown_ghcb_versions(vm: Vm) -> None:
    """GHCB versions beyond 2 are refused."""
    for version in (3, 4, 0x100, 0xFFFF):
        assert init2(vm, ghcb_version=version) == failed(errno.EINVAL), f"version {version}"
    assert init2(vm) == OK


@pytest.mark.needs("init2_ghcb_version")
def test_plain_sev_has_no_ghcb(host: Host) -> None:
    """A SEV guest without encrypted state takes no GHCB version."""
    with host.create_vm(uapi.KVM_X86_SEV_VM) as vm:
        assert init2(vm, ghcb_version=2) == failed(errno.EINVAL)


def test_guest_is_offered_ghcb_version_2(host: Host) -> None:
    """The guest is told version 2 as the highest of the GHCB protocol, and the C-bit's place."""
    with launch_guest(host) as guest:
        answer = guest.cpu().vmgexit_msr(GHCB_MSR_SEV_INFO_REQ).value
    assert answer & 0xFFF == 1
    assert answer >> 48 == 2
    assert answer >> 24 & 0xFF == host.cbit


def test_twice(initialised: Vm) -> None:
    """KVM_SEV_INIT2 on an initialised VM is refused, and the launch goes on."""
    expected = initialised.interface.legacy_command_errno or errno.EINVAL
    assert init2(initialised) == failed(expected)
    assert start(initialised) == OK


@pytest.mark.parametrize(
    "type", [uapi.KVM_X86_SEV_VM, uapi.KVM_X86_SEV_ES_VM], ids=["sev", "sev_es"]
)
def test_twice_on_other_types(host: Host, type: int) -> None:
    """A SEV guest is initialised once, too: INIT2 is one of the commands that it goes on taking."""
    with host.create_vm(type) as vm:
        assert init2(vm) == OK
        assert init2(vm) == failed(errno.EINVAL)


def test_after_a_vcpu_exists(vm: Vm) -> None:
    """KVM_SEV_INIT2 is refused once a vCPU was created."""
    vm.create_vcpu()
    assert init2(vm) == failed(errno.EINVAL)


def test_unreadable_structure(vm: Vm) -> None:
    """A structure that cannot be read is EFAULT and changes nothing."""
    assert command_at(vm, sevapi.KVM_SEV_INIT2, 0x1000) == failed(errno.EFAULT)
    assert init2(vm) == OK


@pytest.mark.parametrize("type", [uapi.KVM_X86_DEFAULT_VM, uapi.KVM_X86_SW_PROTECTED_VM])
def test_types_without_encryption(host: Host, type: int) -> None:
    """KVM_SEV_INIT2 is for VMs of an encrypted type only."""
    if type not in host.vm_types:
        pytest.skip("this kernel does not offer the VM type")
    with host.create_vm(type) as vm:
        assert init2(vm) == failed(errno.EINVAL)


def test_no_argument_probes_for_sev(vm: Vm) -> None:
    """KVM_MEMORY_ENCRYPT_OP without an argument says that SEV is there."""
    assert vm.kernel.ioctl(vm.fd, uapi.KVM_MEMORY_ENCRYPT_OP, 0).ok


# -- what an SNP VM shuts out --------------------------------------------------------------


@pytest.mark.parametrize("command", [sevapi.KVM_SEV_INIT, sevapi.KVM_SEV_ES_INIT])
def test_old_initialisations_before_init2(vm: Vm, command: int) -> None:
    """KVM_SEV_INIT and KVM_SEV_ES_INIT are refused on an SNP VM, which INIT2 still initialises."""
    result = vm.sev_call(command)
    assert result.outcome == failed(errno.EINVAL)
    assert init2(vm) == OK


@pytest.mark.parametrize("command", [sevapi.KVM_SEV_INIT, sevapi.KVM_SEV_ES_INIT])
def test_old_initialisations_after_init2(initialised: Vm, command: int) -> None:
    """KVM_SEV_INIT and KVM_SEV_ES_INIT are refused on an initialised SNP VM."""
    expected = initialised.interface.legacy_command_errno or errno.EINVAL
    result = initialised.sev_call(command)
    assert result.outcome == failed(expected)


@pytest.mark.parametrize("command", LEGACY_COMMANDS.values(), ids=LEGACY_COMMANDS)
def test_commands_of_sev_guests_before_start(initialised: Vm, command: int) -> None:
    """No command of SEV or SEV-ES guests succeeds on an initialised SNP VM, which stays usable."""
    result = initialised.sev_call(command, bytes(64))
    assert result.errno
    assert start(initialised) == OK


@pytest.mark.needs("legacy_command_errno")
@pytest.mark.parametrize("command", LEGACY_COMMANDS.values(), ids=LEGACY_COMMANDS)
def test_commands_of_sev_guests_never_reach_the_firmware(started: Vm, command: int) -> None:
    """KVM itself refuses the commands of SEV and SEV-ES guests on an SNP VM."""
    result = started.sev_call(command, bytes(64))
    assert result.errno == started.interface.legacy_command_errno
    assert result.fw_error == 0


@pytest.mark.parametrize("command", [200, 1000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_unknown_commands(initialised: Vm, command: int) -> None:
    """Command ids that nobody defined are EINVAL."""
    result = initialised.sev_call(command, bytes(64))
    assert result.outcome == failed(errno.EINVAL)


def test_snp_commands_on_other_guests(host: Host) -> None:
    """The SNP launch commands are refused on SEV and SEV-ES guests."""
    interface = host.interface
    for type in (uapi.KVM_X86_SEV_VM, uapi.KVM_X86_SEV_ES_VM):
        with host.create_vm(type) as vm:
            assert init2(vm) == OK
            assert start(vm) == failed(errno.ENOTTY)
            update = vm.sev_call(interface.launch_update.id, interface.launch_update.struct())
            assert update.errno == errno.EINVAL
            finish = vm.sev_call(interface.launch_finish.id, interface.launch_finish.struct())
            assert finish.errno == errno.ENOTTY
