# SPDX-License-Identifier: GPL-2.0-only
"""A panic of the host without a crash kernel: the machine is reset, it does not hang."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.vm.host import Host
from suites.host.conftest import DEADLINE
from suites.host.restarting import CALLED, NEXT_BOOT, PANIC, running_guest, snp_works

pytestmark = [
    pytest.mark.patches(9),
    pytest.mark.areas("host", "panic"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(DEADLINE),
    pytest.mark.splat(CALLED),
]

Fresh = Callable[..., Host]


@pytest.mark.parametrize("guest", [False, True], ids=["idle", "guest"])
def test_resets_the_machine(fresh: Fresh, guest: bool) -> None:
    """A panic with panic=-1 resets the machine, with a guest running or without; then SNP works."""
    host = fresh()
    if guest:
        running_guest(host)
    host.kernel.boot_anew(PANIC, NEXT_BOOT, by_reset=True)
    snp_works(host.kernel, host.interface)
