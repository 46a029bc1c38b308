# SPDX-License-Identifier: GPL-2.0-only
"""The host's memory: after guests of many kinds all of it is free again, to a few pages.

What the RMP and the firmware hold is test_teardown's; this is what only the kernel's allocator
knows of: save areas, buffers of commands, references to pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest

from harness.uapi import kvm as uapi
from harness.uapi.ghcb import SVM_VMGEXIT_AP_DESTROY, GhcbError
from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.vm import Vm
from suites.ap_creation.starting import AREA, bring_up, vmsa_page, wait_for_creation
from suites.launch.test_teardown import FAILURES, bring_to, fail_a_launch

pytestmark = [
    pytest.mark.patches(10, 11, 12, 22),
    pytest.mark.areas("launch", "teardown"),
    pytest.mark.needs("snp", "inspector"),
]

HUGE = 2 << 20
VMSAS = 128
ROUNDS = 12
WARM = 3
"""Rounds after which caches of the allocator have grown to what is needed."""


def free_pages(host: Host) -> int:
    """Pages of 4 KiB that are free: those of the zones, and of each CPU's list."""
    if host.kernel.read_file("/proc/zoneinfo") is None:
        pytest.skip("this backend's kernel has no allocator")
    # Has each CPU hand over what it has counted.
    host.kernel.read_file("/proc/sys/vm/stat_refresh")
    zones = host.kernel.read_file("/proc/zoneinfo") or ""
    return sum(map(int, re.findall(r"^(?: *count:|  pages free +) *(\d+)$", zones, re.MULTILINE)))


def lost(host: Host, work: Callable[[Host], None], rounds: int = ROUNDS, warm: int = WARM) -> int:
    """Do something over and over; how many pages are gone after the first few times."""
    for _ in range(warm):
        work(host)
    before = free_pages(host)
    for _ in range(rounds):
        work(host)
    return before - free_pages(host)


def finished(host: Host) -> None:
    """Launch a guest, and end it."""
    with host.create_vm(uapi.KVM_X86_SNP_VM) as vm:
        bring_to(vm, "pages after it")


WORK: dict[str, Callable[[Host], None]] = {
    "finished": finished,
    **{name: partial(fail_a_launch, fail=fail) for name, fail in FAILURES.items()},
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_no_page_is_lost(host: Host, work: Callable[[Host], None]) -> None:
    """A dozen guests cost less than half a page each: not one page is lost with each."""
    assert lost(host, work) < ROUNDS // 2


def test_vmsas_of_the_guest_are_not_lost(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that a guest chose for the VMSA of an AP are free again when it has ended."""
    threads = Vm.next_threads

    def work(host: Host) -> None:
        # On the same threads each time: those that the agent starts take memory, too.
        monkeypatch.setattr(Vm, "next_threads", threads)
        with Guest.launch(host, vcpus=2) as guest:
            guest.cpu().boot()
            wait_for_creation(guest)
            guest.cpu().make_private(AREA, HUGE)
            for number in range(VMSAS):
                bring_up(guest, 1, vmsa_page(number))
                assert (
                    guest.cpu().ap_creation(1, 0, SVM_VMGEXIT_AP_DESTROY).malformed
                    == GhcbError.NONE
                )

    assert lost(host, work, rounds=1, warm=1) < VMSAS // 2
