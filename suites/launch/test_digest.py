# SPDX-License-Identifier: GPL-2.0-only
"""The launch digest: equal to what sev-snp-measure computes from the same pages and VMSAs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmsa import VMSA

from harness.uapi import kvm as uapi
from harness.uapi.interfaces import VmsaOrder
from harness.uapi.vmsa import SVM_SEV_FEAT_DEBUG_SWAP
from harness.vm import boot, launch_digest
from harness.vm.boot import LaunchPages
from harness.vm.host import Host
from harness.vm.results import OK
from harness.vm.system import System
from harness.vm.vcpu import Vcpu
from harness.vm.vm import Vm
from suites.launch.launching import (
    BASE,
    CPUID,
    NORMAL,
    PAGE,
    PAGE_TYPES,
    PAGES,
    SECRETS,
    UNMEASURED,
    ZERO,
    add_private,
    assert_measured,
    finish,
    id_fields,
    launch_guest,
    report_of,
    supported_features,
    update,
)

pytestmark = [
    pytest.mark.patches(11, 12),
    pytest.mark.areas("launch", "digest"),
    pytest.mark.needs("snp"),
]

MILAN = 0x00A00F11
"""CPUID 1 EAX of a processor, which is in RDX after a reset."""
AP_RESET = 0x0080B004
"""Where OVMF's table has an AP begin, for example."""

GENERAL = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"),
)


def need_debug_swap(host: System) -> None:
    """Skip where the host offers its guests no DebugSwap."""
    if not supported_features(host) & SVM_SEV_FEAT_DEBUG_SWAP:
        pytest.skip("the host offers no DebugSwap (KVM_X86_SEV_VMSA_FEATURES)")


def set_entry(vcpu: Vcpu, regs: uapi.kvm_regs, *, vmsa_features: int = 0) -> bytes:
    """Put a vCPU into 64-bit mode with these registers; the VMSA that must be measured."""
    # Long mode is for vCPUs whose CPUID has it.
    vcpu.set_cpuid(boot.vcpu_cpuid(vcpu.vm.host.supported_cpuid, vcpu.id))
    sregs = vcpu.get_sregs()
    boot.set_sregs(sregs)
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)
    cr4 = vcpu.vm.host.vmsa_cr4
    return launch_digest.vmsa_page(regs, sregs, vmsa_features=vmsa_features, host_cr4=cr4)


def set_reset(vcpu: Vcpu, eip: int, signature: int) -> None:
    """Put a vCPU into the state that QEMU resets it to; an AP starts at another address."""
    sregs = vcpu.get_sregs()
    sregs.cs = boot.segment(0xF000, 0xB, limit=0xFFFF, g=0)
    sregs.cs.base = eip & 0xFFFF0000
    for name in ("ds", "es", "fs", "gs", "ss"):
        setattr(sregs, name, boot.segment(0, 0x3, limit=0xFFFF, g=0))
    sregs.ldt = boot.segment(0, 0x2, limit=0xFFFF, s=0, g=0)
    sregs.tr = boot.segment(0, 0xB, limit=0xFFFF, s=0, g=0)
    sregs.gdt = sregs.idt = uapi.kvm_dtable(base=0, limit=0xFFFF)
    sregs.cr0, sregs.cr4, sregs.efer = 0x60000010, 0, 0
    vcpu.set_sregs(sregs)
    vcpu.set_regs(uapi.kvm_regs(rip=eip & 0xFFFF, rdx=signature, rflags=2))


def measured_order(vcpus: list[Vcpu], order: VmsaOrder) -> list[Vcpu]:
    """List vCPUs in the order in which their VMSAs are measured."""
    if order is VmsaOrder.BOOT_FIRST:
        return sorted(vcpus, key=lambda vcpu: vcpu.id != 0)
    return vcpus


# -- running guests ------------------------------------------------------------------------


@pytest.mark.parametrize("vcpus", [1, 2, 8])
def test_report_has_the_computed_digest(host: Host, vcpus: int) -> None:
    """The measurement in a guest's report equals an independent computation."""
    with launch_guest(host, vcpus=vcpus) as guest:
        assert report_of(guest).measurement == guest.expected_digest()


def test_vmsa_features_are_measured(host: Host) -> None:
    """A guest launched with DEBUG_SWAP has another digest, as computed."""
    need_debug_swap(host)
    with launch_guest(host) as plain:
        without = plain.expected_digest()
    with launch_guest(host, vmsa_features=SVM_SEV_FEAT_DEBUG_SWAP) as guest:
        measurement = report_of(guest).measurement
        assert measurement == guest.expected_digest()
    assert measurement != without


def test_same_launch_same_digest(host: Host) -> None:
    """Two launches of the same guest have one digest."""
    digests = set()
    for _ in range(2):
        with launch_guest(host, vcpus=2) as guest:
            digests.add(report_of(guest).measurement)
    assert len(digests) == 1


