# SPDX-License-Identifier: GPL-2.0-only
"""Measurements as sev-snp-measure computes them, and guests that are small enough for many."""

from __future__ import annotations

from collections.abc import Mapping

from sevsnpmeasure.guest import snp_calc_launch_digest
from sevsnpmeasure.vcpu_types import CPU_SIGS

from harness.linuxguest.definition import LinuxGuest
from harness.linuxguest.parts import Parts, parts
from harness.target import Target

FEATURES = 1
"""SEV_FEATURES of a guest's vCPUs: SNP and nothing else."""
MODULES = ("ctr?", "gcm?", "ghash_generic?", "sev_guest?", "configfs?")
"""What a report needs; the other modules take a quarter of a guest's boot."""
MORE_FILES = {"share/more": b"One file more makes another initrd.\n"}


def small_parts(
    target: Target, firmware: str = "", files: Mapping[str, bytes] | None = None
) -> Parts:
    """Return parts of a guest that only gives reports; the run's firmware unless it is named."""
    return parts(
        firmware or target.firmware,
        target.guest_kernel,
        modules=MODULES,
        files=files,
        say=lambda _: None,
    )


def expected(made: Parts, guest: LinuxGuest) -> bytes:
    """Return the digest of a guest of these parts."""
    hashed = guest.kernel_hashes
    return bytes(
        snp_calc_launch_digest(
            guest.vcpus,
            CPU_SIGS[guest.cpu],
            str(made.firmware.file),
            str(made.kernel.image) if hashed else "",
            str(made.initrd) if hashed else "",
            guest.command_line if hashed else "",
            FEATURES,
            "",
        )
    )
