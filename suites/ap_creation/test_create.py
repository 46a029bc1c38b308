# SPDX-License-Identifier: GPL-2.0-only
"""CREATE, CREATE_ON_INIT and DESTROY: APs come up, share memory, go and come again."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from harness.inspector import Inspector
from harness.uapi import ghcb as abi
from harness.uapi import kvm as uapi
from harness.uapi.ghcb import GhcbError
from harness.vm.exits import InterruptedExit
from harness.vm.guest import Guest
from harness.vm.guest_commands import VmgExitResult
from harness.vm.host import Host
from harness.vm.layout import PAGE_SIZE as PAGE
from harness.vm.mailbox import Command, Op
from harness.vm.vcpu import RUN_TIMEOUT
from suites.ap_creation.starting import (
    AREA,
    COUNTER,
    INIT,
    SIPI,
    X2APIC_ICR,
    booted,
    bring_up,
    kick_out,
    settle,
    vmsa_page,
    wake,
)

pytestmark = [
    pytest.mark.patches(18, 19),
    pytest.mark.areas("AP creation"),
    pytest.mark.needs("snp"),
]

ON_INIT, CREATE, DESTROY = (
    abi.SVM_VMGEXIT_AP_CREATE_ON_INIT,
    abi.SVM_VMGEXIT_AP_CREATE,
    abi.SVM_VMGEXIT_AP_DESTROY,
)
APIC_BASE, X2APIC_ENABLE = 0x1B, 1 << 10


def test_ap_runs(pair: Guest) -> None:
    """An AP that the guest creates starts from the VMSA that the guest wrote."""
    header = bring_up(pair, 1)
    assert (header.boots, header.index) == (1, 1)
    assert pair.cpu(1).cpuid(0) == pair.cpu().cpuid(0)


def test_ap_waits_until_then(pair: Guest) -> None:
    """Before it is created an AP sleeps in KVM_RUN; a signal gets it out."""
    waiting = pair.cpu(1).start()
    settle(pair)
    assert waiting.results is None
    kick_out(pair.cpu(1), waiting)
    assert isinstance(pair.cpu(1).stopped, InterruptedExit)
    assert pair.cpu(1).header().boots == 0


def test_registers_come_from_the_vmsa(pair: Guest) -> None:
    """RIP, RSP and RDI of the new vCPU are those in its VMSA, not those userspace once set."""
    bsp = pair.cpu()
    bsp.build_vmsa(vmsa_page(1), 1, rsp=AREA + 6 * PAGE).check()
    waiting = pair.cpu(1).start()
    bsp.ap_creation(1, vmsa_page(1))
    assert booted(pair, waiting).index == 1
    stack = bsp.read(AREA + 5 * PAGE, PAGE)
    assert any(stack), "nothing was pushed on the stack that the VMSA names"


@pytest.mark.parametrize("vcpus", [2, 3, 8, 16, 32])
def test_many(smp: Callable[[int], Guest], vcpus: int) -> None:
    """All of a guest's vCPUs can be created, each runs, and they share memory."""
    guest = smp(vcpus)
    for index in range(1, vcpus):
        assert bring_up(guest, index).index == index
    both = [cpu.start(cpu.locked_add(COUNTER, 1, 50, private=False)) for cpu in guest.cpus]
    for results in guest.wait(both):
        results[0].check()
    assert int.from_bytes(guest.vm.read_gpa(COUNTER, 8), "little") == 50 * vcpus


def test_private_memory_is_common(pair: Guest) -> None:
    """What one vCPU writes to private memory the other reads."""
    bring_up(pair, 1)
    at = AREA + 3 * PAGE
    pair.cpu().fill(at, PAGE, 0x1234, 7).check()
    assert pair.cpu(1).verify(at, PAGE, 0x1234, 7).check().value == 0
    pair.cpu(1).store(at, 0xFEED).check()
    assert pair.cpu().load(at).check().value == 0xFEED


def test_ap_uses_its_own_ghcb(pair: Guest) -> None:
    """A created AP registers a GHCB of its own and its exits are its own."""
    header = bring_up(pair, 1)
    assert header.registration & 0xFFF == abi.GHCB_MSR_REG_GPA_RESP
    assert pair.cpu(1).cpuid(0) == pair.cpu().cpuid(0)


