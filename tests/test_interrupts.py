# SPDX-License-Identifier: GPL-2.0-only
"""Signals that ask for the end are taken where a command waits."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from harness.interrupts import ENDING, Interrupts


@pytest.fixture(autouse=True)
def _not_ignored() -> Iterator[None]:
    """Signals as a terminal's commands have them, whatever pytest was started with."""
    before = [(number, signal.signal(number, signal.SIG_DFL)) for number in ENDING]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_work_is_not_broken_off(number: signal.Signals) -> None:
    with Interrupts() as interrupts:
        os.kill(os.getpid(), number)
        done = False
        with pytest.raises(KeyboardInterrupt), interrupts.waiting():
            time.sleep(60)
        with interrupts.waiting():
            done = True
    assert done


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_wait_is_broken_off(number: signal.Signals) -> None:
    began = time.monotonic()
    later = threading.Timer(0.2, os.kill, (os.getpid(), number))
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.waiting():
        later.start()
        time.sleep(60)
    later.join()
    assert time.monotonic() - began < 60


def test_each_signal_counts() -> None:
    with Interrupts() as interrupts:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt), interrupts.waiting():
                time.sleep(60)


def test_what_is_ignored_stays_so_and_handlers_come_back() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handlers = [signal.getsignal(number) for number in ENDING]
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            with interrupts.waiting():
                pass
        assert [signal.getsignal(number) for number in ENDING] == handlers
    finally:
        signal.signal(signal.SIGHUP, before)
