# SPDX-License-Identifier: GPL-2.0-only
"""`snptest run` as a process of its own, for tests that look at what it says and writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutants.mutant import ROOT


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that ended."""

    code: int
    text: str
    """What it printed, standard error last."""
    results: list[dict[str, Any]]


def run(*words: str, folder: Path, timeout: float, **environment: str) -> Finished:
    """Run suites; results and reports go below `folder`.

    On stock QEMU unless a machine is named, whether or not the SNP machine was built.
    """
    if "--kernel" in words and not {"--machine", "--host"} & set(words):
        words = (*words, "--machine", "stock")
    lines = folder / "results.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "harness", "run", "-n", "1", *words, "--json", str(lines)],
        cwd=ROOT,
        env={**os.environ, "SNPTEST_RESULTS": str(folder / "results"), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    text = lines.read_text() if lines.exists() else ""
    events = [json.loads(line) for line in text.splitlines()]
    results = [each for each in events if each["event"] == "result"]
    return Finished(done.returncode, done.stdout + done.stderr, results)
