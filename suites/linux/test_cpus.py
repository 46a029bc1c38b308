# SPDX-License-Identifier: GPL-2.0-only
"""vCPUs of a guest under load: timers, IPIs, NMIs, CPUs that come and go."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness.linuxguest.running import RunningGuest
from suites.linux.conftest import BOOT_DEADLINE
from suites.linux.test_boot import is_free_of_splats

pytestmark = [
    pytest.mark.patches(19, 20),
    pytest.mark.areas("AP creation", "interrupts", "whole guests"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(BOOT_DEADLINE),
]

Start = Callable[..., RunningGuest]
CPUS = 6
NMIS = 5


def interrupts(guest: RunningGuest, name: str) -> list[int]:
    """Count the interrupts of a row of /proc/interrupts, by CPU."""
    row = re.search(rf"^ *{name}:((?: +\d+)+)", guest.shell("cat /proc/interrupts"), re.MULTILINE)
    assert row is not None, f"/proc/interrupts: no row {name}, want one"
    return [int(each) for each in row[1].split()]


def test_offline_and_online(start: Start) -> None:
    """CPUs go offline and come back: each is created anew, and takes interrupts as before.

    Each does so once.  Linux leaves a CPU's GHCB marked as in use when it goes offline, for it does
    not come back to the loop that it waits in, and has one to spare: the third time would be its
    panic, on every SNP host (sev_es_ap_hlt_loop, 6.12 to 7.3).
    """
    guest = start(vcpus=CPUS).userspace()
    others = [str(number) for number in range(1, CPUS)]
    guest.shell(
        f"cd /sys/devices/system/cpu; for c in {' '.join(others)}; do"
        " echo 0 > cpu$c/online || exit 1; done;"
        f" [ $(nproc) = 1 ] || exit 2; for c in {' '.join(reversed(others))}; do"
        " echo 1 > cpu$c/online || exit 3; done;"
        f" [ $(nproc) = {CPUS} ] || exit 4",
        300,
    )
    before = interrupts(guest, "LOC")
    guest.shell(f"for c in 0 {' '.join(others)}; do taskset -c $c usleep 100000; done")
    after = interrupts(guest, "LOC")
    assert all(new > old for old, new in zip(before, after, strict=True)), (
        f"interrupts per CPU: {before} before and {after} after, want more on each"
    )
    is_free_of_splats(guest)


def test_timers_and_ipis(start: Start) -> None:
    """Every CPU gets its timer's interrupts and the others' IPIs while all are busy."""
    guest = start(vcpus=4).userspace()
    before = interrupts(guest, "LOC")
    # Processes that wake each other over pipes, and unmap what other CPUs have mapped.
    guest.shell(
        "for n in 1 2 3 4; do (i=0; while [ $i -lt 60 ]; do echo $i | cat | cat > /dev/null;"
        " i=$((i+1)); done) & done; guestreq memory 16 10 & wait",
        300,
    )
    after = interrupts(guest, "LOC")
    assert len(after) == 4, f"CPUs with timer interrupts: {len(after)}, want 4"
    assert all(new - old > 100 for old, new in zip(before, after, strict=True)), (
        f"timer interrupts per CPU: {before} before and {after} after, want over 100 more on each"
    )
    for name in ("RES", "CAL"):
        count = sum(interrupts(guest, name))
        assert count > 0, f"interrupts {name}: {count}, want more than 0"
    is_free_of_splats(guest)


def test_sleeps_are_as_long_as_they_should(start: Start) -> None:
    """A sleeping guest wakes up: by its timer, on each CPU, again and again."""
    guest = start(vcpus=2).userspace()
    guest.shell(
        "for c in 0 1; do (for i in 1 2 3 4 5 6 7 8 9 10; do taskset -c $c usleep 100000;"
        " done) & done; wait",
        120,
    )
    is_free_of_splats(guest)


def test_nmi(start: Start) -> None:
    """NMIs reach a guest's CPU one after the other: it says each time that it is done with one.

    They are IPIs, sent for a backtrace of the other CPU: QEMU's inject-nmi looks for the LVT in
    registers that it cannot read of such a guest, and sends none.
    """
    guest = start(vcpus=2).userspace()
    before = sum(interrupts(guest, "NMI"))
    for _ in range(NMIS):
        guest.shell("echo l > /proc/sysrq-trigger")
    count = sum(interrupts(guest, "NMI")) - before
    assert count == NMIS, f"NMIs: {count}, want {NMIS}"
    is_free_of_splats(guest)
