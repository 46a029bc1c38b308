# SPDX-License-Identifier: GPL-2.0-only
"""Guests of Linux with SEV-ES and SEV, alone and beside one with SNP."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.linuxguest.definition import Kind
from harness.linuxguest.running import How, RunningGuest
from suites.linux.attesting import assert_ended
from suites.linux.conftest import BOOT_DEADLINE

pytestmark = [
    pytest.mark.patches(5, 6, 7, 8, 9),
    pytest.mark.areas("VM types", "whole guests"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(2 * BOOT_DEADLINE),
]

Start = Callable[..., RunningGuest]
FEATURES = {Kind.SEV: "SEV", Kind.SEV_ES: "SEV SEV-ES", Kind.SNP: "SEV SEV-ES SEV-SNP"}


def boots(guest: RunningGuest) -> None:
    """Assert that a guest gets to userspace, with the protection of its kind, and ends."""
    guest.userspace()
    features = FEATURES[guest.guest.kind]
    log = guest.shell("dmesg | grep 'Memory Encryption'")
    assert log.rstrip().endswith(f"Memory Encryption Features active: AMD {features}"), (
        f"the guest says {log!r}, want {features!r}"
    )
    guest.begin("poweroff -f")
    assert_ended(guest, How.POWERED_OFF)


@pytest.mark.parametrize("vcpus", [1, 2])
@pytest.mark.parametrize("kind", [Kind.SEV_ES, Kind.SEV], ids=lambda kind: kind.value)
def test_boots(start: Start, kind: Kind, vcpus: int) -> None:
    """A guest of an older kind boots to userspace, and powers itself off."""
    boots(start(kind=kind, vcpus=vcpus))


def test_beside_snp(start: Start) -> None:
    """Guests of SEV-ES and SNP run beside each other."""
    guests = [start(kind=kind) for kind in (Kind.SEV_ES, Kind.SNP)]
    for guest in guests:
        guest.userspace()
    for guest in guests:
        boots(guest)
