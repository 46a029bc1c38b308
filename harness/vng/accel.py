# SPDX-License-Identifier: GPL-2.0-only
"""Whether KVM can run the kernel under test, found out by trying."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

PROBE_TIMEOUT = 20.0
_QEMU = "qemu-system-x86_64"


@cache
def accelerated(image: Path) -> bool:
    """Whether KVM can run a kernel that itself uses SVM: on AMD, with nesting, if it works.

    /dev/kvm may be there and hang its guests, so a kernel is booted to its panic for want of
    a root filesystem, under a deadline.
    """
    nested = Path("/sys/module/kvm_amd/parameters/nested")
    try:
        if nested.read_text().strip() not in ("1", "Y") or not os.access("/dev/kvm", os.W_OK):
            return False
    except OSError:
        return False
    command = [_QEMU, "-accel", "kvm", "-cpu", "host", "-m", "512M", "-display", "none"]
    command += ["-no-reboot", "-nodefaults", "-serial", "stdio", "-kernel", str(image)]
    command += ["-append", "console=ttyS0 panic=-1"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"Kernel panic" in done.stdout
