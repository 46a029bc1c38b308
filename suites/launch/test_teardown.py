# SPDX-License-Identifier: GPL-2.0-only
"""The end of a VM: at every stage of its launch it gives back pages, context and ASID."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from harness.inspector import NO_PAGE
from harness.uapi import kvm as uapi
from harness.uapi import sev as sevapi
from harness.uapi.errors import SevFwError
from harness.vm.host import Host
from harness.vm.results import OK, failed
from harness.vm.vm import Vm
from suites.launch.launching import (
    BASE,
    CPUID,
    PAGE,
    PAGES,
    ZERO,
    add_private,
    finish,
    init2,
    launch_guest,
    raw_finish,
    report_of,
    start,
    update,
)

pytestmark = [
    pytest.mark.patches(10, 11, 12, 22),
    pytest.mark.areas("launch", "teardown"),
    pytest.mark.needs("snp"),
]


@dataclass
class Balance:
    """What guests hold in a host, to be compared with what they held before."""

    host: Host
    before: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.before = self.now()

    def now(self) -> dict[str, int]:
        """What guests hold now: by the firmware's count, and by the RMP where it can be seen."""
        held = {"guests": int(self.host.sev.platform_status().guest_count)}
        inspector = self.host.kernel.inspector
        if inspector is not None:
            counters = inspector.counters()
            held |= {name: counters.get(name, 0) for name in ("asids", "leaked_pages", "vms")}
            held["pages"] = inspector.assigned_pages()
            held["firmware"] = inspector.firmware_pages() or 0
        return held

    def check(self) -> None:
        """All of it was given back."""
        assert self.now() == self.before


STAGES: dict[str, Callable[[Vm], object]] = {
    "created": lambda vm: None,
    "init2": lambda vm: vm.sev_init2(),
    "memory": add_private,
    "vcpus": lambda vm: [vm.create_vcpu() for _ in range(2)],
    "start": lambda vm: vm.launch_start(),
    "update": lambda vm: vm.launch_update(BASE, bytes(4 * PAGE)),
    "zero pages": lambda vm: vm.launch_update(BASE + 4 * PAGE, 0, ZERO, length=8 * PAGE),
    "finish": lambda vm: vm.launch_finish(),
    "pages after it": lambda vm: update(vm, BASE + 14 * PAGE),
}


def bring_to(vm: Vm, stage: str) -> None:
    """Do all steps up to a stage."""
    for name, step in STAGES.items():
        step(vm)
        if name == stage:
            return


def close_vm_first(vm: Vm) -> None:
    """The VM's descriptor, then its vCPUs, then its memory."""
    vm.close_file()
    for vcpu in vm.vcpus:
        vcpu.close()
    for gmem in vm.gmems:
        gmem.close()


def close_memory_first(vm: Vm) -> None:
    """The memory while the VM still uses it."""
    for gmem in vm.gmems:
        gmem.close()
    for vcpu in vm.vcpus:
        vcpu.close()
    vm.close_file()


def close_vcpus_last(vm: Vm) -> None:
    """A vCPU keeps the VM alive."""
    for gmem in vm.gmems:
        gmem.close()
    vm.close_file()
    for vcpu in reversed(vm.vcpus):
        vcpu.close()


ORDERS = {"vm": close_vm_first, "memory": close_memory_first, "vcpus": close_vcpus_last}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage(host: Host, stage: str) -> None:
    """A VM closed at any stage of its launch leaves no page, context or ASID behind."""
    balance = Balance(host)
    with host.create_vm(uapi.KVM_X86_SNP_VM) as vm:
        bring_to(vm, stage)
    balance.check()


