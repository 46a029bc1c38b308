# SPDX-License-Identifier: GPL-2.0-only
"""The measurement of a guest is what others compute from its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from harness.linuxguest.running import RunningGuest
from harness.target import Target
from suites.linux.attesting import report_of
from suites.linux.conftest import BOOT_DEADLINE
from suites.linux.measuring import MORE_FILES, expected, small_parts

pytestmark = [
    pytest.mark.patches(10, 11, 12, 26),
    pytest.mark.areas("measurement", "whole guests"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(BOOT_DEADLINE),
    pytest.mark.usefixtures("attests"),
]

Start = Callable[..., RunningGuest]
WORDS = 'quiet snptest.word="two words"'
MILAN, ROME, EPYC = "EPYC-Milan", "EPYC-Rome-v2", "EPYC-v4"


@dataclass(frozen=True, slots=True)
class Combination:
    """What is measured."""

    firmware: str
    """Of guests/linux/parts.toml; "" for the run's own, with hashes where it takes them."""
    hashes: bool
    vcpus: int
    cpu: str
    words: str = ""
    """More words of the command line."""
    more_files: bool = False
    """Whether it is another initrd."""

    def __str__(self) -> str:
        """Name it, as the test's id."""
        words = [self.firmware or "own", "hashes" if self.hashes else "plain"]
        words += [f"{self.vcpus}", self.cpu]
        words += ["words"] * bool(self.words) + ["files"] * self.more_files
        return "-".join(words)


COMBINATIONS = (
    Combination("", True, 1, MILAN, WORDS, True),
    Combination("sid-generic", True, 1, EPYC),
    Combination("trixie", False, 1, ROME),
    Combination("", True, 2, EPYC, "", True),
    Combination("sid-generic", True, 2, ROME, WORDS),
    Combination("trixie", False, 2, MILAN, "", True),
    Combination("", True, 3, ROME, "", True),
    Combination("sid-generic", False, 3, MILAN, WORDS, True),
    Combination("trixie", False, 3, EPYC, WORDS),
    Combination("", True, 5, MILAN),
    Combination("sid-generic", False, 5, EPYC, "", True),
    Combination("trixie", False, 5, ROME, WORDS),
)
"""Any value of one with any of another, as far as firmware has hashes or boots without them."""


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_equals_what_others_compute(target: Target, start: Start, combination: Combination) -> None:
    """The report of a guest has the digest that sev-snp-measure gives for the same files."""
    files = MORE_FILES if combination.more_files else None
    made = small_parts(target, combination.firmware, files)
    guest = start(
        combination.words,
        parts=made,
        kernel_hashes=combination.hashes and made.firmware.kernel_hashes,
        vcpus=combination.vcpus,
        cpu=combination.cpu,
    )
    report = report_of(guest.userspace())
    assert report.measurement.hex() == expected(made, guest.guest).hex()
