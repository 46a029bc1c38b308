# SPDX-License-Identifier: GPL-2.0-only
"""An SNP guest on the emulator: launch to first VMGEXIT to end; and GHCB round trips.

Guest code runs on a CPU emulator, so the yardstick for both is the interpreter itself: a
calibration loop in the same process, beside the absolute bars.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from harness.emulator.emulator import Emulator
from harness.uapi import ghcb
from harness.uapi.interfaces import MERGED
from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.mailbox import Command, Op

LAUNCHES = 40
LAUNCH_BAR_MS = 15.0
BATCH = 60
ROUNDS = 30
EXIT_BAR_US = 30.0


def _calibrate() -> float:
    """Seconds that the interpreter takes for 100,000 additions."""
    begin, total = time.perf_counter(), 0
    for number in range(100_000):
        total += number
    return time.perf_counter() - begin


def _launch(host: Host) -> float:
    begin = time.perf_counter()
    with Guest.launch(host) as guest:
        guest.cpu(0).boot()
    return time.perf_counter() - begin


def _round_trips(guest: Guest) -> float:
    """Seconds for one more VMGEXIT: what a long batch takes beyond an empty one."""
    cpu = guest.cpu(0)
    begin = time.perf_counter()
    cpu.run(Command(Op.NOP) for _ in range(BATCH))
    middle = time.perf_counter()
    results = cpu.run(
        Command(Op.VMGEXIT, (ghcb.SVM_VMGEXIT_HV_FEATURES, 0, 0)) for _ in range(BATCH)
    )
    end = time.perf_counter()
    if not all(result.ok for result in results):
        raise RuntimeError(f"a VMGEXIT failed: {results}")
    return ((end - middle) - (middle - begin)) / BATCH


def run() -> list[dict[str, Any]]:
    """Measure both; medians."""
    with Emulator("merged") as kernel:
        host = Host(kernel, MERGED)
        _launch(host)
        calibration, launches = [], []
        for _ in range(LAUNCHES):
            calibration.append(_calibrate())
            launches.append(_launch(host))
        with Guest.launch(host) as guest:
            guest.cpu(0).boot()
            trips = [_round_trips(guest) for _ in range(ROUNDS)]
    unit = statistics.median(calibration)
    launch, trip = statistics.median(launches), statistics.median(trips)
    return [
        {
            "name": "emulator: VM launched, run to its first VMGEXIT, destroyed",
            "ratio": round(launch * 1e3, 2),
            "bar": LAUNCH_BAR_MS,
            "unit": "ms",
            "detail": {"calibration_loops": round(launch / unit, 2)},
        },
        {
            "name": "emulator: round trip of a VMGEXIT with the GHCB page",
            "ratio": round(trip * 1e6, 2),
            "bar": EXIT_BAR_US,
            "unit": "us",
            "detail": {"calibration_loops": round(trip / unit, 5)},
        },
    ]


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
