# SPDX-License-Identifier: GPL-2.0-only
"""The bare commands that benchmarks compare with: make, and vng, as a developer calls them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.kbuild import cache
from harness.kbuild.tree import KernelTree
from harness.places import ROOT
from harness.vng.accel import accelerated
from harness.vng.machine import virtme_run

TIMEOUT = 3600.0


class Ran(NamedTuple):
    """What a command took, in seconds, and what it printed."""

    seconds: float
    output: str


def run(
    command: Sequence[str],
    *,
    good: tuple[int, ...] = (0,),
    folder: Path = ROOT,
    variables: Mapping[str, str] | None = None,
) -> Ran:
    """Run a command.  RuntimeError: it ended otherwise than well."""
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    environment |= {"CCACHE_DIR": str(cache.root() / "ccache"), "SNPTEST_RESULTS": str(folder)}
    began = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**environment, **(variables or {})},
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
    return Ran(seconds, done.stdout)


def snptest(*words: str, folder: Path = ROOT, good: tuple[int, ...] = (0,)) -> Ran:
    """Run one of our commands."""
    return run([sys.executable, "-m", "harness", *words], folder=folder, good=good)


def export(commit: str, folder: Path) -> None:
    """Lay the sources of a commit in the cache out as a developer has them."""
    tree = KernelTree(cache.root() / "linux")
    archive = subprocess.Popen(["git", "archive", commit], cwd=tree.path, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x"], cwd=folder, stdin=archive.stdout, check=True, timeout=TIMEOUT)
    if archive.wait(60):
        raise RuntimeError("git archive failed")


def make_words(source: Path, objects: Path) -> list[str]:
    """Return the make that builds a kernel, with the compiler cache that our builds have."""
    jobs = f"-j{len(os.sched_getaffinity(0))}"
    words = [f"O={objects}", "LOCALVERSION=", "CC=ccache gcc", "HOSTCC=ccache gcc", jobs]
    return ["make", "-C", str(source), *words, "bzImage", "modules"]


def vng_words(image: Path, *command: str, writable: Path | None = None) -> list[str]:
    """Return the vng that runs a command with what a boot of ours has: memory, CPUs, 9p, model.

    A directory can be `writable` for it.
    """
    fast = accelerated(image)
    program = virtme_run()
    assert program is not None
    path = f"{Path(program).parent}:{os.environ['PATH']}"
    words = ["env", f"PATH={path}", str(Path(program).with_name("vng"))]
    words += ["--run", str(image), "--force-9p", "--memory", "1G", "--cpus", "2"]
    words += ["--append", "root=/dev/root"]
    if not fast:
        words.append("--disable-kvm")
    if writable is not None:
        words += ["--rwdir", str(writable)]
    words.append("--qemu-opts=-cpu host" if fast else "--qemu-opts=-cpu max,+svm")
    return [*words, "--", *command]
