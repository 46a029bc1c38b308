# SPDX-License-Identifier: GPL-2.0-only
"""`snptest run` as a process of its own: its results as they come, for commands made of runs.

What runs there dies with whoever asked for it, however that one ends (harness/leash.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import leash
from harness.report import sanitize
from harness.report.outcome import ExitCode, Result
from harness.report.pipe import ResultPipe
from harness.runner import python_environment

SILENCE = 3600.0
"""Seconds without a result before a run is given up: it has its own, shorter deadlines."""
END = 120.0
"""Seconds that it may take to end after it has closed its results."""
SAID = 2000
"""Characters of what a run printed that are kept."""


@dataclass
class SuiteRun:
    """What a run came to."""

    results: list[Result] = field(default_factory=list)
    header: dict[str, Any] = field(default_factory=dict)
    """The first line of its results: backend, interface, kernel, machine, seed."""
    code: int = ExitCode.BROKEN
    broken: list[str] = field(default_factory=list)
    """Why the results are not the whole truth."""
    said: str = ""
    """The end of what it printed, sanitised."""

    @property
    def folder(self) -> str:
        """Where its results are kept; "" where it did not get that far."""
        return sanitize.line(str(self.header.get("folder", "")))

    @property
    def whole(self) -> bool:
        """Whether the run ended by itself with all its results."""
        return not self.broken and self.code in (ExitCode.PASSED, ExitCode.FAILED, ExitCode.BROKEN)


def run(
    words: Sequence[str],
    listener: Callable[[Result], None] = lambda result: None,
    silence: float = SILENCE,
    *,
    history: bool = True,
    within: float | None = None,
) -> SuiteRun:
    """Run `snptest run WORDS`; the listener gets each result as it ends.

    history: keep it in the history, as a run that a user started.
    within: seconds after which it is ended, with the results that it has.
    """
    done = SuiteRun()
    command = [sys.executable, leash.__file__, "", sys.executable, "-P", "-m", "harness", "run"]
    command += words if history else (*words, "--no-history")
    with tempfile.TemporaryFile() as said, ResultPipe() as pipe:
        process = subprocess.Popen(
            [*command, "--json", pipe.name],
            env=python_environment(),
            stdin=subprocess.PIPE,  # the leash
            stdout=said,
            stderr=subprocess.STDOUT,
            pass_fds=[pipe.fd],
        )
        pipe.started()
        finished = True
        try:
            finished = _listen(pipe, done, listener, silence, within)
            done.code = _status(process, done)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # whatever still runs is killed
            process.wait(END)
        size = said.seek(0, os.SEEK_END)
        said.seek(max(0, size - SAID))
        done.said = sanitize.text(said.read()).strip()
    if not finished and not done.broken:
        done.broken.append(last_line(done.said) or f"the run ended early with {done.code}")
    return done


def last_line(said: str) -> str:
    """Return what a command complained of: its line that begins so, or the last."""
    lines = [line for line in said.splitlines() if line.strip()]
    complaints = [line for line in lines if line.startswith("snptest: ")]
    return (complaints or lines or [""])[-1].removeprefix("snptest: ").strip()


def _listen(
    pipe: ResultPipe,
    done: SuiteRun,
    listener: Callable[[Result], None],
    silence: float,
    within: float | None,
) -> bool:
    """Take in events until the run closes them; tell whether it came to its end."""
    end = None if within is None else time.monotonic() + within
    finished = False
    while not pipe.ended:
        left = silence if end is None else max(0.0, min(silence, end - time.monotonic()))
        ready = pipe.wait(left)
        if end is not None and time.monotonic() >= end:
            done.broken.append(f"it was not done after {within:.0f} s; the run was ended")
            return False
        if not ready:
            done.broken.append(f"nothing happened for {silence:.0f} s; the run was ended")
            return False
        for event in pipe.events():
            if event.result is not None:
                done.results.append(event.result)
                listener(event.result)
            elif event.kind == "start":
                done.header = event.fields
            elif event.kind == "finish":
                finished = True
                done.broken += event.broken
    if pipe.lines.complaint:
        done.broken.append(pipe.lines.complaint)
    return finished


def _status(process: subprocess.Popen[bytes], done: SuiteRun) -> int:
    began = time.monotonic()
    try:
        return process.wait(END if not done.broken else 1.0)
    except subprocess.TimeoutExpired:
        if not done.broken:
            done.broken.append(f"the run did not end in {time.monotonic() - began:.0f} s")
        return ExitCode.BROKEN
