# SPDX-License-Identifier: GPL-2.0-only
"""Real kernels: an edit in sev.c to the gmem suite's verdict, and a boot, against bare commands.

Both sides build the same sources with the same configuration and compiler cache, each in an
object directory of its own, and boot with the same options: `make` and `vng -- true` here,
`snptest build`, `snptest run gmem` and `snptest boot` there.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import kbuild
from harness.kbuild import cache
from harness.kbuild.tree import KernelTree
from harness.runner import ROOT
from harness.vng.accel import accelerated
from harness.vng.machine import virtme_run

BASE = "linux-source-6.12"
NAME = "bench"
ROUNDS = 3
EDIT_BAR = 2.0
EDIT_BAR_SECONDS = 45.0
BOOT_BAR = 1.3
TIMEOUT = 3600.0
_SEV = "arch/x86/kvm/svm/sev.c"


def _run(command: Sequence[str], *, good: tuple[int, ...] = (0,), folder: Path = ROOT) -> float:
    """Run a command; return its seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    environment |= {"CCACHE_DIR": str(cache.root() / "ccache"), "SNPTEST_RESULTS": str(folder)}
    began = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT,
        check=False,
    )
    seconds = time.perf_counter() - began
    if done.returncode not in good:
        tail = (done.stdout + done.stderr)[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")
    return seconds


def _snptest(*words: str, folder: Path = ROOT) -> float:
    return _run([sys.executable, "-m", "harness", *words], folder=folder)


def _export(folder: Path) -> None:
    """Lay the sources of a built kernel out as a developer has them."""
    tree = KernelTree(cache.root() / "linux")
    archive = subprocess.Popen(
        ["git", "archive", kbuild.get(NAME).commit], cwd=tree.path, stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x"], cwd=folder, stdin=archive.stdout, check=True, timeout=TIMEOUT)
    if archive.wait(60):
        raise RuntimeError("git archive failed")


def _edit(source: Path, number: int) -> None:
    """Change what sev.c compiles to."""
    file = source / _SEV
    text = file.read_text().partition("\n/* bench */")[0]
    symbol = f"snptest_bench_{number}"
    file.write_text(
        f"{text}\n/* bench */\nint {symbol}(void);\nint {symbol}(void)\n{{\n\t"
        f"return {number};\n}}\n"
    )


def _make(source: Path, objects: Path) -> float:
    jobs = f"-j{len(os.sched_getaffinity(0))}"
    words = [f"O={objects}", "LOCALVERSION=", "CC=ccache gcc", "HOSTCC=ccache gcc", jobs]
    return _run(["make", "-C", str(source), *words, "bzImage", "modules"])


def _vng(image: Path) -> float:
    """Run vng -- true with what a boot of ours has: memory, CPUs, 9p, the same CPU model."""
    fast = accelerated(image)
    program = virtme_run()
    assert program is not None
    command = [str(Path(program).with_name("vng")), "--run", str(image), "--force-9p"]
    command += ["--memory", "1G", "--cpus", "2", "--append", "root=/dev/root"]
    if not fast:
        command.append("--disable-kvm")
    command += ["--qemu-opts=-cpu host" if fast else "--qemu-opts=-cpu max,+svm", "--", "true"]
    path = f"{Path(program).parent}:{os.environ['PATH']}"
    return _run(["env", f"PATH={path}", *command])


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
    _snptest("build", NAME, "--base", BASE)
    _export(source)
    _snptest("build", NAME, "--base", str(source))
    shutil.copy(kbuild.get(NAME).config, objects / ".config")
    _make(source, objects)
    ours: dict[str, list[float]] = {"build": [], "verdict": []}
    bare: dict[str, list[float]] = {"make": [], "vng": []}
    boots: list[float] = []
    for number in range(ROUNDS):
        _edit(source, 2 * number)
        bare["make"].append(_make(source, objects))
        image = objects / "arch/x86/boot/bzImage"
        bare["vng"].append(_vng(image))
        _edit(source, 2 * number + 1)
        ours["build"].append(_snptest("build", NAME, "--base", str(source)))
        # vng knows stock QEMU alone.
        words = ("run", "gmem", "--backend", "vng", "--machine", "stock", "--kernel", NAME)
        ours["verdict"].append(_snptest(*words, folder=folder))
        boots.append(_snptest("boot", NAME, "--machine", "stock", "--", "true"))
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
