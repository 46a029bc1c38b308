# SPDX-License-Identifier: GPL-2.0-only
"""VM types on any host: which are reported, which can be created, and what each of them is."""

from __future__ import annotations

import errno

import pytest

from harness.operations import Ioctl
from harness.uapi import kvm as uapi
from harness.vm.guest import LOW_MEMORY, Guest
from harness.vm.host import Host
from suites.launch.launching import PAGE

pytestmark = [
    pytest.mark.patches(6, 9),
    pytest.mark.areas("launch", "VM types"),
]

ON = ("Y", "1")
CPUID_SEV = 0x8000001F
"""Leaf whose EAX has SEV in bit 1, SEV-ES in bit 3, SEV-SNP in bit 4 (APM volume 3)."""
PLAIN = {"default": uapi.KVM_X86_DEFAULT_VM, "sw_protected": uapi.KVM_X86_SW_PROTECTED_VM}


@pytest.fixture(params=PLAIN)
def plain_type(host: Host, request: pytest.FixtureRequest) -> int:
    """Each VM type whose state is not protected, where the host has it."""
    wanted = PLAIN[request.param]
    if wanted not in host.vm_types:
        pytest.skip(f"no VM type {request.param}: kernel without CONFIG_KVM_SW_PROTECTED_VM")
    return wanted


def created(host: Host, type: int) -> int:
    """The errno of KVM_CREATE_VM, 0 where it made a VM."""
    made = host.kernel.ioctl(host.fd, uapi.KVM_CREATE_VM, type)
    if made.ok:
        host.kernel.close(made.value)
    return made.errno


def boots(guest: Guest) -> None:
    """Every vCPU starts, answers, and says which one it is."""
    for cpu in guest.cpus:
        cpu.boot()
    for number, cpu in enumerate(guest.cpus):
        assert cpu.cpuid(1)[1] >> 24 == number
        assert cpu.vcpu.id == number


@pytest.mark.parametrize("type", [*range(6), 31])
def test_types_reported_are_those_that_can_be_created(host: Host, type: int) -> None:
    """A VM of a type can be created exactly where KVM_CAP_VM_TYPES reports the type."""
    assert created(host, type) == (0 if type in host.vm_types else errno.EINVAL)


@pytest.mark.parametrize("base", [32, 64, 1 << 31, 1 << 32])
def test_types_beyond_those_that_can_be_reported(host: Host, base: int) -> None:
    """A number that is a known type only in its low bits is refused."""
    for type in range(6):
        assert created(host, base + type) == errno.EINVAL, f"type {base + type:#x}"


def test_the_default_type_is_always_there(host: Host) -> None:
    """KVM_X86_DEFAULT_VM is reported, and nothing that 32 bits cannot hold."""
    mask = host.extension(uapi.KVM_CAP_VM_TYPES)
    assert mask & 1 << uapi.KVM_X86_DEFAULT_VM
    assert mask < 1 << 32


def test_a_vm_reports_the_same_types(host: Host) -> None:
    """KVM_CHECK_EXTENSION of a VM reports the VM types that /dev/kvm reports."""
    for type in sorted(host.vm_types):
        with host.create_vm(type) as vm:
            mask = vm.extension(uapi.KVM_CAP_VM_TYPES)
            assert mask == host.extension(uapi.KVM_CAP_VM_TYPES), f"VM of type {type}"


def test_parameters_and_vm_types_agree(host: Host) -> None:
    """KVM_CAP_VM_TYPES reports SEV, SEV-ES and SNP exactly where their parameter is on."""
    for name, type in (
        ("sev", uapi.KVM_X86_SEV_VM),
        ("sev_es", uapi.KVM_X86_SEV_ES_VM),
        ("sev_snp", uapi.KVM_X86_SNP_VM),
    ):
        assert (type in host.vm_types) == (host.parameter(name) in ON), name


