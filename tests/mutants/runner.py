# SPDX-License-Identifier: GPL-2.0-only
"""Runs the suite tests that must catch a mutant against it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutant import Mutant

DEADLINE = 120.0
"""Seconds for one mutant; a test that hangs on it has caught it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant."""

    failed: tuple[str, ...]
    why: str

    @property
    def caught(self) -> bool:
        """Whether a test failed on it."""
        return bool(self.failed)


def judge(mutant: Mutant) -> Verdict:
    """Run the mutant's tests, stopping at the first failure.

    A test that does not run at all (a mutant that breaks the import, a wrong node id) is an
    error in the mutant, not a catch.
    """
    with tempfile.TemporaryDirectory(prefix="snptest-mutant-") as folder:
        mutant.plant(Path(folder))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
        try:
            done = subprocess.run(
                [*command, "-rfE", "--backend", "emulator", *mutant.tests],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return Verdict(mutant.tests[:1], f"hangs for {DEADLINE:g} s")
    failed = tuple(
        re.findall(r"^(?:FAILED|ERROR) ((?:suites|tests)/\S+::\S+)", done.stdout, re.MULTILINE)
    )
    if done.returncode == 1 and failed:
        return Verdict(failed, failed[0])
    if done.returncode == 0:
        return Verdict((), "every test passed")
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    return Verdict((), f"pytest ended with {done.returncode}: {' '.join(last)}")
