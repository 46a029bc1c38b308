# SPDX-License-Identifier: GPL-2.0-only
"""Real kernels: an edit in sev.c to the gmem suite's verdict, and a boot, against bare commands.

Both sides build the same sources with the same configuration and compiler cache, each in an
object directory of its own, and boot with the same options: `make` and `vng -- true` here,
`snptest build`, `snptest run gmem` and `snptest boot` there.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import _bare
from benchmarks._bare import snptest
from harness import kbuild
from harness.kbuild import cache

BASE = "linux-source-6.12"
NAME = "bench"
ROUNDS = 3
EDIT_BAR = 2.0
EDIT_BAR_SECONDS = 45.0
BOOT_BAR = 1.3
_SEV = "arch/x86/kvm/svm/sev.c"


def _edit(source: Path, number: int) -> None:
    """Change what sev.c compiles to."""
    file = source / _SEV
    text = file.read_text().partition("\n/* bench */")[0]
    symbol = f"snptest_bench_{number}_{time.time_ns()}"  # no cache knows it
    file.write_text(
        f"{text}\n/* bench */\nint {symbol}(void);\nint {symbol}(void)\n{{\n\t"
        f"return {number};\n}}\n"
    )


def run() -> list[dict[str, Any]]:
    """Measure both; medians."""
    # Not /tmp: a guest of vng's has one of its own.  Not the cache: a build refuses what is in it.
    folder = Path(tempfile.mkdtemp(prefix="snptest-bench-", dir=cache.root().parent))
    try:
        return _measured(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(folder: Path) -> list[dict[str, Any]]:
    source, objects = folder / "linux", folder / "objects"
    source.mkdir()
    objects.mkdir()
    build = ("build", NAME, "--base")
    snptest(*build, BASE)
    _bare.export(kbuild.get(NAME).commit, source)
    snptest(*build, str(source))
    shutil.copy(kbuild.get(NAME).config, objects / ".config")
    make = _bare.make_words(source, objects)
    _bare.run(make)
    ours: dict[str, list[float]] = {"build": [], "verdict": []}
    bare: dict[str, list[float]] = {"make": [], "vng": []}
    boots: list[float] = []
    for number in range(ROUNDS):
        _edit(source, 2 * number)
        bare["make"].append(_bare.run(make).seconds)
        vng = _bare.vng_words(objects / "arch/x86/boot/bzImage", "true")
        bare["vng"].append(_bare.run(vng).seconds)
        _edit(source, 2 * number + 1)
        ours["build"].append(snptest(*build, str(source)).seconds)
        # vng knows stock QEMU alone.
        words = ("run", "gmem", "--backend", "vng", "--machine", "stock", "--kernel", NAME)
        ours["verdict"].append(snptest(*words, folder=folder).seconds)
        boots.append(snptest("boot", NAME, "--machine", "stock", "--", "true").seconds)
    median = {name: statistics.median(values) for name, values in {**ours, **bare}.items()}
    whole = median["build"] + median["verdict"]
    detail = {name: round(value, 1) for name, value in median.items()}
    return [
        {
            "name": "edit of sev.c to the gmem suite's verdict, against make and vng -- true",
            "ratio": round(whole / (median["make"] + median["vng"]), 2),
            "bar": EDIT_BAR,
            "detail": json.dumps(detail),
        },
        {
            "name": "the same, absolute",
            "ratio": round(whole, 1),
            "bar": EDIT_BAR_SECONDS,
            "unit": "s",
        },
        {
            "name": "boot -- true, against vng -- true",
            "ratio": round(statistics.median(boots) / median["vng"], 2),
            "bar": BOOT_BAR,
            "detail": f"{statistics.median(boots):.1f} s",
        },
    ]
