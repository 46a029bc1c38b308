# SPDX-License-Identifier: GPL-2.0-only
"""The pages: what is on them, from the history to the templates."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.compare.diff import grouped
from harness.history import judge as judging
from harness.history import render as words
from harness.history import runs as stored
from harness.history import trend
from harness.history.judge import Status
from harness.history.runs import StoredRun
from harness.history.store import History
from harness.history.trend import Trend
from harness.report.html import charts
from harness.report.html.templates import render
from harness.report.outcome import BOOT, Outcome, Result
from harness.report.summary import patch_subjects

WINDOW = 40
"""Newest runs whose tests are shown one by one."""
LISTED = 100
"""Newest runs that are listed."""
SHOWN = 20
"""Of these, how many without a click."""
DAYS = 120
COLUMNS = 10


def run_page(history: History, run: StoredRun, pages: Collection[int]) -> str:
    """Return the page of a run; `pages` are the numbers of runs that have one."""
    results = stored.results(history, run)
    judgement = judging.judge(history, run)
    skips = Counter(each.reason for each in results if each.outcome is Outcome.SKIP)
    return render(
        "run.html",
        run=run,
        pages=pages,
        judgement=judgement,
        statuses={each: found for each in Status if (found := judgement.of(each))},
        full={each.id: each for each in results if each.outcome.bad},
        facts=words.facts(run),
        areas=_areas(results),
        patches=_patches(results),
        skips=skips.most_common(),
        suites=_suites(results),
        made=time.time(),
    )


def _areas(results: Iterable[Result]) -> dict[str, Counter[Outcome]]:
    """Count by area."""
    areas: defaultdict[str, Counter[Outcome]] = defaultdict(Counter)
    for result in results:
        for area in result.areas:
            areas[area][result.outcome] += 1
    return {name: areas[name] for name in sorted(areas)}


def _patches(results: Iterable[Result]) -> dict[str, Counter[Outcome]]:
    """Count by patch of the v12 series, number and subject."""
    patches: defaultdict[int, Counter[Outcome]] = defaultdict(Counter)
    for result in results:
        for patch in result.patches:
            patches[patch][result.outcome] += 1
    subjects = patch_subjects()
    return {
        f"{number:02d} {subjects.get(str(number), '')}".strip(): patches[number]
        for number in sorted(patches)
    }


@dataclass(frozen=True, slots=True)
class _Suite:
    results: list[Result]
    said: str
    seconds: float


def _suites(results: Iterable[Result]) -> dict[str, _Suite]:
    """Group by suite and revision; in each what is bad comes first."""
    groups: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        title = f"{result.suite} [{result.revision}]" if result.revision else result.suite
        groups[title].append(result)
    found = {}
    for title in sorted(groups):
        members = sorted(groups[title], key=lambda each: not each.outcome.bad)
        said = charts.said(Counter(each.outcome for each in members))
        found[title] = _Suite(members, said, sum(each.seconds for each in members))
    return found


def overview_page(history: History, pages: Collection[int]) -> str:
    """Return the overview of all stored runs."""
    runs = stored.runs(history, LISTED)
    window = [run for run in runs if run.counts and not run.pruned][:WINDOW][::-1]
    rows = _rows(history, window)
    attention = sorted((row for row in rows if row["urgency"]), key=lambda row: -row["urgency"])
    durations = [run.seconds for run in window]
    known = [each for each in durations if each is not None]
    days = trend.days(history)[-DAYS:]
    suites: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        suites[row["suite"]].append(row)
    return render(
        "overview.html",
        total=history.one("SELECT count(*) FROM run")[0],
        runs=runs,
        shown=SHOWN,
        window=window,
        pages=pages,
        tiles=_tiles(runs, window, rows),
        days=days,
        durations=durations,
        newest=known[-1] if known else None,
        longest=max(known, default=None),
        attention=attention,
        tests=len(rows),
        suites=dict(suites),
        matrices=[_matrix(history, runs, by) for by in ("revision", "host")],
        made=time.time(),
    )


def _rows(history: History, window: Sequence[StoredRun]) -> list[dict[str, Any]]:
    """Return a row for each test in a window of runs, the oldest first."""
    numbers = [run.id for run in window]
    ever = trend.totals(history)
    found = []
    for each in trend.trends(history, numbers):
        good, bad = ever.get(each.test, (0, 0))
        found.append(
            {
                "name": each.name,
                "suite": each.suite,
                "strip": [each.outcomes.get(number) for number in numbers],
                "good": each.good,
                "bad": each.bad,
                "flakes": each.flakes,
                "flake_rate": each.flake_rate,
                "ever": good / (good + bad) if good + bad else None,
                "median": each.median,
                "urgency": _urgency(each),
            }
        )
    return found


def _urgency(each: Trend) -> float:
    """Rank a test: what is bad now, then what flakes, then what was bad; 0 where nothing was."""
    if not each.bad:
        return 0.0
    newest = each.outcomes[max(each.outcomes)]
    return 4.0 * newest.bad + 2.0 * bool(each.flakes) + each.bad / (each.good + each.bad)


def _tiles(
    runs: Sequence[StoredRun], window: Sequence[StoredRun], rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the figures at the top."""
    tiles: list[dict[str, Any]] = []
    if runs:
        last = f"newest run, {runs[0].what or runs[0].where}"
        tiles.append({"value": runs[0].verdict, "what": last, "badge": True})
    if window:
        good = sum(run.good for run in window)
        tiles.append({"value": f"{good}/{len(window)}", "what": "runs good", "badge": False})
        flaky = sum(bool(row["flakes"]) for row in rows)
        judged = sum(row["good"] + row["bad"] for row in rows)
        rate = sum(row["flakes"] for row in rows) / judged if judged else 0.0
        tiles.append({"value": str(len(rows)), "what": "tests", "badge": False})
        said = f"flaky tests; flake rate {rate:.2%}"
        tiles.append({"value": str(flaky), "what": said, "badge": False})
    return tiles


def _matrix(history: History, runs: Sequence[StoredRun], by: str) -> dict[str, Any]:
    """Return suites, and tests that differ or are bad, by revision or by host."""
    columns = trend.columns(runs, by, COLUMNS)
    sides = [stored.side(history, column.run) for column in columns]
    tests = grouped(sides) if sides else []
    suites: defaultdict[str, list[Counter[Outcome]]] = defaultdict(
        lambda: [Counter() for _ in columns]
    )
    cells: defaultdict[str, list[Outcome | None]] = defaultdict(lambda: [None] * len(columns))
    for number, side in enumerate(tests):
        for key, results in side.items():
            cells[key][number] = trend.worst(each.outcome for each in results)
            for result in results:
                suites[result.suite][number][result.outcome] += 1
    rows = [
        {"name": key, "cells": found}
        for key, found in sorted(cells.items())
        if key != BOOT
        and (
            any(each is not None and each.bad for each in found)
            or len({each for each in found if each is not None}) > 1
        )
    ]
    return {
        "by": by,
        "columns": columns,
        "suites": [{"name": name, "cells": suites[name]} for name in sorted(suites)],
        "rows": rows,
    }
