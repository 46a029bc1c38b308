# SPDX-License-Identifier: GPL-2.0-only
"""RMP faults, pre-faulting, and holes punched under a running guest."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest

from harness.inspector import Inspector, RmpSize
from harness.uapi import kvm as uapi
from harness.uapi.sev import PVALIDATE_FAIL_SIZEMISMATCH
from harness.vm.exits import InterruptedExit
from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.mailbox import Command, Op
from harness.vm.psc import PscRequest
from suites.gmem.memory import HUGE, MEMORY, PAGE, A, B, changes, fresh, gmem_of, use

pytestmark = [
    pytest.mark.patches(5, 16, 17, 21),
    pytest.mark.areas("guest_memfd", "RMP faults"),
    pytest.mark.needs("private_memory"),
]

ENDLESS = 1 << 40
"""Rounds of a loop that only a fault or a signal ends."""


@pytest.mark.needs("snp", "inspector", "gmem_2m")
def test_small_validation_of_a_large_entry(guest: Guest, inspector: Inspector) -> None:
    """PVALIDATE of 4 KiB in a 2 MiB entry is an RMP fault that KVM resolves by PSMASH."""
    cpu = guest.cpu()
    fresh(cpu, A, HUGE)
    cpu.load(A)
    entry = inspector.gmem_rmp(gmem_of(guest).fd, A)
    assert entry == replace(entry, present=True, size=RmpSize.SIZE_2M)
    before = inspector.counters()
    cpu.pvalidate(A + 3 * PAGE, PAGE).check()
    after = inspector.counters()
    assert after["psmash"] == before.get("psmash", 0) + 1
    assert after["npf_rmp"] > before.get("npf_rmp", 0)
    cpu.store(A + 3 * PAGE, 3).check()
    assert cpu.load(A + 4 * PAGE).not_validated


@pytest.mark.needs("snp")
def test_large_validation_of_small_entries(guest: Guest) -> None:
    """PVALIDATE of 2 MiB over 4 KiB entries tells the guest: size mismatch, nothing done."""
    cpu = guest.cpu()
    use(cpu, A + 9 * PAGE)
    assert cpu.pvalidate(A, HUGE, large=True).value == PVALIDATE_FAIL_SIZEMISMATCH
    assert cpu.load(A + 10 * PAGE).not_validated


@pytest.mark.needs("snp", "inspector", "gmem_2m")
def test_split_once(pair: Guest, inspector: Inspector) -> None:
    """Two vCPUs that need the same 2 MiB entry split cause one PSMASH; the other is spurious."""
    cpu = pair.cpu()
    fresh(cpu, A, HUGE)
    cpu.load(A)
    entry = inspector.gmem_rmp(gmem_of(pair).fd, A)
    assert entry == replace(entry, present=True, size=RmpSize.SIZE_2M)
    before = inspector.counters().get("psmash", 0)
    both = [
        one.start(Command(Op.PVALIDATE, (A + number * 64 * PAGE, 0, 1, 64)))
        for number, one in enumerate(pair.cpus)
    ]
    for results in pair.wait(both):
        results[0].check()
    assert inspector.counters()["psmash"] == before + 1
    cpu.fill(A, 128 * PAGE, 1).check()


@pytest.mark.needs("pre_fault_memory")
def test_pre_fault(guest: Guest) -> None:
    """KVM_PRE_FAULT_MEMORY maps a range and reports that nothing is left."""
    cpu = guest.cpu()
    fresh(cpu, A, HUGE)
    assert cpu.vcpu.pre_fault(A, HUGE) == (0, A + HUGE, 0)
    use(cpu, A, HUGE)
    cpu.fill(A, HUGE, 9).check()


@pytest.mark.needs("pre_fault_memory", "snp", "inspector")
def test_pre_fault_assigns(guest: Guest, inspector: Inspector) -> None:
    """What was pre-faulted is assigned before the guest touches it, and no fault is left."""
    cpu = guest.cpu()
    fresh(cpu, A, HUGE)
    cpu.vcpu.pre_fault(A, 4 * PAGE)
    entry = inspector.gmem_rmp(gmem_of(guest).fd, A + PAGE)
    assert entry == replace(entry, assigned=True, validated=False)


@pytest.mark.needs("pre_fault_memory")
@pytest.mark.parametrize(
    ("gpa", "size"), [(A + 1, PAGE), (A, PAGE + 1), (A, 0), ((1 << 64) - PAGE, 2 * PAGE)]
)
def test_bad_pre_fault(guest: Guest, gpa: int, size: int) -> None:
    """A range that is not whole pages, empty or wraps is EINVAL."""
    assert guest.cpu().vcpu.pre_fault(gpa, size).errno == errno.EINVAL


@pytest.mark.needs("pre_fault_memory")
def test_pre_fault_stops_at_the_end(guest: Guest) -> None:
    """Pre-faulting beyond a slot ends there; the progress is written back."""
    end = MEMORY
    fresh(guest.cpu(), end - PAGE, 2 * PAGE)
    code, gpa, size = guest.cpu().vcpu.pre_fault(end - PAGE, 2 * PAGE)
    assert (code, gpa, size) == (0, end, PAGE)
    assert guest.cpu().vcpu.pre_fault(end, PAGE).errno == errno.EFAULT


@pytest.mark.needs("pre_fault_memory", "snp")
def test_no_pre_fault_before_the_launch_is_done(host: Host) -> None:
    """Before LAUNCH_FINISH nothing may be pre-faulted."""
    with host.create_vm(uapi.KVM_X86_SNP_VM) as vm:
        vm.sev_init2()
        vcpu = vm.create_vcpu()
        assert vcpu.pre_fault(0, PAGE).errno == errno.EOPNOTSUPP


def _moves(pair: Guest) -> bool:
    """Whether the other vCPU gets on: the last word it stored, read by the first one."""
    return changes(lambda: pair.cpu().load(B).check().value)


def test_hole_beside_a_running_guest(pair: Guest) -> None:
    """Punching holes beside memory that a vCPU writes to disturbs neither."""
    cpu = pair.cpu()
    use(cpu, A, 16 * PAGE)
    use(cpu, B, 4 * PAGE)
    running = pair.cpu(1).start(pair.cpu(1).store_loop(B, ENDLESS, stride=8, span=8))
    for number in range(16):
        gmem_of(pair).punch_hole(A + number * PAGE, PAGE)
        assert number % 8 or _moves(pair), "the other vCPU does not run"
    pair.cpu(1).kick()
    pair.wait([running])
    assert isinstance(pair.cpu(1).stopped, InterruptedExit)


@pytest.mark.needs("snp")
def test_hole_under_a_running_guest(pair: Guest) -> None:
    """A page punched out under a vCPU that writes to it faults in the guest, validation gone."""
    use(pair.cpu(), B, 4 * PAGE)
    running = pair.cpu(1).start(pair.cpu(1).store_loop(B, ENDLESS, stride=8, span=8))
    assert _moves(pair), "the other vCPU does not run"
    gmem_of(pair).punch_hole(B, 4 * PAGE)
    (results,) = pair.wait([running])
    assert results[0].not_validated
    assert pair.cpu().load(B).not_validated


@pytest.mark.parametrize("when", ["before", "after"])
def test_hole_during_a_page_state_change(guest: Guest, when: str) -> None:
    """A hole punched while the same pages change state leaves them empty and usable."""
    cpu, size = guest.cpu(), 8 * PAGE
    holes = 0

    def punch(_: object, request: PscRequest) -> int:
        nonlocal holes
        holes += 1
        if when == "before":
            gmem_of(guest).punch_hole(request.gpa, request.size)
        answer = guest.convert(request)
        if when == "after":
            gmem_of(guest).punch_hole(request.gpa, request.size)
        return answer

    use(cpu, A, size)
    cpu.fill(A, size, 0xABCD).check()
    guest.hooks.psc = punch
    cpu.make_shared(A, size)
    cpu.make_private(A, size)
    assert holes >= 2
    assert cpu.verify(A, size, 0xABCD).check().value == size // 8
    cpu.fill(A, size, 3).check()
    assert cpu.verify(A, size, 3).check().value == 0


def test_holes_against_conversions(pair: Guest) -> None:
    """Holes and conversions of the same pages in turn leave every page usable."""
    gmem = gmem_of(pair)
    convert: Callable[[bool], None] = lambda private: pair.vm.set_memory_attributes(  # noqa: E731
        A, 8 * PAGE, private=private
    )
    for _ in range(6):
        convert(True)
        pair.cpu().load(A)
        convert(False)
        gmem.punch_hole(A, 8 * PAGE)
        pair.cpu().store(A, 1, private=False).check()
    use(pair.cpu(), A, 8 * PAGE)
    pair.cpu().fill(A, 8 * PAGE, 5).check()
    assert pair.cpu(1).verify(A, 8 * PAGE, 5).check().value == 0


@pytest.mark.needs("snp", "inspector")
def test_nothing_leaks_in_any_order(host: Host, inspector: Inspector) -> None:
    """In an orderly life no page is ever leaked, whatever order things are closed in."""
    for order in (0, 1, 2):
        guest = Guest.launch(host, memory=MEMORY)
        guest.cpu().boot()
        use(guest.cpu(), A, HUGE)
        if order == 0:
            gmem_of(guest).close()
        elif order == 1:
            guest.cpu().vcpu.close()
        guest.close()
        assert inspector.counters()["leaked_pages"] == 0
