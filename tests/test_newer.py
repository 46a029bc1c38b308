# SPDX-License-Identifier: GPL-2.0-only
"""The newest Linux 7 that a Debian suite has: built, booted, and nothing wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import kbuild
from harness.deadline import deadline
from harness.errors import UserError
from harness.kbuild import debsource
from tests import test_vng
from tests.mutants.mutant import ROOT

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
    output = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "harness", "run", "gmem", "psc", "launch"]
    done = subprocess.run(
        [*command, "--kernel", newer.name, "--json", str(output)],
        cwd=ROOT,
        env={**os.environ, "SNPTEST_RESULTS": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    results = [json.loads(line) for line in output.read_text().splitlines()]
    passed = [each for each in results if each.get("outcome") == "pass"]
    assert {each["suite"] for each in passed} == {"gmem", "psc", "launch"}
    assert len(passed) > 200
