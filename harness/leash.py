# SPDX-License-Identifier: GPL-2.0-only
"""Runs a command that must not outlive the process that started it.

    python leash.py SCRATCH [stdin:FD] COMMAND...

Standard input is a pipe that nobody writes to; its other end is held by the process that
the command belongs to.  When that end closes, however its holder died, everything in the
command's process group is killed and the scratch directory (unless empty) is removed.
The command reads from the file descriptor that stdin: names, else from nothing.
Exit status: the command's.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys


def main(scratch: str, command: list[str]) -> int:
    """Run the command until it ends or the leash is let go."""
    source = subprocess.DEVNULL
    if command[0].startswith("stdin:"):
        source = int(command.pop(0).partition(":")[2])
    # A terminal's Ctrl-C is for our holder to judge.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    process = subprocess.Popen(
        command,
        stdin=source,
        close_fds=False,  # what our holder passed on is for the command
        start_new_session=True,
        preexec_fn=_default_signals,  # noqa: PLW1509  no threads here
    )
    poll = select.poll()
    ended = os.pidfd_open(process.pid)
    poll.register(ended, select.POLLIN)
    poll.register(0, select.POLLIN)
    poll.poll()
    # Also when the command itself has ended: what it started must not stay behind.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    return status if status >= 0 else 128 - status


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
