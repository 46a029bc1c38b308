# SPDX-License-Identifier: GPL-2.0-only
"""What is said of a night: on a terminal, as Markdown for a mail or a job's summary, as JSON."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.history.judge import Judged, Status
from harness.history.runs import StoredRun
from harness.nightly.schedule import Schedule
from harness.nightly.state import Night
from harness.nightly.verdict import Verdict, exit_code
from harness.report import sanitize
from harness.report.outcome import ExitCode, Outcome
from harness.report.words import counted

TOLD = (Status.NEW, Status.FAILING, Status.FLAKY, Status.FIXED, Status.GONE)
"""What is told test by test; known issues are only counted."""
LISTED = 20
_STYLES = {
    Status.NEW: "bold red",
    Status.FAILING: "red",
    Status.FLAKY: "yellow",
    Status.KNOWN: "cyan",
    Status.FIXED: "green",
    Status.GONE: "magenta",
}


def headline(night: Night, found: Sequence[Verdict]) -> str:
    """Say all of it in one line."""
    counts = {status: sum(len(each.of(status)) for each in found) for status in Status}
    said = [
        f"{count} {status}{'s' * (count > 1 and status in (Status.NEW, Status.KNOWN))}"
        for status, count in counts.items()
        if count
    ]
    unanswered = sum(bool(each.problem) for each in found)
    if unanswered:
        said.append(f"{unanswered} of {counted(len(found), 'job')} not answered")
    if night.lost:
        said.append(f"lost: {', '.join(night.lost)}")
    if said:
        return ", ".join(said)
    return "the job is good" if len(found) == 1 else f"all {len(found)} jobs good"


def show(console: Console, schedule: Schedule, night: Night, found: Sequence[Verdict]) -> None:
    """Print a table of the jobs, and what is worth a word."""
    table = Table(box=None, pad_edge=False)
    for title in ("job", "host", "pass", *map(str, Status), "time"):
        table.add_column(title, justify="left" if title in ("job", "host") else "right")
    for each in found:
        cells = [Text(str(_count(each.of(status))), _STYLES[status]) for status in Status]
        passed = each.judgement.run.counts[Outcome.PASS] if each.judgement else 0
        style = "red" if each.broken else "yellow" if each.problem else ""
        name = Text(each.job.name, style)
        table.add_row(name, each.record.worker, str(passed), *cells, _time(each.record.seconds))
    console.print(table)
    for heading, lines in sections(found):
        console.print(Text(f"\n{heading}", style="bold"))
        for line in lines:
            console.print(Text(f"  {line}"), soft_wrap=True)
    style = {ExitCode.PASSED: "green", ExitCode.FAILED: "bold red"}.get(exit_code(found), "yellow")
    console.print(Text(f"\n{schedule.name}: {headline(night, found)}", style=style), soft_wrap=True)


def markdown(schedule: Schedule, night: Night, found: Sequence[Verdict]) -> str:
    """Return the same for a mail, a merge request, or a CI job's summary."""
    lines = [f"# {schedule.name}, {_day(night.began)}: {headline(night, found)}", ""]
    lines += ["| job | host | " + " | ".join(Status) + " | |", "|---" * (len(Status) + 3) + "|"]
    for each in found:
        cells = [str(_count(each.of(status))) for status in Status]
        lines.append(
            f"| {each.job.name} | {each.record.worker} | {' | '.join(cells)} | "
            f"{_escaped(each.problem)} |"
        )
    for heading, texts in sections(found):
        lines += ["", f"## {heading}", "", *(f"* {_escaped(text)}" for text in texts)]
    return "\n".join(lines) + "\n"


def sections(found: Sequence[Verdict]) -> Iterator[tuple[str, list[str]]]:
    """Return headings with lines: jobs without an answer, then tests by what became of them."""
    problems = [f"{each.job.name}: {each.problem}" for each in found if each.problem]
    if problems:
        yield "not answered", _cut(problems)
    for status in TOLD:
        # A boot that is bad is told by each job of that kernel there.
        lines = Counter(_line(each, judged) for each in found for judged in each.of(status))
        if lines:
            texts = [f"{line} ({n} jobs)" if n > 1 else line for line, n in lines.items()]
            yield str(status), _cut(texts)
    ranges = [line for each in found if each.of(Status.NEW) and (line := _range(each))]
    if ranges:
        yield "between the last good night and this one", ranges


def record(schedule: Schedule, night: Night, found: Sequence[Verdict]) -> dict[str, Any]:
    """Return all of it in plain types."""
    return {
        "name": schedule.name,
        "began": night.began,
        "exit": int(exit_code(found)),
        "headline": headline(night, found),
        "lost": night.lost,
        "jobs": [_job(each) for each in found],
    }


def _job(each: Verdict) -> dict[str, Any]:
    judgement = each.judgement
    return {
        "job": each.job.name,
        "host": each.record.worker,
        "seconds": each.record.seconds,
        "problem": each.problem,
        "run": judgement.run.id if judgement else None,
        "good": judgement.good.id if judgement and judgement.good else None,
        "folders": each.record.folders,
        "tests": {
            str(status): [
                {"test": judged.result.id, "reason": judged.result.reason}
                for judged in each.of(status)
            ]
            for status in Status
        },
    }


def _line(each: Verdict, judged: Judged) -> str:
    reason = sanitize.line(judged.result.reason, 160)
    since = f" since {_day(judged.since.started)}" if judged.since else ""
    why = f": {reason}" if reason and judged.status is not Status.FIXED else ""
    return f"{judged.result.id} ({each.job.revision} on {each.record.worker}){since}{why}"


def _range(each: Verdict) -> str:
    """Say which kernels a new failure lies between."""
    assert each.judgement is not None
    good, run = each.judgement.good, each.judgement.run
    if good is None:
        return f"{each.job.name}: no good night before"
    ends = [_kernel(good), _kernel(run)]
    if ends[0] == ends[1]:
        return f"{each.job.name}: the same kernel, {ends[0]}, was good on {_day(good.started)}"
    return f"{each.job.name}: good on {_day(good.started)} {ends[0]}, now {ends[1]}"


def _kernel(run: StoredRun) -> str:
    commit = run.kernel.commit[:12]
    return " ".join(filter(None, (run.kernel.release or run.interface, commit)))


def _count(judged: Sequence[Judged]) -> int | str:
    return len(judged) or "·"


def _cut(lines: Iterable[str]) -> list[str]:
    lines = list(lines)
    more = len(lines) - LISTED
    return lines if more <= 0 else [*lines[:LISTED], f"... and {more} more"]


def _day(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d")


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _escaped(text: str) -> str:
    """Make a text safe in a table and a list of Markdown."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return text
