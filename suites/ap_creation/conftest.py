# SPDX-License-Identifier: GPL-2.0-only
"""Guests whose APs wait to be created."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.layout import PAGE_SIZE as PAGE
from suites.ap_creation.starting import AREA, wait_for_creation


def _launch(host: Host, vcpus: int) -> Guest:
    guest = Guest.launch(host, vcpus=vcpus)
    wait_for_creation(guest)
    guest.cpu().boot()
    guest.cpu().pvalidate(AREA, (2 * vcpus + 4) * PAGE).check()
    return guest


@pytest.fixture
def smp(host: Host) -> Iterator[Callable[[int], Guest]]:
    """Launch a guest with so many vCPUs, all but the first waiting; nothing is left of it."""
    inspector = host.kernel.inspector
    before = inspector.assigned_pages() if inspector else 0
    guests: list[Guest] = []

    def launch(vcpus: int) -> Guest:
        guests.append(_launch(host, vcpus))
        return guests[-1]

    yield launch
    for guest in guests:
        guest.close()
    if inspector:
        assert inspector.assigned_pages() == before
        assert inspector.counters()["leaked_pages"] == 0


@pytest.fixture
def pair(smp: Callable[[int], Guest]) -> Guest:
    """A guest with two vCPUs, the second waiting to be created."""
    return smp(2)