def test_destroyed_ap_is_stopped(pair: Guest) -> None:
    """DESTROY takes a running AP off: its KVM_RUN sleeps and the guest's code does not go on."""
    bring_up(pair, 1)
    running = pair.cpu(1).start(
        pair.cpu(1).store_loop(COUNTER, 50_000_000, stride=8, span=64, private=False)
    )
    pair.cpu().ap_creation(1, 0, DESTROY)
    settle(pair)
    before = pair.vm.read_gpa(COUNTER, 64)
    settle(pair)
    assert pair.vm.read_gpa(COUNTER, 64) == before
    kick_out(pair.cpu(1), running)
    assert isinstance(pair.cpu(1).stopped, InterruptedExit)


@pytest.mark.parametrize("rounds", [12])
def test_offline_and_online(pair: Guest, rounds: int) -> None:
    """An AP can be taken down and brought up again any number of times."""
    for number in range(1, rounds + 1):
        assert bring_up(pair, 1, vmsa_page(number % 2)).boots == number
        assert pair.cpu(1).cpuid(0) == pair.cpu().cpuid(0)
        assert pair.cpu().ap_creation(1, 0, DESTROY).malformed == GhcbError.NONE


def test_created_again_while_running(pair: Guest) -> None:
    """CREATE of an AP that runs restarts it from the new VMSA."""
    bring_up(pair, 1)
    # It would run for hours, before and after: only the restart is a new boot.
    running = pair.cpu(1).start(
        pair.cpu(1).store_loop(COUNTER, 1 << 40, stride=8, span=64, private=False)
    )
    pair.cpu().start_ap(1, vmsa_page(2))
    until = time.monotonic() + RUN_TIMEOUT
    while pair.cpu(1).header().boots != 2:
        assert time.monotonic() < until, "the AP runs on as it was"
        pair.serve(running)
        settle(pair)
    kick_out(pair.cpu(1), running)


@pytest.mark.parametrize("round", range(8))
def test_wake_up_race(pair: Guest, round: int) -> None:
    """Creation wakes its target whether it has gone to sleep already, or only later."""
    ap = pair.cpu(1)
    if round % 2:
        waiting = ap.start()
        for _ in range(round):
            pair.cpu().cpuid(0)
        pair.cpu().start_ap(1, vmsa_page(1))
    else:
        pair.cpu().start_ap(1, vmsa_page(1))
        waiting = ap.start()
    assert booted(pair, waiting).boots == 1


def test_last_request_counts(pair: Guest) -> None:
    """Of several creations before the target runs the last one holds."""
    bsp = pair.cpu()
    bsp.start_ap(1, vmsa_page(1))
    bsp.ap_creation(1, 0, DESTROY)
    bsp.start_ap(1, vmsa_page(2))
    assert booted(pair, pair.cpu(1).start()).boots == 1


def test_destroyed_before_it_ran(pair: Guest) -> None:
    """A creation that was taken back before the target ran does not start it."""
    bsp = pair.cpu()
    bsp.start_ap(1, vmsa_page(1))
    bsp.ap_creation(1, 0, DESTROY)
    waiting = pair.cpu(1).start()
    settle(pair)
    kick_out(pair.cpu(1), waiting)
    assert pair.cpu(1).header().boots == 0


def test_on_init_waits_for_init(pair: Guest) -> None:
    """CREATE_ON_INIT starts nothing until the target gets INIT and SIPI."""
    bsp, ap = pair.cpu(), pair.cpu(1)
    bsp.build_vmsa(vmsa_page(1), 1, rsp=AREA + 6 * PAGE).check()
    waiting = ap.start()
    assert bsp.ap_creation(1, vmsa_page(1), ON_INIT).malformed == GhcbError.NONE
    settle(pair)
    assert ap.header().boots == 0
    bsp.wrmsr(APIC_BASE, bsp.rdmsr(APIC_BASE).check().value | X2APIC_ENABLE).check()
    bsp.wrmsr(X2APIC_ICR, 1 << 32 | INIT).check()
    bsp.wrmsr(X2APIC_ICR, 1 << 32 | SIPI).check()
    assert booted(pair, waiting).boots == 1
    stack = bsp.read(AREA + 5 * PAGE, PAGE)
    assert any(stack), "nothing was pushed on the stack that the VMSA names"


def test_uninitialized_target(pair: Guest) -> None:
    """A target that userspace left UNINITIALIZED is not started: KVM_RUN says EAGAIN."""
    pair.cpu(1).vcpu.mp_state = uapi.KVM_MP_STATE_UNINITIALIZED
    waiting = pair.cpu(1).start()
    pair.cpu().start_ap(1, vmsa_page(1))
    pair.wait([waiting])
    assert "EAGAIN" in str(pair.cpu(1).stopped)
    assert pair.cpu(1).header().boots == 0


