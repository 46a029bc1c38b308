# SPDX-License-Identifier: GPL-2.0-only
"""Several guests, one beside and one after the other; and guests whose QEMU is killed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from harness.linuxguest.parts import Parts
from harness.linuxguest.running import How, RunningGuest
from harness.target import Target
from harness.vm.host import Host
from suites.linux.attesting import assert_ended, report_of
from suites.linux.conftest import BOOT_DEADLINE, starter_on

pytestmark = [
    pytest.mark.patches(7, 8, 12, 21, 22),
    pytest.mark.areas("teardown", "whole guests"),
    pytest.mark.needs("snp"),
]

Start = Callable[..., RunningGuest]
KILLS = 20
ASIDS = 2
LAUNCH_TIMEOUT = 300.0
"""Seconds that QEMU gets to load, launch and start a guest."""


@pytest.mark.deadline(2 * BOOT_DEADLINE)
@pytest.mark.usefixtures("attests")
@pytest.mark.parametrize("count", [2, 4])
def test_beside_each_other(start: Start, count: int) -> None:
    """Guests at once get to userspace, each with a report of its own data and the same digest."""
    guests = [start(host_data=bytes([number]) * 32) for number in range(count)]
    reports = [report_of(guest.userspace(2 * BOOT_DEADLINE)) for guest in guests]
    numbers = [report.host_data[0] for report in reports]
    assert numbers == list(range(count)), f"host_data: {numbers}, want each guest's own number"
    digests = len({report.measurement for report in reports})
    assert digests == 1, f"measurements: {digests} different ones, want one"
    for guest in guests:
        guest.begin("poweroff -f")
    for guest in guests:
        assert_ended(guest, How.POWERED_OFF)


@pytest.mark.deadline(BOOT_DEADLINE)
def test_in_turn(boot: Callable[..., Host], linux_parts: Parts, target: Target) -> None:
    """More guests than there are ASIDs run one after the other, the last to its end."""
    starter = starter_on(boot(asids=ASIDS).kernel, linux_parts, target)
    for number in range(2 * ASIDS + 1):
        with starter.start(starter.guest()) as guest:
            status = guest.ask("query-status", LAUNCH_TIMEOUT)
            assert status["running"], f"guest {number}: {status['status']}, want it running"
            guest.kill()
    with starter.start(starter.guest()) as guest:
        guest.userspace().begin("poweroff -f")
        assert_ended(guest, How.POWERED_OFF)


@pytest.mark.deadline(3 * BOOT_DEADLINE)
def test_killed_at_any_time(start: Start, rng: random.Random) -> None:
    """QEMU may be killed at any moment of a guest's life: nothing of it stays behind."""
    whole = start(vcpus=2)
    whole.userspace()
    life = whole.seconds
    whole.kill()
    for number in range(KILLS):
        guest = start(vcpus=2)
        moment = life * (number + rng.random()) / KILLS
        time.sleep(max(moment - guest.seconds, 0))
        assert not guest.ended, f"the guest {guest.end()}, want it running until it is killed"
        guest.kill()
        assert_ended(guest, How.KILLED)