def test_cpuid_and_vm_types_agree(host: Host) -> None:
    """KVM_GET_SUPPORTED_CPUID has the bits of SEV, SEV-ES and SNP where there are such VMs."""
    leaves = [each.eax for each in host.supported_cpuid if each.function == CPUID_SEV]
    bits = leaves[0] if leaves else 0
    for bit, type in (
        (1, uapi.KVM_X86_SEV_VM),
        (3, uapi.KVM_X86_SEV_ES_VM),
        (4, uapi.KVM_X86_SNP_VM),
    ):
        assert bool(bits >> bit & 1) == (type in host.vm_types), f"bit {bit}, VM type {type}"


@pytest.mark.needs("sw_protected")
def test_private_memory_of_the_type(host: Host) -> None:
    """KVM_X86_SW_PROTECTED_VM offers guest_memfd and the private attribute."""
    with host.create_vm(uapi.KVM_X86_SW_PROTECTED_VM) as vm:
        assert vm.extension(uapi.KVM_CAP_GUEST_MEMFD)
        private = uapi.KVM_MEMORY_ATTRIBUTE_PRIVATE
        assert vm.extension(uapi.KVM_CAP_MEMORY_ATTRIBUTES) == private
        vm.set_memory_attributes(0, PAGE, private=True)


def test_vcpus_without_protection(host: Host, plain_type: int) -> None:
    """Before and after it ran, the registers of an unprotected vCPU can be read and written."""
    with Guest.launch(host, vm_type=plain_type) as guest:
        vcpu = guest.cpu().vcpu
        before = vcpu.get_regs()
        guest.cpu().boot()
        after = vcpu.get_regs()
        assert before.rip == guest.image.entry
        assert after.rip != guest.image.entry
        after.r15 = 0x1234_5678_9ABC_DEF0
        vcpu.set_regs(after)
        assert vcpu.get_regs().r15 == after.r15


@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_guest_boots(host: Host, plain_type: int, vcpus: int) -> None:
    """A guest of each unprotected type boots with any number of vCPUs."""
    with Guest.launch(host, vm_type=plain_type, vcpus=vcpus) as guest:
        boots(guest)


def test_memory_above_4_gib(host: Host, plain_type: int) -> None:
    """A guest with memory above 4 GiB has it, shared and, where the type can, private."""
    above = 4 << 30
    with Guest.launch(host, vm_type=plain_type, memory=LOW_MEMORY + (16 << 20)) as guest:
        cpu = guest.cpu()
        cpu.boot()
        cpu.store(above + PAGE, 0x77, private=False).check()
        assert guest.vm.read_gpa(above + PAGE, 8) == (0x77).to_bytes(8, "little")
        if guest.has_private_memory:
            cpu.make_private(above + PAGE, PAGE)
            assert cpu.load(above + PAGE).check().value == 0
            cpu.store(above + PAGE, 0x88).check()
            assert guest.vm.read_gpa(above + PAGE, 8) == (0x77).to_bytes(8, "little")


def test_guests_side_by_side(host: Host, plain_type: int) -> None:
    """Three guests of one type run side by side, each with memory of its own."""
    guests: list[Guest] = []
    try:
        for number in range(3):
            guests.append(Guest.launch(host, vm_type=plain_type))
            boots(guests[-1])
            guests[-1].cpu().store(0x400000, number + 1, private=False).check()
        for number, guest in enumerate(guests):
            assert guest.cpu().load(0x400000, private=False).check().value == number + 1
    finally:
        for guest in guests:
            guest.close()


def test_vm_ends_while_its_vcpu_runs(host: Host, plain_type: int) -> None:
    """A VM whose vCPU runs in a loop can be closed, and the next one is as good as the first."""
    for _ in range(3):
        with Guest.launch(host, vm_type=plain_type) as guest:
            cpu = guest.cpu()
            cpu.boot()
            cpu.start(cpu.store_loop(0x400000, 1 << 40, stride=8, span=8, private=False))


def test_vcpu_ids(host: Host, plain_type: int) -> None:
    """A vCPU id is given once: the second KVM_CREATE_VCPU is EEXIST, a far too large one EINVAL."""
    with host.create_vm(plain_type) as vm:
        vm.create_vcpu(3)
        for id, code in ((3, errno.EEXIST), (1 << 20, errno.EINVAL)):
            assert vm.kernel.call(Ioctl(vm.fd, uapi.KVM_CREATE_VCPU, id)).errno == code
        vm.create_vcpu(0)
