# SPDX-License-Identifier: GPL-2.0-only
"""What a night has found: each job's run against the nights before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.history import judge as against
from harness.history import record, runs
from harness.history.judge import Judged, Judgement, Status
from harness.history.store import History
from harness.nightly.schedule import Job, Schedule
from harness.nightly.state import Night, Record
from harness.report.outcome import ExitCode


@dataclass(frozen=True, slots=True)
class Verdict:
    """One job."""

    job: Job
    record: Record
    judgement: Judgement | None
    """None where there is no run."""
    problem: str = ""
    """Why it is no whole answer, in one line."""

    def of(self, status: Status) -> list[Judged]:
        """Return its tests of a status."""
        return [] if self.judgement is None else self.judgement.of(status)

    @property
    def broken(self) -> bool:
        """Whether there are failures that are neither known nor flaky."""
        return bool(self.of(Status.NEW) or self.of(Status.FAILING))


def verdicts(history: History, schedule: Schedule, night: Night) -> list[Verdict]:
    """Judge all jobs that were done."""
    found = []
    for job in schedule.jobs:
        each = night.records.get(job.name)
        if each is not None and each.done:
            found.append(_verdict(history, job, each))
    return found


def exit_code(found: Iterable[Verdict]) -> ExitCode:
    """1 where a test fails that is neither known nor flaky; else 3 where a job gave no answer."""
    found = list(found)
    if any(each.broken for each in found):
        return ExitCode.FAILED
    return ExitCode.BROKEN if any(each.problem for each in found) else ExitCode.PASSED


def _verdict(history: History, job: Job, done: Record) -> Verdict:
    problem = done.broken[0] if done.broken else ""
    if not done.folders:
        return Verdict(job, done, None, problem or "it has no results")
    stored = []
    try:
        # What recorded itself is known already; a history that was locked then is not by now.
        for folder in done.folders:
            stored.append(runs.get(history, record.take(history, Path(folder)).run))
    except UserError as error:
        if not stored:
            return Verdict(job, done, None, problem or error.message)
        problem = problem or error.message
    judgement = against.judge(history, stored[0], again=stored[1:], host=False)
    return Verdict(job, done, judgement, problem)
