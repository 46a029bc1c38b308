# SPDX-License-Identifier: GPL-2.0-only
"""`snptest known-issues`: what is listed as wrong already, and where each entry counts."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from harness.console import make_console
from harness.report.outcome import ExitCode
from harness.splats import known
from harness.splats.known import KnownIssue


def show(path: Path | None) -> int:
    """List the entries of a file (ours, unless named); the code to exit with."""
    console = make_console()
    for issue in known.load(path or known.FILE).issues:
        console.print(Text(issue.id, style="bold"), soft_wrap=True)
        for text in (issue.reason, _found_by(issue), _counts(issue), issue.link):
            if text:
                console.print(Text(f"  {text}"), soft_wrap=True)
    return ExitCode.PASSED


def _found_by(issue: KnownIssue) -> str:
    if issue.pattern:
        return f"splat: {issue.pattern.pattern}"
    if issue.skips:
        return f"skip: {issue.skips.pattern}"
    why = f" with: {issue.fails.pattern}" if issue.fails else ""
    may = "" if issue.strict else " (or passes)"
    return f"test: {', '.join(issue.test_globs)} fails{may}{why}"


def _counts(issue: KnownIssue) -> str:
    parts = {
        "interfaces": ", ".join(each for each in issue.interfaces if each != "*"),
        "kernels": issue.kernels.text if issue.kernels else "",
        "on": " and ".join(sorted(issue.environment)),
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items() if value)
