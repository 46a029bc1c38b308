# SPDX-License-Identifier: GPL-2.0-only
"""The measurement of a guest is what others compute from its parts, and OVMF holds it to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sevsnpmeasure.guest import snp_calc_launch_digest
from sevsnpmeasure.vcpu_types import CPU_SIGS

from harness.linuxguest.host import Starter
from harness.linuxguest.running import RunningGuest
from harness.vm.attestation import Report
from suites.linux.attesting import report_of
from suites.linux.conftest import BOOT_DEADLINE

pytestmark = [
    pytest.mark.patches(10, 11, 12, 26),
    pytest.mark.areas("measurement", "whole guests"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(BOOT_DEADLINE),
]

Start = Callable[..., RunningGuest]
FEATURES = 1
"""SEV_FEATURES of a guest's vCPUs: SNP and nothing else."""


def expected(starter: Starter, guest: RunningGuest) -> bytes:
    """Compute the digest of a guest by sev-snp-measure."""
    parts = starter.parts
    hashed = guest.guest.kernel_hashes
    return bytes(
        snp_calc_launch_digest(
            guest.guest.vcpus,
            CPU_SIGS[guest.guest.cpu],
            str(parts.firmware.file),
            str(parts.kernel.image) if hashed else "",
            str(parts.initrd) if hashed else "",
            guest.guest.command_line if hashed else "",
            FEATURES,
            "",
        )
    )


@pytest.mark.parametrize("vcpus", [1, 2, 5])
@pytest.mark.parametrize("cpu", ["EPYC-Milan", "EPYC-v4"])
@pytest.mark.parametrize(
    "words", ["", 'quiet snptest.word="two words"'], ids=["plain", "more-words"]
)
def test_equals_what_others_compute(
    starter: Starter, start: Start, vcpus: int, cpu: str, words: str
) -> None:
    """The report of a guest has the digest that sev-snp-measure gives for the same files."""
    guest = start(words, vcpus=vcpus, cpu=cpu).userspace()
    report: Report = report_of(guest)
    assert report.measurement.hex() == expected(starter, guest).hex()
