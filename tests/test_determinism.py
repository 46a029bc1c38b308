# SPDX-License-Identifier: GPL-2.0-only
"""The emulator run twice with one seed does the same twice."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.emulator.emulator import Emulator
from harness.emulator.machine import MachineConfig
from harness.uapi.interfaces import INTERFACES
from harness.vm import layout
from harness.vm.guest import Guest
from harness.vm.host import Host

ROOT = Path(__file__).resolve().parents[1]
COUNTER = layout.SHARED_FREE_GPA


def _race(seed: int | None) -> tuple[str, dict[str, int]]:
    """Two vCPUs convert and count at once: a hash of what they left, and the event counters."""
    with Emulator("merged", MachineConfig(seed=seed)) as kernel:
        host = Host(kernel, INTERFACES["merged"])
        with Guest.launch(host, vcpus=2) as guest:
            for cpu in guest.cpus:
                cpu.boot()
            both = [
                guest.cpu(number).start(
                    guest.cpu(number).locked_add(COUNTER, 1, 2000, private=False),
                    guest.cpu(number).store_loop(
                        COUNTER + 64, 3000, stride=8, span=512, private=False
                    ),
                )
                for number in range(2)
            ]
            guest.wait(both)
            guest.cpu(1).make_private(0x400000, 0x8000)
            shared = guest.vm.read_gpa(layout.SHARED_WINDOW_GPA, layout.SHARED_WINDOW_SIZE)
            total = int.from_bytes(guest.vm.read_gpa(COUNTER, 8), "little")
            assert total == 4000
        assert kernel.inspector is not None
        return hashlib.sha256(shared).hexdigest(), kernel.inspector.counters()


@pytest.mark.parametrize("seed", [None, 1, 99])
def test_two_vcpus_race_the_same_way_twice(seed: int | None) -> None:
    """One seed gives one outcome: memory and counters are the same in a second run."""
    assert _race(seed) == _race(seed)


def _results(folder: Path, name: str) -> list[tuple[str, str, str]]:
    """Run a suite with a seed; (test, outcome, reason) in the order of their names."""
    output = folder / f"{name}.jsonl"
    subprocess.run(
        [sys.executable, "-m", "harness", "run", "ap_creation", "--seed", "5", "--json", output],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=300,
        check=True,
    )
    records = [json.loads(line) for line in output.read_text().splitlines()]
    return sorted(
        (r["id"], r["outcome"], r.get("reason") or "") for r in records if r["event"] == "result"
    )


def test_a_suite_gives_the_same_results_twice(tmp_path: Path) -> None:
    """A suite run twice with one seed gives the same outcomes for the same reasons."""
    first = _results(tmp_path, "first")
    assert len(first) > 20
    assert first == _results(tmp_path, "second")
