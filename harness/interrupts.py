# SPDX-License-Identifier: GPL-2.0-only
"""Signals that ask for the end: taken where a command waits, never amid what it is writing."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def by_sigterm() -> Iterator[None]:
    """Have SIGTERM end what is done in here as Ctrl-C does, by KeyboardInterrupt."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class Interrupts:
    """While it is entered, KeyboardInterrupt is raised within `waiting` only.

    A signal that comes at another moment is raised when the next wait begins.  One that is
    ignored (SIGHUP by nohup, SIGINT in a script's background) stays so.
    """

    def __init__(self) -> None:
        self._came = 0
        self._waiting = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take the signals over."""
        for number in ENDING:
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:
                self._before[number] = handler
                signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait in here; what is done in here may be broken off at any point."""
        try:
            self._waiting = True
            if self._came:
                self._came -= 1
                raise KeyboardInterrupt
            yield
        finally:
            self._waiting = False

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        if self._waiting:
            self._waiting = False  # also where `waiting` is left at this moment
            raise KeyboardInterrupt
        self._came += 1