@pytest.mark.parametrize("close", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("stage", ["update", "finish"])
def test_every_order(host: Host, stage: str, close: Callable[[Vm], None]) -> None:
    """Whichever of VM, vCPUs and memory is closed first, nothing stays behind."""
    balance = Balance(host)
    vm = host.create_vm(uapi.KVM_X86_SNP_VM)
    bring_to(vm, stage)
    close(vm)
    balance.check()


@pytest.mark.needs("inspector")
def test_a_launch_holds_what_it_should(host: Host) -> None:
    """While a guest lives, its pages, VMSAs, ASID and context are accounted for."""
    balance = Balance(host)
    with host.create_vm(uapi.KVM_X86_SNP_VM) as vm:
        bring_to(vm, "finish")
        now = balance.now()
    assert now["pages"] - balance.before["pages"] == 12 + 2
    assert now["asids"] - balance.before["asids"] == 1
    assert now["guests"] - balance.before["guests"] == 1


@pytest.mark.parametrize("vcpus", [1, 4])
def test_guest_that_ran(host: Host, vcpus: int) -> None:
    """A guest that ran and asked the firmware leaves nothing behind."""
    balance = Balance(host)
    with launch_guest(host, vcpus=vcpus) as guest:
        for index in range(vcpus):
            guest.cpu(index).boot()
        report_of(guest)
    balance.check()


@pytest.mark.needs("inspector")
def test_memory_that_outlives_its_vm(host: Host) -> None:
    """An open guest_memfd keeps the guest's pages, context and ASID; closing it frees them all."""
    balance = Balance(host)
    vm = host.create_vm(uapi.KVM_X86_SNP_VM)
    bring_to(vm, "finish")
    held = balance.now()
    vm.close_file()
    for vcpu in vm.vcpus:
        vcpu.close()
    assert balance.now() == held
    for gmem in vm.gmems:
        gmem.close()
    balance.check()


@pytest.mark.needs("inspector")
def test_memory_is_the_hosts_again(started: Vm) -> None:
    """A page punched out of a guest under launch can be loaded anew."""
    gmem = started.gmems[0]
    inspector = started.kernel.inspector
    assert inspector is not None
    assert update(started, data=b"\x42" * PAGE) == OK
    gmem.punch_hole(0, PAGE)
    assert inspector.gmem_rmp(gmem.fd, 0) == NO_PAGE
    assert update(started) == OK


# -- after failures ------------------------------------------------------------------------


def _refused_start(vm: Vm) -> None:
    assert start(vm, 0) != OK


def _start_the_firmware_refuses(vm: Vm) -> None:
    status = vm.host.sev.platform_status()
    too_late = (status.api_major + 1) << 8
    policy = sevapi.SNP_POLICY_MASK_SMT | sevapi.SNP_POLICY_MASK_RSVD_MBO | too_late
    assert start(vm, policy) == failed(errno.EIO, SevFwError.POLICY_FAILURE)


def _start_without_device(vm: Vm) -> None:
    assert start(vm, sev_fd=-1) != OK


def _refused_cpuid_page(vm: Vm) -> None:
    vm.launch_start()
    assert update(vm, BASE, CPUID, data=b"\xff" * PAGE) != OK


def _update_without_device(vm: Vm) -> None:
    vm.launch_start()
    assert update(vm, sev_fd=-1) != OK


def _refused_id_block(vm: Vm) -> None:
    vm.launch_start()
    assert update(vm) == OK
    blank = vm.stage(bytes(2 * PAGE))
    assert raw_finish(vm, id_block_en=1, id_block_uaddr=blank, id_auth_uaddr=blank + PAGE) != OK


def _finish_twice(vm: Vm) -> None:
    vm.launch_start()
    assert finish(vm) == OK
    assert finish(vm) != OK


FAILURES = {
    "policy refused by KVM": _refused_start,
    "policy refused by the firmware": _start_the_firmware_refuses,
    "start without /dev/sev": _start_without_device,
    "CPUID page refused": _refused_cpuid_page,
    "update without /dev/sev": _update_without_device,
    "ID block refused": _refused_id_block,
    "finished twice": _finish_twice,
}


def fail_a_launch(host: Host, fail: Callable[[Vm], None]) -> None:
    """Make a VM, have its launch fail, and end it."""
    with host.create_vm(uapi.KVM_X86_SNP_VM) as vm:
        vm.sev_init2()
        add_private(vm)
        vm.create_vcpu()
        fail(vm)


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
def test_after_a_failure(host: Host, fail: Callable[[Vm], None]) -> None:
    """A VM whose launch failed leaves nothing behind."""
    balance = Balance(host)
    fail_a_launch(host, fail)
    balance.check()


@pytest.mark.parametrize("fields", [{"flags": 1}, {"vmsa_features": 1 << 63}], ids=str)
def test_refused_init2(host: Host, fields: dict[str, int]) -> None:
    """A KVM_SEV_INIT2 that is refused takes no ASID."""
    balance = Balance(host)
    with host.create_vm(uapi.KVM_X86_SNP_VM) as vm:
        assert init2(vm, **fields).errno == errno.EINVAL
        held = balance.now()
        assert held.get("asids") == balance.before.get("asids")
    balance.check()


# -- ASIDs ---------------------------------------------------------------------------------


def test_more_vms_in_turn_than_asids(boot: Callable[..., Host]) -> None:
    """With three ASIDs ten guests can be launched in turn: freed ASIDs are used again."""
    host = boot(asids=3)
    balance = Balance(host)
    for number in range(10):
        with host.create_vm(uapi.KVM_X86_SNP_VM) as vm:
            bring_to(vm, "finish")
            assert host.sev.platform_status().guest_count == 1, f"guest {number}"
    balance.check()


def test_more_vms_at_once_than_asids(boot: Callable[..., Host]) -> None:
    """The guest that finds no ASID free is EBUSY, and gets one as soon as another has ended."""
    host = boot(asids=3)
    vms = [host.create_vm(uapi.KVM_X86_SNP_VM) for _ in range(4)]
    assert [init2(vm) for vm in vms] == [OK] * 3 + [failed(errno.EBUSY)]
    vms[1].close()
    assert init2(vms[3]) == OK
    assert start(vms[3]) == OK
    for vm in vms:
        vm.close()
    assert host.sev.platform_status().guest_count == 0


@pytest.mark.needs("inspector")
def test_asids_are_flushed_before_they_are_used_again(boot: Callable[..., Host]) -> None:
    """Caches are flushed before an ASID of one guest becomes that of another."""
    host = boot(asids=3)
    inspector = host.kernel.inspector
    assert inspector is not None
    flushes = []
    for _ in range(11):
        before = inspector.counters()["wbinvd"]
        with host.create_vm(uapi.KVM_X86_SNP_VM) as vm:
            assert init2(vm) == OK
            assert start(vm) == OK
            flushes.append(inspector.counters()["wbinvd"] - before)
    once = max(flushes)  # on each CPU
    assert once > 0
    first = flushes.index(once)  # earlier than the fourth where ASIDs had been used before
    assert first <= 3
    period = ([0] * first + [once, 0, 0] * 4)[: len(flushes)]
    assert flushes == period, "one flush for each pool of used ASIDs"


@pytest.mark.needs("inspector")
@pytest.mark.parametrize("vcpus", [0, 3])
def test_end_flushes_caches(host: Host, vcpus: int) -> None:
    """The end of a guest flushes each VMSA that it had, and until Linux 6.17 all caches."""
    inspector = host.kernel.inspector
    assert inspector is not None
    vm = host.create_vm(uapi.KVM_X86_SNP_VM)
    vm.sev_init2()
    for _ in range(vcpus):
        vm.create_vcpu()
    vm.launch_start()
    vm.launch_finish()
    before = inspector.counters()
    vm.close()
    after = inspector.counters()
    assert (after["wbinvd"] > before["wbinvd"]) == vm.interface.end_flushes_caches
    pages = [each.get("clflush", 0) + each.get("page_flush", 0) for each in (before, after)]
    assert pages[1] - pages[0] >= vcpus
    assert bool(vcpus) == (pages[1] > pages[0])


def test_pages_of_many_guests(host: Host) -> None:
    """Guests that come and go in no order leave nothing behind, and disturb none that stays."""
    balance = Balance(host)
    staying = host.create_vm(uapi.KVM_X86_SNP_VM)
    bring_to(staying, "update")
    others = [host.create_vm(uapi.KVM_X86_SNP_VM) for _ in range(len(STAGES))]
    for vm, stage in zip(others, STAGES, strict=True):
        bring_to(vm, stage)
    for vm in [*others[1::2], *others[0::2]]:
        vm.close()
    assert update(staying, BASE + (PAGES - 1) * PAGE) == OK
    assert finish(staying) == OK
    staying.close()
    balance.check()
