# SPDX-License-Identifier: GPL-2.0-only
"""Runs the suites in a pytest of their own and hands on what happens, whatever happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.interrupts import Interrupts
from harness.places import ROOT
from harness.report import sanitize
from harness.report.events import Event
from harness.report.outcome import Result
from harness.report.pipe import ResultPipe

SILENCE = 300.0
"""Seconds beyond a test's deadline in which nothing at all happens before the run is given up."""

_SOURCES = str(ROOT)
_PYTHONS_OWN = frozenset({"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONHASHSEED"})
"""What may be told to Python (as in the script snptest): it changes no result."""


@dataclass
class Run:
    """A run of pytest and what came of it."""

    arguments: Sequence[str]
    folder: Path
    """Where pytest's own output (pytest.log) and stacks of hung processes go."""
    silence: float = SILENCE
    results: list[Result] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Reasons why the results are not the whole truth."""
    interrupted: bool = False
    collected: int = 0
    seconds: float = 0.0
    _pid: int = 0

    @property
    def log(self) -> Path:
        """What pytest itself printed."""
        return self.folder / "pytest.log"

    def execute(self, listener: Callable[[Event], None]) -> None:
        """Run to the end; the listener gets every event as it happens.

        A signal that asks for the end reaches neither the listener nor what it writes.
        """
        with Interrupts() as interrupts, ResultPipe() as pipe:
            self._execute(listener, interrupts, pipe)

    def _execute(
        self, listener: Callable[[Event], None], interrupts: Interrupts, pipe: ResultPipe
    ) -> None:
        began = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pytest",
            *("-p", "xdist.plugin"),  # the one that is needed
            *self.arguments,
            f"--results={pipe.name}",
            f"--stacks={self.folder}",
            f"--parent={os.getpid()}",
        ]
        # Plugins of the user's (pytest-randomly, -rerunfailures, ROS's) would be loaded by name.
        alone = {"PYTHONUNBUFFERED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        # A script's background job ignores SIGINT: a terminal's is not for its pytest, either.
        deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=python_environment() | alone,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[pipe.fd],
                process_group=0 if deaf else None,
            )
        pipe.started()
        self._pid = process.pid
        finished = False
        try:
            for event in self._events(pipe, process, interrupts):
                finished = finished or event.kind == "finish"
                self._take(event, listener)
            status = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            status = _kill(process)
            self.broken.append("pytest did not end after its last test")
        finally:
            if process.poll() is None:
                _kill(process)
            self.seconds = time.monotonic() - began
        # pytest's statuses: 0 and 1 are results, 2 interrupted, 3 internal error, 4 usage, 5 none.
        if not self.interrupted and (not finished or status not in (0, 1, 2, 5)):
            self.broken.append(f"pytest ended early with status {status}; see {self.log}")
        if pipe.lines.complaint:
            self.broken.append(pipe.lines.complaint)

    def _take(self, event: Event, listener: Callable[[Event], None]) -> None:
        if event.result is not None:
            self.results.append(event.result)
        match event.kind:
            case "collected":
                self.collected = event.count("count")
            case "trouble":
                self.broken.append(event.text("reason"))
            case "gave up":
                # No other test can be run: pytest ends by itself and tells what is done.
                self.broken.append(f"the run was ended: {event.text('reason')}")
                self.silence = 15.0
                os.kill(self._pid, signal.SIGINT)
            case "broken":
                reason = str(event.fields.get("reason")).strip().splitlines() or ["unknown"]
                self.broken.append(f"pytest failed itself: {sanitize.line(reason[-1])}")
        listener(event)

    def _events(
        self, pipe: ResultPipe, process: subprocess.Popen[bytes], interrupts: Interrupts
    ) -> Iterator[Event]:
        while not pipe.ended:
            try:
                with interrupts.waiting():
                    ready = pipe.wait(self.silence)
            except KeyboardInterrupt:
                if self.interrupted:
                    _kill(process)
                    return
                # The first one lets pytest end by itself and tell what is done.
                self.interrupted = True
                self.silence = 15.0
                process.send_signal(signal.SIGINT)
                continue
            if not ready:
                self.broken.append(f"nothing happened for {self.silence:.0f} s; the run was ended")
                _kill(process)
                return
            yield from pipe.events()


def _kill(process: subprocess.Popen[bytes]) -> int:
    process.kill()
    return process.wait(timeout=60)


def python_environment() -> dict[str, str]:
    """Return the environment of a Python process of ours, which runs snptest and nothing else.

    PYTEST_ADDOPTS would leave tests out, PYTHONOPTIMIZE takes the asserts out of all that pytest
    does not rewrite, and PYTHONPATH puts somebody else's rich, or pytest's plugins, before ours.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "PYTHON")) or name in _PYTHONS_OWN
    }
    return kept | {"PYTHONPATH": _SOURCES, "PYTHONUTF8": "1"}
