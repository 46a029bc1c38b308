# SPDX-License-Identifier: GPL-2.0-only
"""Hosts of a labgrid coordinator: a place is acquired for a job, and released behind it.

labgrid's own client does it, as `labgrid-client` on PATH: a farm has it, of its coordinator's
version, and labgrid in our environment would be a plugin of every pytest there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

from harness.errors import UserError
from harness.report import sanitize

CLIENT = "labgrid-client"
TIMEOUT = 60.0
"""Seconds for one command of the client."""
WAIT = 1800.0
"""Seconds to wait for a place that somebody else has."""
PAUSE = 10.0
_OURS = re.compile(r"You have already acquired place \S+\.$")
_OTHERS = re.compile(r"\balready acquired\b|\bwas not reserved for\b")
"""What labgrid-client says: a place is somebody's, of the same name on another host, or reserved;
one of its resources is acquired by another place; the coordinator has just given it away."""


@contextlib.contextmanager
def acquired(coordinator: str, place: str, owner: str, wait: float = WAIT) -> Iterator[None]:
    """Have a place, waiting for it if need be; UserError where it is not to be had in time.

    owner: the user's name for labgrid.  What a killed process of the same owner on this host has
    left acquired is taken over.
    """
    deadline = time.monotonic() + wait
    while _is_others(problem := _client(coordinator, place, owner, "acquire")):
        if time.monotonic() + PAUSE > deadline:
            break
        time.sleep(PAUSE)
    if problem and not _OURS.search(problem):
        raise UserError(f"labgrid place {place}: {problem}", f"labgrid-client -x {coordinator} who")
    try:
        yield
    finally:
        # The coordinator gives it back when we are gone, too; a failure costs only time.
        if problem := _client(coordinator, place, owner, "release"):
            raise UserError(f"labgrid place {place} was not released: {problem}")


def _is_others(problem: str) -> bool:
    """Whether somebody else has the place, who will give it back."""
    return bool(_OTHERS.search(problem)) and not _OURS.search(problem)


def _client(coordinator: str, place: str, owner: str, verb: str) -> str:
    """Run the client; return why it failed, "" where it did not."""
    program = shutil.which(CLIENT)
    if program is None:
        return f"{CLIENT} is not installed (pip install labgrid)"
    try:
        done = subprocess.run(
            [program, "-x", coordinator, "-p", place, verb],
            env=os.environ | {"LG_USERNAME": owner},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the coordinator {coordinator} did not answer in {TIMEOUT:.0f} s"
    if not done.returncode:
        return ""
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return sanitize.line(lines[-1], 200) if lines else f"{CLIENT} ended with {done.returncode}"
