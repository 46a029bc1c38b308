# SPDX-License-Identifier: GPL-2.0-only
"""From what a selftest printed and how it ended to an outcome, a reason and details."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from harness.frames import OVERDUE
from harness.kselftest.document import Document, Status
from harness.kselftest.ktap_parse import parse
from harness.kselftest.sources import Prints
from harness.operations import Completed
from harness.report import sanitize
from harness.report.outcome import Outcome

KSFT_SKIP = 4  # tools/testing/selftests/kselftest.h
MAX_NAMED = 3
"""Failed results named in the reason."""
MAX_LISTED = 200
"""Results listed in the details, of those that passed."""
TAIL = 40
"""Lines of output in the details."""

# What TEST_ASSERT() prints (tools/testing/selftests/kvm/lib/assert.c): where, then pid and errno,
# a stack, and what the test has to say.
_ASSERTION = "==== Test Assertion Failure ===="
_STACK = re.compile(r"\s*(?:\d+\s+(?:0x[0-9a-f]+:|\(inlined by\))|\(stack trace|pid=\d+ tid=)")
# A program that only says what it skips for, as KVM's do: "1..0 # SKIP - Requirement not met".
_SKIP = re.compile(r"(?:skip(?:ping|ped)?\b|requirement)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a selftest.  All text is safe."""

    outcome: Outcome
    """PASS, FAIL or SKIP; ERROR where a program that ended well has given no result."""
    reason: str
    """One line; of a pass, what it consists of."""
    details: str
    """The results it is made of, and the end of its output."""


def was_started(done: Completed) -> bool:
    """Tell a program that ran into its time-out from one that could not be started."""
    return done.status is not None or done.failure == OVERDUE


def judge(done: Completed, timeout: float, prints: Prints = Prints.MAYBE) -> Verdict:
    """Judge a selftest that was started; `prints` is what its source says that it prints."""
    # A carriage return alone begins a line anew on a terminal: what follows may be a result.
    text = sanitize.text(done.output.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    document = parse(text)
    lines = [line for line in text.splitlines() if line.strip()]
    outcome = _outcome(done, document)
    lacking = _no_result(done, document, lines, prints) if outcome is Outcome.PASS else ""
    if lacking:
        outcome, reason = Outcome.ERROR, f"no result: {lacking}"
    elif outcome is Outcome.PASS:
        reason = _tally(document) or _silent(lines)
    elif outcome is Outcome.SKIP:
        reason = _why_skipped(document, lines)
    else:
        reason = _why_failed(done, document, lines, timeout)
    return Verdict(outcome, sanitize.line(reason), _details(done, document, lines, outcome))


def _outcome(done: Completed, document: Document) -> Outcome:
    if _is_bad(done, document):
        return Outcome.FAIL
    if done.status == KSFT_SKIP:
        return Outcome.SKIP
    if done.status != 0:
        return Outcome.FAIL
    counts = document.counts
    if counts.keys() == {Status.SKIP} or (document.plan == 0 and not counts):
        return Outcome.SKIP
    return Outcome.PASS


def _is_bad(done: Completed, document: Document) -> bool:
    """Tell whether the results speak of a failure, whatever the exit status does."""
    if document.failed:
        return True
    # A plan cannot be held against output that was cut off, nor against a test that stops to skip.
    return bool(document.problems) and not done.dropped and done.status != KSFT_SKIP


def _no_result(done: Completed, document: Document, lines: list[str], prints: Prints) -> str:
    """Say why an exit status of 0 alone is no pass; "" where it is one."""
    if done.dropped and document.problems:
        return f"{document.problems[0]}, but {done.dropped} bytes of its output were dropped"
    if document.found:
        return ""
    if prints is Prints.RESULTS or document.versioned:
        return "exit status 0, and none of the results that it is made to print"
    if prints is Prints.SOMETHING and not lines:
        return "exit status 0, and it printed nothing, where every program of this tree prints"
    return ""


def _tally(document: Document) -> str:
    counts = document.counts
    return ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])


def _silent(lines: list[str]) -> str:
    """Say what a pass without results rests on."""
    return "exit status 0" if lines else "exit status 0, nothing printed"


def _why_skipped(document: Document, lines: list[str]) -> str:
    if document.skipped:
        return document.skipped.removeprefix("- ")
    if document.plan == 0 and not document.cases:
        return "it planned no tests (1..0)"
    reasons = [
        case.reason or case.name for _, case in document.leaves() if case.status is Status.SKIP
    ]
    if reasons:
        return reasons[-1].removeprefix("- ")
    spoken = [line for line in lines if _SKIP.search(line)] or lines
    return spoken[-1].strip() if spoken else "it gave no reason (exit status 4)"


def _why_failed(done: Completed, document: Document, lines: list[str], timeout: float) -> str:
    found = [_ended(done, timeout)] if done.status != 0 else []
    failures = list(dict.fromkeys(document.failures()))
    # What a crash or a time-out left undone is no failure of its own.
    named = [(path, why) for path, why in failures if path] or failures
    for path, why in named[:MAX_NAMED]:
        found.append(": ".join(part for part in (path, why) if part))
    if len(named) > MAX_NAMED:
        found.append(f"and {len(named) - MAX_NAMED} more")
    assertion = _assertion(lines)
    if assertion:
        found.append(assertion)
    elif not failures and lines:
        found.append(lines[-1].strip())
    return "; ".join(found)


def _ended(done: Completed, timeout: float) -> str:
    if done.status is None:
        return f"it did not end within {timeout:g} s"
    if done.status < 0:
        try:
            return f"killed by {signal.Signals(-done.status).name}"
        except ValueError:
            return f"killed by signal {-done.status}"
    return f"exit status {done.status}"


def _assertion(lines: list[str]) -> str:
    """Sum up the first TEST_ASSERT() that failed: place, condition, message."""
    try:
        at = next(index for index, line in enumerate(lines) if _ASSERTION in line)
    except StopIteration:
        return ""
    rest = [line.strip() for line in lines[at + 1 :] if not _STACK.match(line)]
    return ": ".join(rest[:2])


def _details(done: Completed, document: Document, lines: list[str], outcome: Outcome) -> str:
    parts = []
    leaves = list(document.leaves())
    if leaves:
        listed = []
        quiet = 0
        for path, case in leaves:
            remark = f" # {case.directive} {case.reason}".rstrip() if case.directive else ""
            quiet += not case.bad
            if case.bad or quiet <= MAX_LISTED:
                listed.append(f"{case.status:6} {path}{remark}")
            if case.bad:
                listed += [f"         {line}" for line in case.diagnostics]
        if quiet > MAX_LISTED:
            listed.append(f"[{quiet - MAX_LISTED} more that did not fail]")
        parts.append("\n".join(listed))
    if document.problems:
        parts.append("\n".join(document.problems))
    if lines and (outcome is not Outcome.PASS or not leaves):
        left_out = len(lines) - TAIL
        head = "output:" if left_out <= 0 else f"output ({left_out} lines before it left out):"
        parts.append("\n".join([head, *lines[-TAIL:]]))
    if done.dropped:
        parts.append(f"[{done.dropped} bytes of output beyond the limit were dropped]")
    return "\n\n".join(parts)