@pytest.mark.needs("inspector")
def test_vmsa_pages_are_not_leaked(host: Host, smp: Callable[[int], Guest]) -> None:
    """Every page that was a VMSA once belongs to nobody when the guest has ended."""
    inspector = host.kernel.inspector
    assert isinstance(inspector, Inspector)
    pages, asids = inspector.assigned_pages(), inspector.counters()["asids"]
    pair = smp(2)
    for number in range(4):
        bring_up(pair, 1, vmsa_page(number))
    pair.close()
    assert inspector.assigned_pages() == pages
    counters = inspector.counters()
    assert counters["leaked_pages"] == 0
    assert counters["asids"] == asids


def test_ap_survives_the_bsp(pair: Guest) -> None:
    """An AP creates the boot processor anew: no vCPU is special."""
    bring_up(pair, 1)
    ap = pair.cpu(1)
    ap.build_vmsa(vmsa_page(2), 0).check()
    assert ap.ap_creation(0, vmsa_page(2)).malformed == GhcbError.NONE
    assert booted(pair, pair.cpu().start()).boots == 2


@pytest.mark.patches(8)
def test_hypervisor_features(pair: Guest) -> None:
    """The hypervisor offers SNP and AP creation, and no injection mode, by both protocols."""
    features = abi.GHCB_HV_FT_SNP | abi.GHCB_HV_FT_SNP_AP_CREATION
    answer = pair.cpu().vmgexit_msr(abi.GHCB_MSR_HV_FT_REQ).check().value
    assert answer & 0xFFF == abi.GHCB_MSR_HV_FT_RESP
    assert answer >> 12 == features
    assert pair.cpu().vmgexit(abi.SVM_VMGEXIT_HV_FEATURES).info2 == features


@pytest.mark.patches(7)
def test_reset_hold_ends_with_sipi(pair: Guest) -> None:
    """An AP in AP reset hold sleeps until INIT and SIPI, and returns to the guest then."""
    bring_up(pair, 1)
    bsp, ap = pair.cpu(), pair.cpu(1)
    held = ap.start(Command(Op.VMGEXIT_MSR, (abi.GHCB_MSR_AP_RESET_HOLD_REQ,)))
    bsp.wrmsr(APIC_BASE, bsp.rdmsr(APIC_BASE).check().value | X2APIC_ENABLE).check()
    results = wake(pair, held)
    assert results[0].check().value & 0xFFF == abi.GHCB_MSR_AP_RESET_HOLD_RESP


HOLDS = {
    "msr": Command(Op.VMGEXIT_MSR, (abi.GHCB_MSR_AP_RESET_HOLD_REQ,)),
    "page": Command(Op.VMGEXIT, (abi.SVM_VMGEXIT_AP_HLT_LOOP, 0, 0)),
}


@pytest.mark.patches(7)
@pytest.mark.parametrize("protocol", HOLDS)
def test_reset_hold_says_that_it_was_a_sipi(pair: Guest, protocol: str) -> None:
    """By either protocol the answer tells that a SIPI ended the hold: it is not zero.

    A vCPU's very first SIPI is no answer: it starts what userspace has set up.
    """
    bring_up(pair, 1)
    bsp, ap = pair.cpu(), pair.cpu(1)
    bsp.wrmsr(APIC_BASE, bsp.rdmsr(APIC_BASE).check().value | X2APIC_ENABLE).check()
    for _ in range(2):
        [result] = wake(pair, ap.start(HOLDS[protocol]))
    if protocol == "msr":
        assert result.check().value & 0xFFF == abi.GHCB_MSR_AP_RESET_HOLD_RESP
        assert result.value >> 12 != 0
    else:
        answer = VmgExitResult.of(result)
        assert answer.info1 == 0
        assert answer.info2 != 0


@pytest.mark.patches(7)
def test_reset_hold_sleeps(pair: Guest) -> None:
    """In AP reset hold a vCPU does not go on by itself; a signal gets KVM_RUN out."""
    bring_up(pair, 1)
    ap = pair.cpu(1)
    held = ap.start(Command(Op.VMGEXIT_MSR, (abi.GHCB_MSR_AP_RESET_HOLD_REQ,)))
    settle(pair)
    kick_out(ap, held)
    assert isinstance(ap.stopped, InterruptedExit)
