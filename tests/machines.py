# SPDX-License-Identifier: GPL-2.0-only
"""The SNP machine for tests that run it: built where it is not, and found at once where it is."""

from __future__ import annotations

import pytest

from harness.deadline import deadline
from harness.machine import build, installed

BUILD_TIMEOUT = 3600.0


@pytest.fixture(scope="session")
def snp_machine() -> installed.MachineBuild:
    """Build under a deadline of its own: a fixture's is far too short for it."""
    with deadline(BUILD_TIMEOUT, "building the SNP machine"):
        return build.build()
