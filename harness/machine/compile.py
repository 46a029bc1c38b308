# SPDX-License-Identifier: GPL-2.0-only
"""Configuring and compiling QEMU: small, out of its tree, with ninja and ccache."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from harness import cpus
from harness.kbuild import cache, fault
from harness.kbuild.compile import build_environment, compiler, compiler_version, running
from harness.kbuild.progress import Progress
from harness.machine.installed import PROGRAM

PACKAGES = (
    "git",
    "make",
    "gcc",
    "libc6-dev",
    "binutils",
    "ccache",
    "ninja-build",
    "pkg-config",
    "libglib2.0-dev",
    "zlib1g-dev",
    # The root file system comes over 9p (--enable-virtfs).
    "libattr1-dev",
    "libcap-ng-dev",
)

OPTIONS = (
    "--target-list=x86_64-softmmu",
    # No display, sound, block driver, network or accelerator but what is named.
    "--without-default-features",
    "--enable-system",
    "--enable-tcg",
    # Inside the machine it is the VMM of whole guests, with the KVM under test.
    "--enable-kvm",
    "--enable-virtfs",
    "--enable-attr",
    "--enable-cap-ng",
    # With a device tree come other machines' blobs; a PC has none.
    "--disable-fdt",
    "--disable-docs",
    "--disable-tools",
    "--disable-guest-agent",
    "--disable-install-blobs",
    # The cache is 30 MB instead of 250; who debugs QEMU builds it by hand.
    "--disable-debug-info",
    # Distributions' compilers warn of other things than QEMU's developers' do.
    "--disable-werror",
    # Nothing from the net: meson and all are in our own environment.
    "--disable-download",
)

CONFIGURE_TIMEOUT = 600.0
COMPILE_TIMEOUT = 5400.0
STATE = "snptest-configured.json"
"""In the object directory: what it was configured with."""

_STEP = re.compile(r"\[(\d+)/(\d+)\] ")


def compile_machine(
    source: Path, objects: Path, version: str, log: Path, progress: Progress
) -> Path:
    """Compile a source tree; return the program.  BuildError shows the first error."""
    configure(source, objects, version, log, progress)
    progress.stage("compiling QEMU")
    jobs = f"-j{cpus.usable()}"
    _run(["ninja", jobs, PROGRAM], objects, source, log, progress, COMPILE_TIMEOUT)
    return objects / PROGRAM


def configure(source: Path, objects: Path, version: str, log: Path, progress: Progress) -> None:
    """Configure, unless it was done so; ninja itself sees what changed in meson's files."""
    state = {
        "options": list(OPTIONS),
        "version": version,
        "source": str(source),
        "compiler": compiler_version(),
        "python": sys.executable,
    }
    if cache.read_json(objects / STATE) == state and (objects / "build.ninja").exists():
        return
    progress.stage("configuring QEMU")
    shutil.rmtree(objects, ignore_errors=True)
    objects.mkdir(parents=True)
    command = [str(source / "configure"), f"--cc={compiler()}", f"--python={sys.executable}"]
    _run([*command, *OPTIONS], objects, source, log, Progress(), CONFIGURE_TIMEOUT)
    cache.write_json(objects / STATE, state)


def _run(
    command: list[str], folder: Path, source: Path, log: Path, progress: Progress, timeout: float
) -> None:
    """Run a step of the build, its output into the log."""
    with (
        log.open("w", buffering=1) as sink,
        running(command, folder, build_environment(LC_ALL="C.UTF-8"), timeout) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            sink.write(line)
            if step := _STEP.match(line):
                progress.count(int(step[1]), int(step[2]))
        status = process.wait(timeout)
    if status:
        raise fault.read(log, [source]).error("QEMU", log)