# -- pages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("type", PAGE_TYPES.values(), ids=PAGE_TYPES)
def test_each_page_type(started: Vm, type: int) -> None:
    """A page of every type goes into the digest with its type and GPA."""
    data = bytes(PAGE) if type == CPUID else b"\x99" * PAGE
    part = LaunchPages(BASE + 5 * PAGE, data, type)
    assert update(started, part.gpa, type, data=data) == OK
    assert_measured(started, launch_digest.launch_digest([part], []))


def test_empty_launch(started: Vm) -> None:
    """A launch without pages and vCPUs has a digest of zeros."""
    assert_measured(started, bytes(48))


def test_content_counts(started: Vm) -> None:
    """The digest of a normal page is that of its content, not of any other."""
    other = launch_digest.launch_digest([LaunchPages(BASE, b"\x01" + bytes(PAGE - 1), NORMAL)], [])
    update(started, BASE, NORMAL, data=bytes(PAGE))
    assert finish(started, **id_fields(other)) != OK
    assert_measured(
        started, launch_digest.launch_digest([LaunchPages(BASE, bytes(PAGE), NORMAL)], [])
    )


def test_order_counts(started: Vm) -> None:
    """Pages are measured in the order of the commands, not of their addresses."""
    parts = [LaunchPages(BASE + at * PAGE, bytes([at]) * PAGE, NORMAL) for at in (3, 0, 2)]
    for part in parts:
        assert update(started, part.gpa, part.type, data=part.data) == OK
    assert finish(started, **id_fields(launch_digest.launch_digest(parts[::-1], []))) != OK
    assert_measured(started, launch_digest.launch_digest(parts, []))


def test_one_command_or_many(started: Vm) -> None:
    """A range loaded by one command has the digest of its pages one by one."""
    data = b"".join(bytes([at]) * PAGE for at in range(4))
    started.launch_update(BASE, data)
    singly = [
        LaunchPages(BASE + at, data[at : at + PAGE], NORMAL) for at in range(0, len(data), PAGE)
    ]
    assert_measured(started, launch_digest.launch_digest(singly, []))


def test_any_sequence(started: Vm, rng: random.Random) -> None:
    """Any sequence of pages of all types has the computed digest."""
    parts: list[LaunchPages] = []
    gpas = [BASE + at * PAGE for at in range(PAGES)]
    rng.shuffle(gpas)
    for gpa in gpas:
        type = rng.choice([NORMAL, ZERO, UNMEASURED, SECRETS, CPUID])
        data = bytes(PAGE) if type == CPUID else rng.randbytes(PAGE)
        parts.append(LaunchPages(gpa, data, type))
        assert update(started, gpa, type, data=data) == OK
    assert_measured(started, launch_digest.launch_digest(parts, []))


def test_refused_pages_do_not_count(started: Vm) -> None:
    """Commands that were refused leave no trace in the digest."""
    part = LaunchPages(BASE, b"\x11" * PAGE, NORMAL)
    assert update(started, part.gpa, part.type, data=part.data) == OK
    update(started, BASE, ZERO, source=0, length=PAGE)
    update(started, BASE + PAGE, CPUID, data=b"\xff" * PAGE)
    update(started, BASE + PAGE, 7)
    update(started, BASE + PAGE, source=0x1000, length=PAGE)
    update(started, BASE + PAGES * PAGE)
    started.set_memory_attributes(BASE + PAGE, PAGE, private=False)
    assert update(started, BASE + PAGE) != OK
    assert_measured(started, launch_digest.launch_digest([part], []))


# -- VMSAs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 8])
def test_every_vmsa_is_measured(started: Vm, count: int) -> None:
    """Each vCPU's VMSA is measured once, with the registers that userspace gave it."""
    vmsas = []
    for number in range(count):
        regs = uapi.kvm_regs(rip=0x1000 * number + 0x10, rbx=number, rflags=2)
        vmsas.append(set_entry(started.create_vcpu(), regs))
    assert_measured(started, launch_digest.launch_digest([], vmsas))


def test_every_general_register_is_measured(started: Vm, rng: random.Random) -> None:
    """All general registers and RIP go into the VMSA."""
    regs = uapi.kvm_regs(rflags=0x2)
    for name in GENERAL:
        setattr(regs, name, rng.getrandbits(64))
    vmsa = set_entry(started.create_vcpu(), regs)
    assert_measured(started, launch_digest.launch_digest([], [vmsa]))


@pytest.mark.parametrize("name", GENERAL)
def test_one_register_changes_the_digest(started: Vm, name: str) -> None:
    """A launch with another value in one register has another digest."""
    vcpu = started.create_vcpu()
    regs = uapi.kvm_regs(rflags=2)
    plain = set_entry(vcpu, regs)
    setattr(regs, name, 1)
    changed = set_entry(vcpu, regs)
    assert changed != plain
    assert_measured(started, launch_digest.launch_digest([], [changed]))


