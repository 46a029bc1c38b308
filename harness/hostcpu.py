# SPDX-License-Identifier: GPL-2.0-only
"""What needs an x86-64 machine: everything but the emulator, and driving other hosts."""

from __future__ import annotations

import platform

from harness.errors import UserError

X86_64 = "x86_64"
HERE = "here: ./snptest run, on the emulator; ./snptest run --host NAME, on a host as it runs"


def is_x86_64() -> bool:
    """Whether this machine's programs are those of the kernels that are tested."""
    return platform.machine() == X86_64


def why_not_x86_64(what: str) -> str | None:
    """Say in one line that `what` cannot be done on this machine; None where it can."""
    if is_x86_64():
        return None
    return f"{what} needs an x86-64 machine; this one is {platform.machine() or 'unknown'}"


def need_x86_64(what: str) -> None:
    """Raise UserError where `what` cannot be done on this machine."""
    reason = why_not_x86_64(what)
    if reason is not None:
        raise UserError(reason, HERE)
