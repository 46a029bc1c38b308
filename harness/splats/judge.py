# SPDX-License-Identifier: GPL-2.0-only
"""What splats and known issues make of an outcome.

A splat fails the test in whose time it appeared, unless the test's `splat(pattern)` marker
allows it ("may": one that does not appear is no failure) or it is a known issue, which makes
it xfail.  A test that failed keeps its failure and names the splats, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.outcome import Outcome
from harness.splats.extract import Splat
from harness.splats.known import KnownIssue, KnownIssues, Where


@dataclass(frozen=True, slots=True)
class Judgement:
    """An outcome, and why."""

    outcome: Outcome
    reason: str
    splats: tuple[Splat, ...] = ()
    """Those that the result tells of: all but the allowed ones."""


def judge(
    outcome: Outcome,
    reason: str,
    *,
    splats: Sequence[Splat],
    known: KnownIssues,
    where: Where,
    allowed: Sequence[re.Pattern[str]] = (),
    details: str = "",
    complete: bool = True,
) -> Judgement:
    """Judge again what a test (or with complete=False a phase of it) came to by itself."""
    told = tuple(each for each in splats if not _allowed(each, allowed))
    issues = _issues(told, known, where)
    unknown = [each for each, issue in issues if issue is None]
    explained = [issue for _, issue in issues if issue is not None]
    match outcome:
        case Outcome.PASS | Outcome.SKIP | Outcome.XFAIL if unknown:
            return Judgement(Outcome.FAIL, f"the kernel warned: {_titles(unknown)}", told)
        case Outcome.PASS | Outcome.SKIP if explained:
            return Judgement(Outcome.XFAIL, _lines(explained), told)
        case Outcome.PASS:
            gone = known.gone(where) if complete else None
            if gone:
                line = f"passed, but is listed as a known issue: {gone.line}"
                return Judgement(Outcome.FAIL, line)
        case Outcome.SKIP:
            why = known.of_skip(where, reason)
            if why:
                return Judgement(outcome, f"{reason}: {why.line}")
        case Outcome.FAIL | Outcome.CRASH if not unknown:
            found = known.of_failure(where, reason, details)
            if found:
                return Judgement(Outcome.XFAIL, found.line, told)
            # Death is explained by a splat that can be one, not by a mere warning before it.
            deadly = [issue for each, issue in issues if issue and each.kind.fatal]
            if outcome is Outcome.CRASH and deadly:
                return Judgement(Outcome.XFAIL, _lines(deadly), told)
    # A death that is told by its splat need not be told twice, nor what follows from it.
    death = outcome is Outcome.CRASH and any(_within(each, reason) for each in told)
    untold = [each for each in told if not (outcome is Outcome.CRASH and each.echo)]
    if untold and outcome.bad and not death:
        reason = f"{reason}; the kernel warned: {_titles(untold)}"
    return Judgement(outcome, reason, told)


def _within(splat: Splat, reason: str) -> bool:
    return splat.head.removeprefix("Kernel panic - not syncing: ")[:60] in reason


def _issues(
    splats: Sequence[Splat], known: KnownIssues, where: Where
) -> list[tuple[Splat, KnownIssue | None]]:
    """Find the issue of each splat; the panic that ends a known one is known, too."""
    found: list[tuple[Splat, KnownIssue | None]] = []
    for splat in splats:
        issue = known.of_splat(splat, where)
        if issue is None and splat.echo and found:
            issue = found[-1][1]
        found.append((splat, issue))
    return found


def _allowed(splat: Splat, patterns: Sequence[re.Pattern[str]]) -> bool:
    return any(each.search(splat.title) or each.search(splat.block) for each in patterns)


def _titles(splats: Sequence[Splat]) -> str:
    more = f" (and {len(splats) - 1} more)" if len(splats) > 1 else ""
    return f"{splats[0].title}{more}"


def _lines(issues: Sequence[KnownIssue]) -> str:
    return "; ".join(dict.fromkeys(issue.line for issue in issues))
