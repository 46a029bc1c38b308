# SPDX-License-Identifier: GPL-2.0-only
"""The overview of all stored runs, and the lists behind it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from markupsafe import Markup

from harness.compare.diff import grouped
from harness.compare.stored import of_history
from harness.history import runs as stored
from harness.history import trend
from harness.history.runs import StoredRun
from harness.history.store import History
from harness.history.trend import Trend
from harness.report.html import listing, pack
from harness.report.html.listing import Page, row
from harness.report.html.pack import Group
from harness.report.html.templates import render
from harness.report.outcome import BOOT, Outcome
from harness.report.words import counted

WINDOW = 40
"""Newest runs whose tests are shown one by one."""
LISTED = 500
"""Newest runs that are listed."""
SHOWN = 20
"""Of these, how many on the page that is opened first."""
RECENT = 100
"""Newest runs among which those are looked for that have results, and columns."""
DAYS = 120
COLUMNS = 10
ATTENTION = 50_000
MATRIX = 40_000
"""Bytes of rows on the page that is opened first."""
CONTENTS = 60


def overview_pages(history: History, pages: Collection[int]) -> Iterator[Page]:
    """Yield the overview and its lists; `pages` are the numbers of runs that have one."""
    runs = stored.runs(history, LISTED)
    newest = runs[:RECENT]
    window = [run for run in newest if run.counts and not run.pruned][:WINDOW][::-1]
    rows = _rows(history, window)
    tests = pack.paged(_suites(rows))
    matrices = [_matrix(history, newest, by) for by in ("revision", "host")]
    yield "index.html", _first(history, runs, window, rows, tests, matrices, pages)
    listed = pack.paged([Group("", "", tuple(row("run", run, pages) for run in runs))])
    yield from listing.pages("runs", f"The newest {counted(len(runs), 'run')}", "runs", listed)
    yield from listing.pages("tests", "All tests", "tests", tests, window=len(window))
    for each in matrices:
        if len(each["columns"]) > 1:
            spread = pack.paged([Group("", "", tuple(each["rows"]))])
            columns = each["columns"]
            yield from listing.pages(
                f"by-{each['by']}",
                f"By {each['by']}",
                "matrix",
                spread,
                columns=columns,
                pages=pages,
            )


def _first(
    history: History,
    runs: Sequence[StoredRun],
    window: Sequence[StoredRun],
    rows: Sequence[dict[str, Any]],
    tests: Sequence[Sequence[Group]],
    matrices: Sequence[dict[str, Any]],
    pages: Collection[int],
) -> str:
    """Render the page that is opened first: bounded, however much is stored."""
    urgent = sorted((each for each in rows if each["urgency"]), key=lambda each: -each["urgency"])
    shown: list[Markup] = []
    left = ATTENTION
    for each in urgent:
        made = row("test", each)
        left -= pack.size_of(made)
        if left < 0:
            break
        shown.append(made)
    durations = [run.seconds for run in window]
    known = [each for each in durations if each is not None]
    return render(
        "overview.html",
        total=history.one("SELECT count(*) FROM run")[0],
        listed=len(runs),
        run_rows=[row("run", run, pages) for run in runs[:SHOWN]],
        window=window,
        pages=pages,
        tiles=_tiles(runs, window, rows),
        days=trend.days(history)[-DAYS:],
        durations=durations,
        newest=known[-1] if known else None,
        longest=max(known, default=None),
        attention=shown,
        urgent=len(urgent),
        tests=len(rows),
        contents=listing.contents("tests", tests)[:CONTENTS],
        matrices=[
            {
                **each,
                "shown": pack.first(each["rows"], [pack.size_of(r) for r in each["rows"]], MATRIX),
            }
            for each in matrices
        ],
        made=time.time(),
    )


def _suites(rows: Sequence[dict[str, Any]]) -> list[Group]:
    """Group tests by suite; in each, what needs attention comes first."""
    suites: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in rows:
        suites[each["suite"]].append(each)
    found = []
    for number, (suite, members) in enumerate(suites.items(), 1):
        bad = sum(bool(each["urgency"]) for each in members)
        said = counted(len(members), "test") + (f", {bad} need attention" if bad else "")
        ordered = sorted(members, key=lambda each: -each["urgency"])
        found.append(Group(suite, said, tuple(row("test", each) for each in ordered), f"s{number}"))
    return found


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
    """Return rows of suites, and of tests that differ or are bad, by revision or by host."""
    columns = trend.columns(runs, by, COLUMNS)
    sides = [of_history(history, column.run) for column in columns]
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
    different = [
        {"name": key, "cells": found}
        for key, found in sorted(cells.items())
        if key != BOOT
        and (
            any(each is not None and each.bad for each in found)
            or len({each for each in found if each is not None}) > 1
        )
    ]
    of_suites = [{"name": name, "cells": suites[name]} for name in sorted(suites)]
    return {
        "by": by,
        "columns": columns,
        "rows": [
            *(row("cells_of_suite", each) for each in of_suites),
            *(row("cells", each) for each in different),
        ],
    }
