# SPDX-License-Identifier: GPL-2.0-only
"""Whether KVM can run the kernel under test, found out by trying."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

PROBE_TIMEOUT = 20.0
_QEMU = "qemu-system-x86_64"
KVM = Path("/dev/kvm")
NESTED = Path("/sys/module/kvm_amd/parameters/nested")
SLOWER = "3 to 15"
"""Than without emulation, measured with QEMU 7.2 and Linux 6.1 in it: a loop that computes 3 times,
system calls 5 to 8, page faults 8 to 15."""


@cache
def accelerated(image: Path) -> bool:
    """Whether KVM can run a kernel that itself uses SVM: on AMD, with nesting, if it works.

    /dev/kvm may be there and hang its guests, so a kernel is booted to its panic for want of
    a root filesystem, under a deadline.
    """
    if why_not() is not None:
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


def why_not() -> str | None:
    """Say in one line why KVM cannot be used, as far as that is seen without trying."""
    if not KVM.exists():
        return "there is no /dev/kvm"
    if not os.access(KVM, os.R_OK | os.W_OK):
        return "no permission to use /dev/kvm (adduser $USER kvm, then log in again)"
    try:
        nested = NESTED.read_text().strip()
    except OSError:
        return "this machine's KVM is not kvm_amd, and has no SVM for its guests"
    return None if nested in ("1", "Y") else f"kvm_amd.nested is {nested}: its guests have no SVM"


def slowness() -> str | None:
    """Say in one line that everything is emulated, why, and what that costs; None under KVM."""
    reason = why_not()
    if reason is None:
        return None
    return f"without KVM: {reason}; QEMU emulates the processor (TCG), {SLOWER} times slower"
