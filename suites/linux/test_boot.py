# SPDX-License-Identifier: GPL-2.0-only
"""Guests boot to userspace, and userspace of the host is told how they end."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness.linuxguest.running import How, RunningGuest
from harness.report import sanitize
from harness.splats import find_splats
from harness.vm.host import Host
from suites.linux.attesting import assert_ended
from suites.linux.conftest import BOOT_DEADLINE

pytestmark = [
    pytest.mark.patches(5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20),
    pytest.mark.areas("whole guests"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(BOOT_DEADLINE),
]

Start = Callable[..., RunningGuest]
SAYS_VMPL = (6, 11)
"""Linux as of which a guest says its VMPL; before, it ran at VMPL0 only."""


def is_well(guest: RunningGuest, vcpus: int) -> None:
    """Assert that a guest in userspace is an SNP guest at VMPL0, with all CPUs, free of splats."""
    log = guest.shell("dmesg | grep -E 'Memory Encryption|VMPL'; uname -r")
    active = "Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP"
    assert active in log, f"the guest says {log!r}, want {active!r}"
    release = tuple(int(each) for each in log.split()[-1].split(".")[:2])
    if release >= SAYS_VMPL:
        assert re.search(r"SEV: SNP running at VMPL0", log), (
            "SNP running at VMPL0: not in the guest's log, want it there"
        )
    count = guest.shell("nproc").strip()
    assert count == str(vcpus), f"the guest's CPUs: {count}, want {vcpus}"
    is_free_of_splats(guest)


def is_free_of_splats(guest: RunningGuest) -> None:
    """Assert that the guest's kernel complains of nothing."""
    splats = find_splats(guest.console.text.replace("\r", ""))
    assert not splats, (
        f"the guest's kernel printed: {sanitize.line(splats[0].title, 160)}; want no splat"
    )


@pytest.mark.parametrize("vcpus", [1, 2, 4, 8])
def test_boots(start: Start, vcpus: int) -> None:
    """A guest gets to userspace with all its vCPUs, and powers itself off."""
    guest = start(vcpus=vcpus).userspace()
    is_well(guest, vcpus)
    guest.begin("poweroff -f")
    assert_ended(guest, How.POWERED_OFF)


def test_boots_with_32_vcpus(start: Start) -> None:
    """So does one with 32 vCPUs, of which 255 could be."""
    guest = start(vcpus=32, max_vcpus=255, memory=1024).userspace()
    is_well(guest, 32)


@pytest.mark.parametrize("memory", [2048, 4096])
def test_boots_with_memory(start: Start, memory: int) -> None:
    """A guest accepts and has all its memory."""
    guest = start(memory=memory).userspace()
    is_well(guest, 1)
    total = int(guest.shell("awk '/MemTotal/ {print $2}' /proc/meminfo")) >> 10
    assert total > memory * 0.85, f"the guest's memory: {total} MiB, want most of {memory} MiB"


def test_reset(start: Start) -> None:
    """A guest's reset ends it: what is encrypted cannot be started again."""
    guest = start().userspace()
    guest.begin("reboot -f")
    assert_ended(guest, How.RESET)


def test_panic(start: Start) -> None:
    """A guest that panics resets itself, as its command line has it."""
    guest = start().userspace()
    guest.begin("echo c > /proc/sysrq-trigger")
    guest.see("Kernel panic - not syncing", 60)
    assert_ended(guest, How.RESET)


def test_panic_with_pvpanic(start: Start) -> None:
    """A guest with pvpanic tells the host of a panic before it resets itself."""
    guest = start(devices=("-device", "pvpanic-pci")).userspace()
    guest.begin("echo c > /proc/sysrq-trigger")
    guest.see("Kernel panic - not syncing", 60)
    assert_ended(guest, How.PANICKED)
    events = len(guest.events("GUEST_PANICKED"))
    assert events == 1, f"events GUEST_PANICKED: {events}, want 1"


def test_terminates_itself(host: Host, start: Start) -> None:
    """A guest's request for its termination (GHCB) gets to userspace, with set and code."""
    guest = start().userspace()
    guest.begin("guestreq terminate 1 5")
    assert_ended(guest, How.TERMINATED)
    said = "guest requested termination: 0x1:0x5"
    assert said in host.kernel.log(), f"{said}: not in the host's log, want it there"
