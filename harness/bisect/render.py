# SPDX-License-Identifier: GPL-2.0-only
"""What is said of a bisection: each step in a line, and at the end the patch and the evidence."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.bisect.bisection import Bisection
from harness.bisect.plan import Answer, End
from harness.bisect.revisions import Revision
from harness.bisect.verdicts import Seen, Trial, Verdict
from harness.report import sanitize

LOG_LINES = 40
LISTED = 10

COLOURS = {
    Verdict.GOOD: "green",
    Verdict.BAD: "bold red",
    Verdict.SKIP: "yellow",
    Verdict.OPEN: "cyan",
}


def line_of(revision: Revision, trial: Trial, verdict: Verdict) -> Text:
    """Say what a trial came to: 'bad: patch 7 of 16: subject: test_x failed: reason'."""
    line = Text.assemble((f"{verdict:4} ", COLOURS[verdict]), (revision.title, "bold"))
    return line.append(f"  {outcome_of(trial)}")


def outcome_of(trial: Trial) -> str:
    """Say what was seen in a trial."""
    bad = {name: seen for name, seen in trial.tests.items() if seen.bad}
    if bad:
        name, seen = next(iter(bad.items()))
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        return f"{_short(name)}{more} {_times(seen)}: {sanitize.line(seen.reason, 160)}"
    if trial.trouble:
        return sanitize.line(trial.trouble, 600)
    errors = [seen for seen in trial.tests.values() if seen.outcome == "error"]
    if errors:
        return f"error: {sanitize.line(errors[0].reason, 160)}"
    skipped = sum(seen.outcome == "skip" for seen in trial.tests.values())
    tests = f"{len(trial.tests)} test{'s' * (len(trial.tests) != 1)}"
    times = f", {trial.rounds} times each" if trial.rounds > 1 else ""
    return f"none of {tests} fails{times}" + (f", {skipped} skipped" if skipped else "")


def show(console: Console, bisection: Bisection, answer: Answer) -> None:
    """Print the answer with the evidence of both sides."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    revisions = bisection.searched.revisions
    last = revisions[-1]
    say("")
    match answer.end:
        case End.NOT_BAD:
            say(f"{last.name} is not bad: nothing fails there that passes at the good end", "bold")
        case End.UNJUDGED:
            say(
                f"{last.name}, the bad end, does not build or boot; nothing before it fails", "bold"
            )
        case End.FOUND:
            say(f"the first bad one is {revisions[answer.bad].name}", "bold red")
        case End.SEVERAL:
            names = ", ".join(revisions[each].name for each in answer.suspects)
            say(f"the first bad one is one of {len(answer.suspects)}: {names}", "bold red")
    if answer.end in (End.FOUND, End.SEVERAL):
        for number in answer.suspects if answer.end is End.SEVERAL else answer.suspects[-1:]:
            _patch(console, revisions[number])
        _side(console, bisection, "bad", answer.bad, answer)
        for number in answer.edge:
            _side(console, bisection, "good", number, answer)
    for text in remarks(bisection, answer):
        say(text, "dim")


def remarks(bisection: Bisection, answer: Answer) -> list[str]:
    """Say what a reader must know to judge the answer."""
    found, revisions = answer.findings, bisection.searched.revisions
    wanted, said = found.interest, []
    for number, reason in sorted(found.troubles.items()):
        if found.verdict(number) is Verdict.SKIP:
            said.append(f"not judged: {revisions[number].title}: {sanitize.line(reason, 600)}")
    if wanted.ignored:
        tests = ", ".join(map(_short, sorted(wanted.ignored)[:LISTED]))
        said.append(f"{len(wanted.ignored)} fail at the good end, and do not count: {tests}")
    if wanted.failing > len(wanted.followed) > 0:
        where = revisions[wanted.found_at].name
        said.append(
            f"{len(wanted.followed)} of {wanted.failing} that fail at {where} were followed"
        )
    if found.rates.flaky:
        said.append(
            f"flaky: bad ones fail {found.rates.failed} of {found.rates.runs} runs; "
            f"good is what passes {found.rates.needed(found.least)}"
        )
    for number in answer.edge:
        if not found.clean.get(number):
            said.append(f"{revisions[number].name} was taken as good, and could not be run")
    return said


