# SPDX-License-Identifier: GPL-2.0-only
"""`snptest check`: the project's own tests, one stage after the other, all of them told."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from harness.places import ROOT
from harness.report.outcome import ExitCode
from harness.runner import python_environment

CODE = ("harness", "suites", "tests", "benchmarks", "guests", "conftest.py")
HEAVY = "kbuild"
"""Marker of tests that build or boot kernels; --quick leaves them out."""

# pytest's last line: "3 failed, 20 passed, 1 skipped, 2 errors in 1.23s".
_COUNTS = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed)\b")


@dataclass
class Stage:
    """One program of the check and how it went."""

    name: str
    command: Sequence[str]
    status: int = 0
    seconds: float = 0.0
    last_line: str = ""

    @property
    def judged(self) -> bool:
        """Whether it came to a verdict, good or bad."""
        return self.status in (0, 1)

    def execute(self) -> None:
        """Run it, its output passing through as it comes."""
        if self.command[1] == "-m" and find_spec(self.command[2]) is None:
            self.status = ExitCode.BROKEN
            print(f"=== {self.name}: the Python environment lacks the module {self.command[2]}")
            return
        print(f"=== {self.name}", flush=True)
        began = time.monotonic()
        with subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=python_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                sys.stdout.write(line)
                sys.stdout.flush()
                self.last_line = line.strip() or self.last_line
        self.status = process.returncode
        self.seconds = time.monotonic() - began
        word = "FAILED" if self.judged else "BROKEN"
        verdict = "ok" if self.status == 0 else f"{word} (status {self.status})"
        print(f"=== {self.name}: {verdict} in {self.seconds:.1f} s\n", flush=True)


def stages(*, quick: bool) -> list[Stage]:
    """List what a check runs, cheapest first."""
    code = [name for name in CODE if (ROOT / name).exists()]
    python = [name for name in code if name.endswith(".py") or any((ROOT / name).rglob("*.py"))]
    module = [sys.executable, "-m"]
    selection = ["-m", f"not {HEAVY}"] if quick else []
    return [
        Stage("ruff check", [*module, "ruff", "check", *python]),
        Stage("ruff format", [*module, "ruff", "format", "--check", *python]),
        Stage("mypy --strict", [*module, "mypy", "--strict", *python]),
        Stage("suites", [*module, "harness", "run"]),
        Stage(
            "pytest",
            [*module, "pytest", "tests", "-n", "auto", "--dist", "loadfile", "-ra", *selection],
        ),
    ]


def counts_of(line: str) -> Counter[str]:
    """Read pytest's last line."""
    return Counter({word.rstrip("s"): int(number) for number, word in _COUNTS.findall(line)})


def check(*, quick: bool) -> int:
    """Run all stages even when one fails; end with a line that sums up."""
    began = time.monotonic()
    done = stages(quick=quick)
    for stage in done:
        stage.execute()
    counts = counts_of(done[-1].last_line)
    failed = counts["failed"] + counts["error"] + counts["xpassed"]
    for stage in done:
        word = "ok" if stage.status == 0 else "FAILED" if stage.judged else "BROKEN"
        print(f"{stage.name:16} {word:8} {stage.seconds:6.1f} s")
    bad = [stage.name for stage in done if stage.status != 0]
    # A failing linter is a failure of the check as a test is.
    failed += sum(stage.status != 0 for stage in done[:-1])
    if done[-1].status != 0 and not failed:
        failed = 1
    passed = counts["passed"] + counts["xfailed"] + sum(each.status == 0 for each in done[:-1])
    took = time.monotonic() - began
    print(f"total {took:.0f} s; includes {len(done) - 1} stages that count as one each")
    print(f"{passed} passed, {failed} failed, {counts['skipped']} skipped")
    if not all(stage.judged for stage in done):
        return ExitCode.BROKEN  # a tool that is missing or died tells nothing
    return ExitCode.FAILED if bad else ExitCode.PASSED
