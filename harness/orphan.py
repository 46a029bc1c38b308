# SPDX-License-Identifier: GPL-2.0-only
"""Processes that must not go on when the one that started them has died, however it died."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; at once where it has already.

    PR_SET_PDEATHSIG (prctl(2)) looks at the parent's thread that forked: here the main thread.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
