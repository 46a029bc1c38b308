# SPDX-License-Identifier: GPL-2.0-only
"""kexec of the host: the next kernel finds SNP as a cold boot does, and its guests run.

"Host kexec should work", says the cover letter of v12.  On its way the kernel has the firmware
shut SNP down (sev_firmware_shutdown() in drivers/crypto/ccp/sev-dev.c) and takes back the pages
that the IOMMU wrote to; the next one initialises all of it anew.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.vm.host import Host
from suites.host.conftest import DEADLINE
from suites.host.restarting import kexec, running_guest, snp_works

pytestmark = [
    pytest.mark.patches(9, 22),
    pytest.mark.areas("host", "kexec"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(DEADLINE),
]

Fresh = Callable[..., Host]


def test_before_any_guest(fresh: Fresh) -> None:
    """After kexec of a host that has run no guest, SNP guests launch and run."""
    host = fresh()
    kexec(host.kernel)
    snp_works(host.kernel, host.interface)


def test_after_guests(fresh: Fresh) -> None:
    """After guests have ended, kexec leads to a host that holds in firmware and RMP what it did."""
    host = fresh()
    before = snp_works(host.kernel, host.interface)
    kexec(host.kernel)
    after = snp_works(host.kernel, host.interface)
    assert after == before, f"SNP after kexec: {after}, want {before}"


def test_twice(fresh: Fresh) -> None:
    """A kernel that kexec started can itself be left by kexec, twice in a row."""
    host = fresh()
    for _ in range(2):
        kexec(host.kernel)
    snp_works(host.kernel, host.interface)


@pytest.mark.splat("RMP violation|Oops: 0003|Fatal exception|__snp_lookup_rmpentry")
def test_with_a_guest_running(fresh: Fresh) -> None:
    """After kexec of a host on which a guest runs, SNP guests launch and run."""
    host = fresh()
    running_guest(host)
    kexec(host.kernel)
    snp_works(host.kernel, host.interface)
