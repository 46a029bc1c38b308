# SPDX-License-Identifier: GPL-2.0-only
"""From what pytest saw to what became of a test: exceptions and phases to one Result."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from harness.errors import UserError
from harness.operations import OperationError, TargetError
from harness.report import sanitize
from harness.report.facts import Facts, Subject
from harness.report.outcome import FAILURE_WIDTH, Outcome, Result
from harness.vm.errors import GuestError, KvmIoctlError, MessageError

REASON_WIDTH = 300
SAID = "results"
"""Title of a report section (item.add_report_section) that a result keeps, though it passed."""


def of_exception(error: BaseException, when: str) -> Outcome:
    """Judge an exception that is neither a skip nor an expected failure."""
    if isinstance(error, BaseExceptionGroup):
        verdicts = {of_exception(each, when) for each in error.exceptions}
        ranking = (Outcome.CRASH, Outcome.ERROR, Outcome.FAIL)
        return next(verdict for verdict in ranking if verdict in verdicts)
    if isinstance(error, TargetError):
        return Outcome.CRASH
    if isinstance(error, UserError):
        return Outcome.ERROR
    # Arranging a test runs real operations too: a wrong answer there is a wrong answer.
    if isinstance(error, (AssertionError, OperationError, pytest.fail.Exception)):
        return Outcome.FAIL
    return Outcome.FAIL if when == "call" else Outcome.ERROR


def reason_of(error: BaseException) -> str:
    """Return one line that says what went wrong."""
    first = next((each for each in sanitize.text(str(error)).splitlines() if each.strip()), "")
    name = type(error).__name__
    if isinstance(error, (UserError, pytest.skip.Exception)):
        return sanitize.line(first or name, REASON_WIDTH)
    if isinstance(error, (KvmIoctlError, OperationError)):
        # An operation that had to succeed: what it is called, and its error.
        return sanitize.line(f"{error.strerror}; want success", FAILURE_WIDTH)
    if (
        isinstance(error, (AssertionError, GuestError, MessageError, pytest.fail.Exception))
        and first
    ):
        return sanitize.line(first, FAILURE_WIDTH)
    return sanitize.line(f"{name}: {first}" if first else name, REASON_WIDTH)


def stood_still(seconds: float) -> str:
    """Return the reason of a test that was overdue because its own process was not running."""
    return f"snptest itself stood still for {seconds:.0f} s (stopped, or frozen) during this test"


@dataclass
class Phases:
    """The reports of one test as they come in, over xdist or not."""

    id: str
    outcome: Outcome = Outcome.PASS
    seconds: float = 0.0
    reason: str = ""
    details: str = ""
    console: str = ""
    output: str = ""
    test: Subject | None = None

    def add(self, report: pytest.TestReport, facts: Facts) -> None:
        """Take in a phase; the first bad one decides, later ones add to the details."""
        self.test = facts.test or self.test
        self.seconds += report.duration
        outcome, reason = _judge(report, facts)
        if outcome is Outcome.PASS:
            said = [text for title, text in report.sections if title == f"Captured {SAID} call"]
            self.output = sanitize.tail("\n".join(said)) or self.output
            return
        details = sanitize.tail(report.longreprtext) if outcome.bad else ""
        if facts.splats and facts.splats not in details:
            details = f"{details}\n\nthe kernel printed:\n{facts.splats}".lstrip()
        if self.outcome.bad:
            self.details += f"\n\nthen, in {report.when}:\n{details}"
            return
        self.outcome, self.reason, self.details = outcome, reason, details
        self.console = sanitize.tail(facts.console)
        self.output = sanitize.tail(report.capstdout + report.capstderr) if outcome.bad else ""

    def result(self, backend: str) -> Result:
        """The result, once the last phase is in."""
        test = self.test or Subject(suite_of(self.id), "", "", (), ())
        return Result(
            id=sanitize.line(self.id),
            suite=test.suite,
            interface=test.interface,
            outcome=self.outcome,
            seconds=round(self.seconds, 6),
            description=test.description,
            reason=self.reason,
            details=self.details,
            console=self.console,
            output=self.output,
            patches=test.patches,
            areas=test.areas,
            backend=backend,
        )


def _judge(report: pytest.TestReport, facts: Facts) -> tuple[Outcome, str]:
    if hasattr(report, "wasxfail"):
        reason = sanitize.line(str(report.wasxfail).removeprefix("reason: "))
        if report.skipped:
            return Outcome.XFAIL, reason
        return Outcome.FAIL, f"passed, but is listed as a known issue: {reason}"
    if report.skipped:
        reason = facts.reason
        if not reason and isinstance(report.longrepr, tuple):
            reason = sanitize.line(str(report.longrepr[2]).removeprefix("Skipped: "))
        return Outcome.SKIP, reason
    if report.failed:
        if facts.verdict is not None:
            return facts.verdict, facts.reason
        text = sanitize.line(report.longreprtext, REASON_WIDTH)
        return Outcome.FAIL, text.replace(
            "[XPASS(strict)]", "passed, but is listed as a known issue:"
        )
    return Outcome.PASS, ""


def suite_of(id: str) -> str:
    """Name the suite of a node id: the folder below suites/, else the file."""
    parts = id.partition("::")[0].split("/")
    if "suites" in parts[:-2]:
        return parts[parts.index("suites") + 1]
    return parts[-1].removesuffix(".py")
