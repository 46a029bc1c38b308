# SPDX-License-Identifier: GPL-2.0-only
"""Memory of a guest: under pressure, out of a balloon's reach, accepted late and early."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.linuxguest.running import RunningGuest
from suites.linux.attesting import fields
from suites.linux.conftest import BOOT_DEADLINE
from suites.linux.test_boot import is_free_of_splats

pytestmark = [
    pytest.mark.patches(15, 16, 17, 18, 21, 22, 23, 24),
    pytest.mark.areas("page state changes", "gmem", "whole guests"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(BOOT_DEADLINE),
]

Start = Callable[..., RunningGuest]


def test_pressure(start: Start) -> None:
    """A guest takes, fills, checks and frees most of its memory, more than once."""
    guest = start(vcpus=2, memory=768).userspace()
    said = fields(guest.shell("guestreq memory 400 20", 300))
    assert said["wrong"] == "0", f"words that differ: {said['wrong']}, want none"
    assert int(said["rounds"]) >= 1, f"rounds: {said['rounds']}, want 1 or more"
    is_free_of_splats(guest)


def test_balloon_is_left_alone(start: Start) -> None:
    """A guest refuses a balloon, which would take pages that it has accepted, and keeps its memory.

    Linux wants virtio devices of such a guest to go through the DMA API; the balloon cannot.
    """
    guest = start(
        memory=768, devices=("-device", "virtio-balloon-pci,iommu_platform=on,disable-legacy=on")
    ).userspace()
    log = guest.shell("dmesg | grep virtio_balloon")
    refusal = "device must provide VIRTIO_F_ACCESS_PLATFORM"
    assert refusal in log, f"virtio_balloon says {log!r}, want {refusal!r}"
    guest.ask("balloon", value=512 << 20)
    said = fields(guest.shell("guestreq memory 400"))
    assert said["wrong"] == "0", f"words that differ: {said['wrong']}, want none"
    actual = guest.ask("query-balloon")["actual"] >> 20
    assert actual == 768, f"the guest's memory: {actual} MiB, want 768 MiB"
    is_free_of_splats(guest)


@pytest.mark.parametrize("words", ["", "accept_memory=eager"], ids=["late", "eager"])
def test_accepts_memory(start: Start, words: str) -> None:
    """Memory that the firmware left unaccepted is accepted when it is needed, or at once."""
    guest = start(words, memory=3072).userspace()
    said = fields(guest.shell("guestreq memory 2000", 400))
    assert said["wrong"] == "0", f"words that differ: {said['wrong']}, want none"
    is_free_of_splats(guest)