def record(bisection: Bisection, answer: Answer) -> dict[str, Any]:
    """Return all of it in plain types, for JSON."""
    revisions, found = bisection.searched.revisions, answer.findings

    def of(number: int) -> dict[str, Any]:
        each = revisions[number]
        trials = [t.as_dict() for t in bisection.state.trials if t.number == number]
        return {
            "number": number,
            "name": each.name,
            "commit": each.commit,
            "subject": each.subject,
            "author": each.author,
            "message": each.message,
            "verdict": str(found.verdict(number)),
            "trials": trials,
        }

    return {
        "end": str(answer.end),
        "suspects": [of(number) for number in answer.suspects],
        "good": [of(number) for number in answer.edge],
        "tests": list(found.interest.followed),
        "failed": found.rates.failed,
        "runs": found.rates.runs,
        "trials": len(bisection.state.trials),
        "revisions": len({trial.number for trial in bisection.state.trials}),
        "remarks": remarks(bisection, answer),
    }


def _patch(console: Console, revision: Revision) -> None:
    """Print a patch as `git log` does."""
    console.print(Text(f"commit {revision.commit}", style="yellow"), soft_wrap=True)
    if revision.author:
        console.print(Text(f"Author: {revision.author}"), soft_wrap=True)
    lines = [revision.subject, "", *revision.message.splitlines()]
    for line in lines[:LOG_LINES]:
        console.print(Text(f"    {line}".rstrip()), soft_wrap=True)
    if len(lines) > LOG_LINES:
        console.print(Text(f"    [{len(lines) - LOG_LINES} more lines]", style="dim"))
    console.print("")


def _side(console: Console, bisection: Bisection, word: str, number: int, answer: Answer) -> None:
    """Print what was seen of one revision."""
    revision = bisection.searched.revisions[number]
    style = COLOURS[Verdict.BAD if word == "bad" else Verdict.GOOD]
    console.print(Text.assemble((word, style), f": {revision.title}"), soft_wrap=True)
    trials = [each for each in bisection.state.trials if each.number == number]
    wanted = answer.findings.interest
    seen: dict[str, Seen] = {}
    for trial in trials:
        for name, each in wanted.in_trial(trial).items():
            if each.bad or name in wanted.followed:
                seen[name] = seen[name].and_then(each) if name in seen else each
    for name, each in list(seen.items())[:LISTED]:
        reason = f": {sanitize.line(each.reason, 240)}" if each.reason else ""
        console.print(Text(f"  {name} {_times(each)}{reason}"), soft_wrap=True)
    shown = next((each for each in seen.values() if each.bad and each.console), None)
    shown = shown or next((each for each in seen.values() if each.console), None)
    if shown is not None:
        text = textwrap.indent(sanitize.text(shown.console), "  | ")
        console.print(Text(text, style="dim"), soft_wrap=True)
    for text in _places(trials):
        console.print(Text(f"  {text}", style="dim"), soft_wrap=True)


def _places(trials: Iterable[Trial]) -> list[str]:
    """Say where more of it is."""
    folders = list(dict.fromkeys(each.folder for each in trials if each.folder))
    kernels = list(dict.fromkeys(each.kernel for each in trials if each.kernel))
    said = [f"results: {each}" for each in folders]
    return said + [f"kernel: {each} (snptest boot {each})" for each in kernels]


def _times(seen: Seen) -> str:
    verb = "crashes" if seen.outcome == "crash" else "fails"
    if not seen.bad:
        times = f" {seen.runs} times" if seen.runs > 1 else ""
        return {"skip": "is skipped", "pass": "passes"}.get(seen.outcome, seen.outcome) + times
    return verb if seen.runs == 1 else f"{verb} {seen.failed} of {seen.runs} times"


def _short(name: str) -> str:
    return name.rpartition("::")[2]