def test_system_registers_are_measured(started: Vm) -> None:
    """Segments, descriptor tables and CR3 go into the VMSA."""
    vcpu = started.create_vcpu()
    regs = uapi.kvm_regs(rflags=2)
    set_entry(vcpu, regs)
    sregs = vcpu.get_sregs()
    sregs.fs.base, sregs.gs.base = 0x1234000, 0x5678000
    sregs.gdt.base, sregs.gdt.limit = 0x7000, 0x27
    sregs.idt.base, sregs.idt.limit = 0x8000, 0xFFF
    sregs.cr3 = 0x9000
    vcpu.set_sregs(sregs)
    vmsa = launch_digest.vmsa_page(regs, sregs, host_cr4=started.host.vmsa_cr4)
    assert_measured(started, launch_digest.launch_digest([], [vmsa]))


@pytest.mark.needs("machine_checks")
@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_reset_state_is_what_sev_snp_measure_expects(started: Vm, vcpus: int) -> None:
    """A vCPU as QEMU resets it has the VMSA of sev-snp-measure, CR4.MCE of the host included."""
    for number in range(vcpus):
        set_reset(started.create_vcpu(), AP_RESET if number else VMSA.BSP_EIP, MILAN)
    expected = VMSA(SevMode.SEV_SNP, AP_RESET, MILAN, launch_digest.SNP_ACTIVE)
    assert_measured(started, launch_digest.launch_digest([], expected.pages(vcpus)))


@pytest.mark.parametrize("cr4", [0x620, 0x660], ids=["off", "on"])
def test_machine_checks_are_the_hosts(started: Vm, cr4: int) -> None:
    """CR4.MCE of the VMSA is the host's, where userspace leaves it off, and else on."""
    vcpu = started.create_vcpu()
    regs = uapi.kvm_regs(rflags=2)
    set_entry(vcpu, regs)
    sregs = vcpu.get_sregs()
    sregs.cr4 = cr4
    vcpu.set_sregs(sregs)
    vmsa = launch_digest.vmsa_page(regs, sregs, host_cr4=started.host.vmsa_cr4)
    assert_measured(started, launch_digest.launch_digest([], [vmsa]))


def test_no_machine_checks(boot: Callable[..., Host]) -> None:
    """On a host that handles no machine checks, CR4.MCE is as userspace sets it."""
    host = boot(machine_checks=False)
    assert not host.machine_checks
    with host.create_vm(uapi.KVM_X86_SNP_VM) as vm:
        vm.sev_init2()
        vm.launch_start()
        vcpu = vm.create_vcpu()
        set_reset(vcpu, VMSA.BSP_EIP, MILAN)
        area: Any = VMSA.build_save_area(VMSA.BSP_EIP, launch_digest.SNP_ACTIVE, MILAN)
        area.cr4 = 0
        assert_measured(vm, launch_digest.launch_digest([], [bytes(area)]))


def test_cr2_is_not_measured(started: Vm) -> None:
    """CR2 reaches the VMCB only when a vCPU is entered; it is zero in the measured VMSA."""
    vcpu = started.create_vcpu()
    regs = uapi.kvm_regs(rflags=2)
    vmsa = set_entry(vcpu, regs)
    sregs = vcpu.get_sregs()
    sregs.cr2 = 0xDEAD000
    vcpu.set_sregs(sregs)
    assert_measured(started, launch_digest.launch_digest([], [vmsa]))


@pytest.mark.parametrize("ids", [(1, 0), (2, 1, 0), (0, 5, 3), (3, 0, 7, 1)], ids=str)
def test_order_of_vmsas(started: Vm, ids: tuple[int, ...]) -> None:
    """VMSAs are measured in the interface's order, whatever the ids."""
    vmsas: dict[int, bytes] = {}
    for id in ids:
        regs = uapi.kvm_regs(rip=0x1000 + id, rflags=2)
        vmsas[id] = set_entry(started.create_vcpu(id), regs)
    order = measured_order(started.vcpus, started.interface.vmsa_order)
    digest = launch_digest.launch_digest([], [vmsas[vcpu.id] for vcpu in order])
    assert_measured(started, digest)


def test_features_in_every_vmsa(vm: Vm) -> None:
    """SEV_FEATURES of INIT2, and SNP_ACTIVE, are in the VMSA of every vCPU."""
    need_debug_swap(vm.host)
    vm.sev_init2(vmsa_features=SVM_SEV_FEAT_DEBUG_SWAP)
    add_private(vm)
    vm.launch_start()
    vmsas = [
        set_entry(
            vm.create_vcpu(),
            uapi.kvm_regs(rip=number, rflags=2),
            vmsa_features=SVM_SEV_FEAT_DEBUG_SWAP,
        )
        for number in range(2)
    ]
    assert_measured(vm, launch_digest.launch_digest([], vmsas))


def test_registers_count_at_finish(started: Vm) -> None:
    """What is measured is the state at LAUNCH_FINISH, also for a vCPU made before LAUNCH_START."""
    vcpu = started.create_vcpu()
    set_entry(vcpu, uapi.kvm_regs(rip=1, rflags=2))
    started.launch_update(BASE, bytes(PAGE))
    last = set_entry(vcpu, uapi.kvm_regs(rip=2, rflags=2))
    pages = [LaunchPages(BASE, bytes(PAGE), NORMAL)]
    assert_measured(started, launch_digest.launch_digest(pages, [last]))
