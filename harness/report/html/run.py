# SPDX-License-Identifier: GPL-2.0-only
"""The pages of a run: what came of it, all its results, and the evidence of what failed."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from harness.history import judge as judging
from harness.history import render as words
from harness.history import runs as stored
from harness.history.judge import Judged, Judgement, Status
from harness.history.runs import StoredRun
from harness.history.store import History
from harness.report import names
from harness.report.html import charts, listing, pack
from harness.report.html.listing import Page, row
from harness.report.html.pack import Group
from harness.report.html.templates import render
from harness.report.outcome import Outcome, Result
from harness.report.summary import patch_subjects

JUDGED = 100_000
"""Bytes of tests that are new, flaky, ...: on the page that is opened first."""
FACT = 1000
"""Characters of each fact of a run, and of each reason why it is not whole."""
LISTED = 60
"""Reasons, areas and patches, of each that many."""


@dataclass(frozen=True, slots=True)
class _Failure:
    name: str
    result: Result
    anchor: str


def run_pages(history: History, run: StoredRun, pages: Collection[int]) -> Iterator[Page]:
    """Yield the pages of a run; `pages` are the numbers of runs that have one."""
    results = stored.results(history, run)
    called = names.numbered(names.of(each) for each in results)
    stem = f"run-{run.id}"
    bad = [(name, each) for name, each in zip(called, results, strict=True) if each.outcome.bad]
    failures = [_Failure(name, each, f"f{number}") for number, (name, each) in enumerate(bad, 1)]
    sizes = [pack.size(*_texts(each.result)) + 2000 for each in failures]
    spread = pack.packed(failures, sizes)
    evidence = {
        each.name: f"{stem}-failures-{number}.html#{each.anchor}"
        for number, page in enumerate(spread, 1)
        for each in page
    }
    groups = pack.paged(_suites(called, results, evidence))
    yield f"{stem}.html", _first(history, run, results, pages, spread, groups)
    yield from listing.pages(
        f"{stem}-results", f"Results of run {run.id}", "results", groups, run=run
    )
    for number, page in enumerate(spread, 1):  # one at a time: consoles are long
        rows = tuple(row("failure", each.result, each.name, each.anchor) for each in page)
        yield listing.page(
            f"{stem}-failures",
            f"What failed in run {run.id}",
            "failures",
            [Group("", "", rows)],
            number,
            len(spread),
            run=run,
        )


def _texts(result: Result) -> tuple[str, ...]:
    return (
        result.id * 2,
        result.reason,
        result.description,
        result.details,
        result.output,
        result.console,
    )


def _first(
    history: History,
    run: StoredRun,
    results: Sequence[Result],
    pages: Collection[int],
    failures: Sequence[Sequence[_Failure]],
    groups: Sequence[Sequence[Group]],
) -> str:
    """Render the page that is opened first: bounded, whatever ran."""
    stem = f"run-{run.id}"
    judgement = judging.judge(history, run)
    by_id: dict[str, str] = {}
    for number, page in enumerate(failures, 1):
        for each in page:
            by_id.setdefault(each.result.id, f"{stem}-failures-{number}.html#{each.anchor}")
    skips = Counter(each.reason for each in results if each.outcome is Outcome.SKIP)
    facts = {name: _cut(text) for name, text in words.facts(run).items()}
    return render(
        "run.html",
        run=run,
        pages=pages,
        judgement=judgement,
        line=_cut(judgement.line),
        statuses=_statuses(judgement, pages, by_id),
        failures=f"{stem}-failures-1.html" if failures else "",
        bad=sum(len(page) for page in failures),
        broken=[_cut(each) for each in run.broken[:LISTED]],
        more_broken=max(0, len(run.broken) - LISTED),
        facts=facts,
        series=[_cut(each, 150) for each in run.kernel.series[: 2 * LISTED]],
        areas=_areas(results),
        patches=_patches(results),
        skips=skips.most_common(LISTED),
        more_skips=max(0, len(skips) - LISTED),
        suites=listing.contents(f"{stem}-results", groups)[: 2 * LISTED],
        made=time.time(),
    )


def _cut(text: str, limit: int = FACT) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _statuses(
    judgement: Judgement, pages: Collection[int], evidence: dict[str, str]
) -> dict[Status, tuple[Sequence[Markup], int]]:
    """Return rows of each status as far as there is room, and how many there are."""
    left = JUDGED
    found: dict[Status, tuple[Sequence[Markup], int]] = {}
    for status in Status:
        tests = judgement.of(status)
        if not tests:
            continue
        rows: list[Markup] = []
        for each in tests:
            made = row("judged", each, pages, _evidence(each, status, evidence))
            left -= pack.size_of(made)
            if left < 0:
                break
            rows.append(made)
        found[status] = (rows, len(tests))
    return found


def _evidence(each: Judged, status: Status, evidence: dict[str, str]) -> str:
    return "" if status is Status.GONE else evidence.get(each.result.id, "")


def _suites(
    called: Sequence[str], results: Sequence[Result], evidence: dict[str, str]
) -> list[Group]:
    """Group by suite and interface; in each what is bad comes first."""
    groups: defaultdict[str, list[tuple[str, Result]]] = defaultdict(list)
    for name, result in zip(called, results, strict=True):
        title = f"{result.suite} [{result.interface}]" if result.interface else result.suite
        groups[title].append((name, result))
    found = []
    for number, title in enumerate(sorted(groups), 1):
        members = sorted(groups[title], key=lambda each: not each[1].outcome.bad)
        said = charts.said(Counter(each.outcome for _, each in members))
        took = words.took(sum(each.seconds for _, each in members))
        rows = tuple(
            row(
                "result",
                replace(each, description=each.description[:500]),
                name,
                evidence.get(name, ""),
            )
            for name, each in members
        )
        found.append(Group(title, f"{said}, {took}", rows, f"s{number}"))
    return found


def _areas(results: Iterable[Result]) -> dict[str, Counter[Outcome]]:
    """Count by area."""
    areas: defaultdict[str, Counter[Outcome]] = defaultdict(Counter)
    for result in results:
        for area in result.areas:
            areas[_cut(area, 100)][result.outcome] += 1
    return {name: areas[name] for name in sorted(areas)[:LISTED]}


def _patches(results: Iterable[Result]) -> dict[str, Counter[Outcome]]:
    """Count by patch of the v12 series, number and subject."""
    patches: defaultdict[int, Counter[Outcome]] = defaultdict(Counter)
    for result in results:
        for patch in result.patches:
            patches[patch][result.outcome] += 1
    subjects = patch_subjects()
    return {
        f"{number:02d} {subjects.get(str(number), '')}".strip(): patches[number]
        for number in sorted(patches)[:LISTED]
    }
