# SPDX-License-Identifier: GPL-2.0-only
"""The kernels that are open in this process, and what they logged during a test."""

from __future__ import annotations

from typing import Any

from harness.backends.base import Backend
from harness.kernel import Kernel, TargetError


class KernelPool:
    """Opens kernels, keeps those that are dear to open, throws away those that died."""

    def __init__(self, backend: Backend, seed: int, options: dict[str, Any]) -> None:
        self.backend = backend
        self.seed = seed
        self.options = options
        self._open: dict[str | None, Kernel] = {}
        self._marks: dict[str | None, int] = {}

    def get(self, revision: str | None) -> Kernel:
        """Return the kernel for that revision, opened if need be."""
        if revision not in self._open:
            self._open[revision] = self.backend.open(revision, self.seed, **self.options)
            self._marks[revision] = 0
        return self._open[revision]

    def release(self, revision: str | None) -> None:
        """Take back what `get` gave: closed, unless the backend's kernels are dear."""
        if not self.backend.reusable:
            self.discard(revision)

    def discard(self, revision: str | None) -> None:
        """Close a kernel for good; the next `get` opens another."""
        kernel = self._open.pop(revision, None)
        self._marks.pop(revision, None)
        if kernel is not None:
            kernel.shutdown()

    def discard_all(self) -> None:
        """Close every kernel: at the end, or when one died."""
        for revision in list(self._open):
            self.discard(revision)

    def mark(self) -> None:
        """Remember where the logs end now."""
        self._marks = {revision: len(_log(kernel)) for revision, kernel in self._open.items()}

    def console(self) -> str:
        """What the open kernels logged since the last mark."""
        return "".join(
            _log(kernel)[self._marks.get(revision, 0) :] for revision, kernel in self._open.items()
        )


def _log(kernel: Kernel) -> str:
    try:
        return kernel.log()
    except TargetError as error:
        return f"[the kernel log could not be read: {error}]\n"
