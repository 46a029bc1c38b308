# SPDX-License-Identifier: GPL-2.0-only
"""The newest Linux 7 that a Debian suite has: built, booted, and nothing wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import kbuild
from harness.deadline import deadline
from harness.errors import UserError
from harness.kbuild import debsource
from tests import test_vng
from tests.runs import run

pytestmark = [*test_vng.pytestmark, pytest.mark.deadline(1200)]
BASE = "linux-source-7.x"


@pytest.fixture(scope="module")
def newer() -> kbuild.KernelBuild:
    """The kernel, without patches."""
    try:
        debsource.resolve(BASE)
    except UserError as error:
        pytest.skip(f"{BASE} cannot be had: {error}")
    with deadline(test_vng.BUILD_TIMEOUT, "building a newer kernel"):
        return kbuild.build("selftest-newer", BASE, None)


def test_suites_pass_on_a_newer_kernel(newer: kbuild.KernelBuild, tmp_path: Path) -> None:
    """What 6.12 does is done there, too; the interfaces that differ are data."""
    assert newer.version >= (7, 0)
    done = run(*("gmem", "psc", "launch", "--kernel", newer.name), folder=tmp_path, timeout=1000)
    assert done.code == 0, done.text[-4000:]
    passed = [each for each in done.results if each["outcome"] == "pass"]
    assert {each["suite"] for each in passed} == {"gmem", "psc", "launch"}
    assert len(passed) > 200
