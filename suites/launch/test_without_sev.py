# SPDX-License-Identifier: GPL-2.0-only
"""A host without SEV: encrypted VMs and their commands are refused, the others work."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.vm import Vm

pytestmark = [
    pytest.mark.patches(9, 25),
    pytest.mark.areas("launch", "host without SEV"),
]

ENCRYPTED = {
    "sev": uapi.KVM_X86_SEV_VM,
    "sev_es": uapi.KVM_X86_SEV_ES_VM,
    "sev_snp": uapi.KVM_X86_SNP_VM,
}
PLAIN = {"default": uapi.KVM_X86_DEFAULT_VM, "sw_protected": uapi.KVM_X86_SW_PROTECTED_VM}
COMMANDS = ("KVM_SEV_INIT", "KVM_SEV_ES_INIT", "KVM_SEV_INIT2", "start", "update", "finish")
CPUID_SEV = 0x8000001F
UNTOUCHED = 0x5A5A
"""What the field `error` holds before a command."""


@pytest.fixture
def plain(host: Host, request: pytest.FixtureRequest) -> Host:
    """A host without SEV: the one under test, or one like it that is booted with SEV off."""
    if host.vm_types & set(ENCRYPTED.values()):
        booted: Host = request.getfixturevalue("boot")(sev=False)
        return booted
    return host


@pytest.fixture(params=PLAIN)
def vm(plain: Host, request: pytest.FixtureRequest) -> Iterator[Vm]:
    """A VM of each unencrypted type on it."""
    kind = PLAIN[request.param]
    if kind not in plain.vm_types:
        pytest.skip(f"no VM type {request.param}: kernel without CONFIG_KVM_SW_PROTECTED_VM")
    with plain.create_vm(kind) as made:
        yield made


def command_id(vm: Vm, name: str) -> int:
    """The id of a command; those of the SNP launch differ between interfaces."""
    interface = vm.interface
    launch = {
        "start": interface.launch_start,
        "update": interface.launch_update,
        "finish": interface.launch_finish,
    }
    return launch[name].id if name in launch else int(getattr(sevapi, name))


@pytest.mark.parametrize("name", ENCRYPTED)
def test_no_encrypted_type(plain: Host, name: str) -> None:
    """An encrypted VM type is not reported, cannot be created, and its parameter is off."""
    type = ENCRYPTED[name]
    assert type not in plain.vm_types
    assert plain.kernel.ioctl(plain.fd, uapi.KVM_CREATE_VM, type).errno == errno.EINVAL
    assert plain.parameter(name) in ("N", "0", None)


def test_no_encryption_in_cpuid(plain: Host) -> None:
    """KVM_GET_SUPPORTED_CPUID offers a guest nothing of the leaf about memory encryption."""
    for entry in plain.supported_cpuid:
        if entry.function == CPUID_SEV:
            assert (entry.eax, entry.ebx, entry.ecx, entry.edx) == (0, 0, 0, 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(vm: Vm, command: str) -> None:
    """Every SEV command is ENOTTY, and the caller's structure is left as it was."""
    request = bytes(sevapi.kvm_sev_cmd(id=command_id(vm, command), error=UNTOUCHED, sev_fd=1 << 30))
    result = vm.kernel.ioctl(vm.fd, uapi.KVM_MEMORY_ENCRYPT_OP, request)
    assert result.errno == errno.ENOTTY
    assert result.data == request


def test_no_argument(vm: Vm) -> None:
    """KVM_MEMORY_ENCRYPT_OP without an argument, which asks for SEV, says that it is not there."""
    assert vm.kernel.ioctl(vm.fd, uapi.KVM_MEMORY_ENCRYPT_OP, 0).errno == errno.ENOTTY


def test_unreadable_command(vm: Vm) -> None:
    """A command that cannot be read is ENOTTY like any other: SEV is looked for first."""
    assert vm.kernel.ioctl(vm.fd, uapi.KVM_MEMORY_ENCRYPT_OP, 0x1000).errno == errno.ENOTTY


@pytest.mark.parametrize(
    "request_number",
    [uapi.KVM_MEMORY_ENCRYPT_REG_REGION, uapi.KVM_MEMORY_ENCRYPT_UNREG_REGION],
    ids=["register", "unregister"],
)
def test_regions(vm: Vm, request_number: int) -> None:
    """Memory regions are registered for encrypted VMs only; for others it is ENOTTY."""
    region = bytes(uapi.kvm_enc_region(addr=vm.scratch(), size=4096))
    assert vm.kernel.ioctl(vm.fd, request_number, region).errno == errno.ENOTTY


@pytest.mark.parametrize(
    "cap",
    [uapi.KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, uapi.KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM],
    ids=["copy", "move"],
)
def test_contexts_of_other_vms(plain: Host, vm: Vm, cap: int) -> None:
    """A VM without an encryption context cannot give it away: EINVAL."""
    with plain.create_vm(vm.type) as source:
        request = uapi.kvm_enable_cap(cap=cap)
        request.args[0] = source.fd
        answer = vm.kernel.ioctl(vm.fd, uapi.KVM_ENABLE_CAP, bytes(request))
        assert answer.errno == errno.EINVAL


def test_refusals_leave_the_vm_usable(vm: Vm) -> None:
    """After refused commands a guest is put into the same VM, boots and works."""
    for name in COMMANDS:
        request = bytes(sevapi.kvm_sev_cmd(id=command_id(vm, name)))
        assert not vm.kernel.ioctl(vm.fd, uapi.KVM_MEMORY_ENCRYPT_OP, request).ok
    guest = Guest.of(vm)
    guest.add_memory()
    cpu = guest.add_vcpu()
    guest.load()
    cpu.boot()
    cpu.store(0x400000, 0x600D, private=False).check()
    assert vm.read_gpa(0x400000, 8) == (0x600D).to_bytes(8, "little")
    if guest.has_private_memory:
        cpu.make_private(0x400000, 4096)
        assert cpu.load(0x400000).check().value == 0
