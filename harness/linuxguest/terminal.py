# SPDX-License-Identifier: GPL-2.0-only
"""A guest's console on the user's terminal, and what is typed there in the guest."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator

from harness.linuxguest.running import RunningGuest
from harness.operations import TargetError

LEAVE = b"\x1d"
"""Ctrl-], as of telnet and virsh: the guest is killed."""
LEAVE_SAID = "Ctrl-]"
_POLL = 0.2


def attach(guest: RunningGuest) -> bool:
    """Show the console until the guest ends; False where the user left before.

    Where standard input is a terminal, what is typed goes to the guest, key by key.
    """
    stop = threading.Event()
    typing = None
    with _raw() as interactive:
        if interactive:
            typing = threading.Thread(target=_type, args=(guest, stop), daemon=True)
            typing.start()
        shown = 0
        while not guest.ended and not stop.is_set():
            shown += _show(guest, shown)
            guest.console.more(shown, _POLL)
        _show(guest, shown)
        left = stop.is_set()
        stop.set()
        if typing is not None:
            typing.join(2 * _POLL + 1)
    return not left


def _show(guest: RunningGuest, shown: int) -> int:
    """Write what came behind a position; return how much that was."""
    data, count = guest.console.since(shown)
    view = memoryview(data)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]
    return count


def _type(guest: RunningGuest, stop: threading.Event) -> None:
    """Pass on what is typed until the guest, or the user, has gone."""
    while not stop.is_set() and not guest.ended:
        if not select.select([sys.stdin], [], [], _POLL)[0]:
            continue
        keys = os.read(sys.stdin.fileno(), 4096)
        before, leave, _ = keys.partition(LEAVE)
        try:
            if before:
                guest.press(before)
        except (TargetError, BrokenPipeError):
            return  # who shows the console sees the end
        if leave or not keys:
            stop.set()


@contextlib.contextmanager
def _raw() -> Iterator[bool]:
    """Have the terminal pass on keys as they are; tell whether there is a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield False
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield True
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
