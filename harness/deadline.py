# SPDX-License-Identifier: GPL-2.0-only
"""Deadlines for tests: nothing hangs, and what hung is told.

First a signal raises in the test, which is then a crash like that of any kernel that hung.
Where the signal does not get through (native code that does not come back), the process is
ended after a grace period with every thread's stack on disk; the runner starts another.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

from harness.operations import TargetTimeoutError

GRACE = 30.0
"""Seconds between the signal and the end of the process."""

REPEAT = 2.0
"""Seconds between signals: one that is raised inside a foreign callback is lost."""


@contextlib.contextmanager
def deadline(seconds: float, what: str, stacks: TextIO | None = None) -> Iterator[None]:
    """Raise TargetTimeoutError in the main thread when the block takes longer.

    Inside another deadline, that one stands still; it has at least a moment left afterwards.
    """
    if seconds <= 0 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(_number: int, frame: FrameType | None) -> None:
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "unknown"
        raise TargetTimeoutError(f"{what} did not end within {seconds:g} s; it was at {where}")

    before = signal.signal(signal.SIGALRM, expire)
    if stacks is not None:
        faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=stacks)
    outer, outer_repeat = signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if stacks is not None:
            faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, outer, outer_repeat)
