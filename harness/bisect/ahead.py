# SPDX-License-Identifier: GPL-2.0-only
"""Building what may be asked for next, while a kernel boots and runs.

A process a kernel, at a low priority and on a leash: it ends with whoever wants its kernel.
What it built is found in the cache by content; that it failed is found out again when asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from harness import kbuild, leash
from harness.errors import UserError
from harness.runner import python_environment

NICE = 10
PATIENCE = 20.0
"""Seconds that a build which nobody wants any more may take to end by itself: what is half
built costs the next one more than that."""
BUILD_TIMEOUT = 6000.0
"""Beyond the time-out of make itself."""

Request = Mapping[str, Any]
"""Arguments of kbuild.build()."""


class Ahead:
    """Builds in the background, one after the other."""

    def __init__(self) -> None:
        self._waiting: list[Request] = []
        self._current: Request | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._done: list[Request] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def want(self, requests: Sequence[Request]) -> None:
        """Build these, in this order, instead of what was wanted before."""
        with self._changed:
            known = [*self._done, self._current]
            self._waiting = [each for each in requests if each not in known]
            if self._thread is None and self._waiting:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def has_begun(self, request: Request) -> bool:
        """Whether just this is being built."""
        with self._changed:
            return self._current == request

    def settle(self, request: Request) -> None:
        """Make room for a build: wait for its own, else end what is built in the background."""
        with self._changed:
            self._waiting = []
            wanted = self._current == request
            self._changed.wait_for(
                lambda: self._current is None, BUILD_TIMEOUT if wanted else PATIENCE
            )
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closed = True
            self._waiting = []
            self._end()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(60)

    def _end(self) -> None:
        """Kill what is built.  The lock is held."""
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()  # the leash
        self._changed.wait_for(lambda: self._current is None, 60)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                request = self._waiting.pop(0)
                process = self._process = self._start(request)
                self._current = request
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(BUILD_TIMEOUT)
            with self._changed:
                if process.poll() is None and process.stdin is not None:
                    process.stdin.close()
                    process.wait(60)
                if process.returncode == 0:
                    self._done.append(request)
                self._process = self._current = None
                self._changed.notify_all()

    def _start(self, request: Request) -> subprocess.Popen[bytes]:
        command = [sys.executable, leash.__file__, "", sys.executable, "-P", "-m", __name__]
        return subprocess.Popen(
            [*command, json.dumps(dict(request))],
            env=python_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def build(request: Request, progress: kbuild.Progress | None = None) -> kbuild.KernelBuild:
    """Build what a request asks for; errors as of kbuild.build()."""
    return kbuild.build(**request, progress=progress, say=lambda text: None)


def main(text: str) -> int:
    """Build in this process, with what time is left over."""
    os.nice(NICE)
    began = time.monotonic()
    try:
        build(json.loads(text))
    except UserError as error:
        print(f"{error} after {time.monotonic() - began:.0f} s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
