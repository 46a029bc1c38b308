# SPDX-License-Identifier: GPL-2.0-only
"""What became of a test: the six outcomes, the record of one result, the exit code of a run."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

FAILURE_WIDTH = 100
"""Columns of the line that a failed test is reported by, so that it fits into a mail."""


class Outcome(enum.StrEnum):
    """The outcomes a test can have; a failure is a result, an error is not."""

    PASS = "pass"
    FAIL = "fail"
    """The kernel answered wrongly."""
    XFAIL = "xfail"
    """A known issue, matched."""
    ERROR = "error"
    """The harness or a build failed."""
    CRASH = "crash"
    """The kernel under test died or hung."""
    SKIP = "skip"
    """The kernel lacks what the test needs."""

    @property
    def bad(self) -> bool:
        """Whether it needs somebody's attention."""
        return self in (Outcome.FAIL, Outcome.ERROR, Outcome.CRASH)


BOOT = "boot"
"""Suite of what kernels printed while they booted: results beside those of the tests."""


_PARAMETERS = re.compile(r"\[([^]]*)\]$")


class ExitCode(enum.IntEnum):
    """Exit codes of every command."""

    PASSED = 0
    FAILED = 1
    USAGE = 2
    BROKEN = 3


@dataclass(frozen=True, slots=True)
class Result:
    """One test's result.  All text in it is sanitised before it gets here."""

    id: str
    """The pytest node id, as a re-run takes it."""
    suite: str
    interface: str
    outcome: Outcome
    seconds: float
    description: str = ""
    """First sentence of the test's docstring: what must hold."""
    reason: str = ""
    """One line: why it failed or was skipped."""
    details: str = ""
    """The traceback or the whole message."""
    console: str = ""
    """What the kernel under test logged during the test."""
    output: str = ""
    """What the test printed."""
    patches: tuple[int, ...] = ()
    areas: tuple[str, ...] = ()
    backend: str = ""

    @property
    def name(self) -> str:
        """The id without its suite's folder: file and test."""
        file, found, test = self.id.partition("::")
        return file.rpartition("/")[2] + found + test

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def key_of(result: Result, *, interface: bool) -> str:
    """Name a test so that it has the same name on both sides.

    An id's parameters begin with the interface, or with the backend where the kernel decides:
    `interface` says whether that is part of the name.
    """
    if result.suite == BOOT:
        return BOOT
    found = _PARAMETERS.search(result.id)
    first, dash, rest = found[1].partition("-") if found else ("", "", "")
    if not found or not first or first not in (result.interface, result.backend):
        return result.id
    name = result.id[: found.start()]
    if interface and result.interface:
        return result.id
    return f"{name}[{rest}]" if dash else name


def exit_code(results: Iterable[Result], *, broken: bool = False) -> ExitCode:
    """Judge a run: 3 beats 1, for what the harness broke says nothing about the kernel."""
    outcomes = {result.outcome for result in results}
    if broken or Outcome.ERROR in outcomes:
        return ExitCode.BROKEN
    if Outcome.FAIL in outcomes or Outcome.CRASH in outcomes:
        return ExitCode.FAILED
    return ExitCode.PASSED
