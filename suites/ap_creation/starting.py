# SPDX-License-Identifier: GPL-2.0-only
"""Bringing application processors up and down, as a guest does."""

from __future__ import annotations

from harness.uapi import kvm as uapi
from harness.uapi.ghcb import GhcbError
from harness.vm.exits import Exit
from harness.vm.guest import Guest, GuestCpu, Pending
from harness.vm.guest_result import GuestResult
from harness.vm.layout import PAGE_SIZE as PAGE
from harness.vm.mailbox import Header

AREA = 0x400000
"""2 MiB of free private memory; its first page is aligned to 2 MiB and holds no VMSA."""
COUNTER = 0x380000
"""A word in shared memory."""
X2APIC_ICR, INIT, SIPI = 0x830, 0x4500, 0x4600
WAKES = 50
"""INITs and SIPIs for a vCPU that does not wake."""


def vmsa_page(number: int) -> int:
    """The page of the n-th VMSA."""
    return AREA + (number + 1) * PAGE


def wait_for_creation(guest: Guest) -> None:
    """Put the APs into the state in which a VMM leaves them: halted, to be woken by creation."""
    for cpu in guest.cpus[1:]:
        cpu.vcpu.mp_state = uapi.KVM_MP_STATE_HALTED


def bring_up(guest: Guest, index: int, vmsa: int | None = None) -> Header:
    """Create vCPU `index` from a fresh VMSA and let it run to its first notification."""
    page = vmsa_page(index) if vmsa is None else vmsa
    waiting = guest.cpu(index).start()
    answer = guest.cpu().start_ap(index, page)
    assert answer.malformed == GhcbError.NONE
    return booted(guest, waiting)


def settle(guest: Guest) -> None:
    """Let every vCPU that can run do so for a while: the first one makes a few round trips."""
    for _ in range(8):
        guest.cpu().cpuid(0)


def wake(guest: Guest, held: Pending) -> list[GuestResult]:
    """Send the second vCPU INIT and SIPI until it leaves its reset hold; what the guest got.

    On a busy machine the first ones may come before it is there.
    """
    bsp = guest.cpu()
    for _ in range(WAKES):
        bsp.wrmsr(X2APIC_ICR, 1 << 32 | INIT).check()
        bsp.wrmsr(X2APIC_ICR, 1 << 32 | SIPI).check()
        settle(guest)
        guest.serve(held)
        if held.results is not None:
            break
    [results] = guest.wait([held])
    return results


def booted(guest: Guest, waiting: Pending) -> Header:
    """Wait for a vCPU that was started to come up."""
    guest.wait([waiting])
    assert waiting.cpu.stopped is None, f"the AP left: {waiting.cpu.stopped}"
    return waiting.cpu.header()


def left(guest: Guest, waiting: Pending) -> Exit:
    """Wait for a vCPU that cannot run; why KVM_RUN returned."""
    guest.wait([waiting])
    assert waiting.cpu.stopped is not None, "the vCPU runs"
    return waiting.cpu.stopped


def kick_out(cpu: GuestCpu, waiting: Pending) -> None:
    """Interrupt a vCPU that sleeps in KVM_RUN."""
    cpu.kick()
    cpu.guest.wait([waiting])
    cpu.vcpu.unkick()
