# SPDX-License-Identifier: GPL-2.0-only
"""Times in which this process stood still: Ctrl-Z, a frozen container, a virtual machine on hold.

Clocks go on meanwhile.  What became overdue then says nothing of the kernel under test.
"""

from __future__ import annotations

import functools
import select
import threading
import time

LOOK = 1.0
"""Seconds between two looks at the clock."""
GAP = 10.0
"""Seconds without a look after which this process was not running: even a busy machine gives a
thread a moment within them."""


class Watch:
    """Adds up the times in which this process stood still.  Safe to be asked from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = 0.0
        self._last = time.monotonic()
        self._used = time.process_time()

    def total(self) -> float:
        """Return the seconds so far; 0 where it always ran."""
        with self._lock:
            now, used = time.monotonic(), time.process_time()
            gap = now - self._last
            # Native code that keeps our thread from looking uses the processor meanwhile.
            if gap > GAP and used - self._used < gap / 2:
                self._total += gap
            self._last, self._used = now, used
            return self._total

    def keep_looking(self) -> None:
        """Look again and again, without an end: for a thread."""
        while True:
            time.sleep(LOOK)
            self.total()


@functools.cache
def watch() -> Watch:
    """Return this process's watch; it begins with the first call."""
    made = Watch()
    threading.Thread(target=made.keep_looking, name="standstill", daemon=True).start()
    return made


def readable(fd: int, seconds: float) -> bool:
    """Wait until there is something to read; False after so many seconds in which we ran."""
    waited = 0.0
    while waited < seconds:
        now = min(LOOK, seconds - waited)
        if select.select([fd], [], [], now)[0]:
            return True
        waited += now  # not what the clock says: it goes on while we stand still
    return bool(select.select([fd], [], [], 0)[0])
