# SPDX-License-Identifier: GPL-2.0-only
"""What a backend is: a way to get a running Kernel to test."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

from harness.kernel import Kernel


class Unconfigurable(Exception):  # a reason to skip, no failure
    """Why a backend opens no kernel with the parameters that a test wants, in one line."""


class Backend(abc.ABC):
    """Opens kernels of one kind; made once a process, from `harness.backends.get(name)`."""

    name: ClassVar[str]
    """As in --backend."""

    revisions: ClassVar[tuple[str, ...]] = ()
    """Revisions of the series it can offer at will; empty where the kernel that runs decides."""

    reusable: ClassVar[bool] = False
    """Whether one kernel serves many test modules: where opening is dear (a boot), yes."""

    schedules: ClassVar[bool] = False
    """Whether the parameter `seed` decides in which order threads run."""

    side_by_side: ClassVar[int | None] = None
    """The most kernels that `-n auto` opens beside each other; None: one a core."""

    deadline: ClassVar[float] = 120.0
    """Seconds that one test may take unless its marker says otherwise."""

    open_deadline: ClassVar[float] = 0.0
    """Seconds more that a test may take to be set up where it is the one to open a kernel."""

    @abc.abstractmethod
    def open(self, revision: str | None, seed: int, **options: Any) -> Kernel:
        """Return a fresh kernel that runs.

        Options are those of the command line that were given: `kernel` (a name built by
        `snptest build`), `host` (ssh).  A backend ignores what does not concern it.  And
        `parameters`, a dict of what to change about machine and kernel: raises Unconfigurable
        where that cannot be done.
        Raises UserError where the user can do something about a failure, BuildError where a
        build or boot failed.
        """

    def check(self, **options: Any) -> None:
        """Raise UserError where no kernel can be opened with these options: before any test."""
        return

    def unavailable(self) -> str | None:
        """Say in one line why this machine cannot offer it and what to do; None where it can."""
        return None
