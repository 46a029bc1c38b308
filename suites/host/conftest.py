# SPDX-License-Identifier: GPL-2.0-only
"""Hosts whose kernel is ended: each test has a machine of its own, and no other test sees it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.kernel import Kernel
from harness.vm.host import Host

DEADLINE = 900.0
"""Seconds for a test that boots two or three times: TCG on busy cores."""


@pytest.fixture
def fresh(kernel: Kernel, boot: Callable[..., Host]) -> Callable[..., Host]:
    """Boots a host for this test alone: fresh(crashkernel="256M")."""
    if not kernel.boots_anew:
        pytest.skip(
            "ends the host's kernel, which is done to machines that were booted for it only: "
            "--kernel NAME --machine snp"
        )
    return lambda **parameters: boot(own=True, **parameters)
