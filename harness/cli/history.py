# SPDX-License-Identifier: GPL-2.0-only
"""`snptest history`: runs of the past, tests over time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.report.live import animated
from harness.report.outcome import ExitCode

if TYPE_CHECKING:
    from harness.history.runs import StoredRun
    from harness.history.store import History

HELP = """Runs of the past: every `snptest run` is kept, results, kernel and place.

Without a command, lists the newest runs.  RUN is a run's number, last, last-1, or its folder.

\b
Examples:
  snptest history                         the newest 20 runs
  snptest history list --kernel mine -n 100
  snptest history show last               a run against those before it
  snptest history test test_init2         a test over time, by its id or part of it
  snptest history import results          what an older snptest, or another machine, left
  snptest history prune --older 90        results go; counts and daily sums stay

\b
It is one SQLite file: SNPTEST_HISTORY, or history.db where SNPTEST_RESULTS is set, or
~/.local/state/snptest/history.db.  `snptest run --no-history` leaves it alone.
"""
app = typer.Typer(rich_markup_mode=None, invoke_without_command=True, help=HELP)

Db = Annotated[Path | None, typer.Option("--db", metavar="FILE", help="another history")]
Json = Annotated[bool, typer.Option("--json", help="as JSON")]


@app.callback()
def default(context: typer.Context, db: Db = None) -> None:
    """List the newest runs, unless a command says otherwise."""
    context.obj = db
    if context.invoked_subcommand is None:
        list_runs(context)


@app.command("list")
def list_runs(
    context: typer.Context,
    limit: Annotated[int, typer.Option("-n", metavar="N", min=1, help="the newest N")] = 20,
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="of this label")] = None,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="on this backend")] = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="of this host")] = None,
    kernel: Annotated[str | None, typer.Option(metavar="NAME", help="of this kernel")] = None,
    as_json: Json = False,
    db: Db = None,
) -> None:
    """List runs, the newest first."""
    from harness.console import make_console
    from harness.history import render, runs

    wanted = runs.Filter(label=label, backend=backend, host=host, kernel=kernel)
    with opened(db or context.obj) as history:
        found = runs.runs(history, limit, wanted)
    if as_json:
        print(json.dumps([record(run) for run in found], indent=2))
    elif found:
        render.show_runs(make_console(), found)
    else:
        print("no run is stored that is so")


@app.command()
def show(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN")] = "last",
    against: Annotated[
        str | None, typer.Option(metavar="RUN", help="instead of the last good one")
    ] = None,
    any_kernel: Annotated[
        bool, typer.Option("--any-kernel", help="compare with runs of kernels of other names, too")
    ] = False,
    as_json: Json = False,
    db: Db = None,
) -> None:
    """Show a run, and what is new in it: new failures, known ones, flaky ones, fixed ones.

    Exit code 1 where something fails newly or still, 3 where the run is not whole.
    """
    from harness.console import make_console
    from harness.history import judge, render, runs

    with opened(db or context.obj) as history, history.reading():
        chosen = runs.find(history, run)
        good = runs.find(history, against) if against else None
        judgement = judge.judge(history, chosen, good=good, kernel=not any_kernel)
    if as_json:
        print(json.dumps(judgement_record(judgement), indent=2))
    else:
        render.show_run(make_console(), judgement)
    failed = judgement.of(judge.Status.NEW) or judgement.of(judge.Status.FAILING)
    if not chosen.whole and chosen.verdict != "running":
        raise typer.Exit(ExitCode.BROKEN)
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.PASSED)


@app.command("test")
def show_test(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="a test's id, or part of it")],
    limit: Annotated[int, typer.Option("-n", metavar="N", min=1, help="the newest N")] = 100,
    as_json: Json = False,
    db: Db = None,
) -> None:
    """Show a test over time: every result, how often it flakes, how long it takes."""
    from harness.console import make_console
    from harness.history import render, trend

    console = make_console()
    records = []
    with opened(db or context.obj) as history, history.reading():
        for number, full in trend.find_tests(history, name):
            points = trend.points(history, number, limit)
            flakes = trend.flakes(history, sorted({point.run for point in points}))
            if as_json:
                each = {"test": full, "flakes": flakes.get(number, 0)}
                records.append({**each, "results": [asdict(point) for point in points]})
            else:
                days = trend.days(history, number)
                render.show_test(console, full, points, days, flakes.get(number, 0))
    if as_json:
        print(json.dumps(records, indent=2))


@app.command("import")
def import_runs(
    context: typer.Context,
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER")],
    db: Db = None,
) -> None:
    """Take in runs' folders, folders of such folders, or files of `run --json`.

    A run that is there already is not taken twice.
    """
    from rich.progress import track

    from harness.console import make_console
    from harness.history import record

    console = make_console(stderr=True)
    found = record.spread(folders)
    new = wrong = 0
    with opened(db or context.obj, make=True) as history:
        steps = record.import_all(history, found)
        for done in track(
            steps,
            "importing",
            len(found),
            console=console,
            transient=True,
            disable=not animated(console),
        ):
            new += done.new
            wrong += bool(done.problem)
            if done.problem:
                console.print(f"snptest: {done.problem}", soft_wrap=True)
        path = history.path
    known = len(found) - new - wrong
    print(f"{new} runs taken in, {known} known already, {wrong} unreadable; in {path}")
    raise typer.Exit(ExitCode.BROKEN if wrong else ExitCode.PASSED)


@app.command()
def prune(
    context: typer.Context,
    older: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="runs that began before that")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="all but the newest N")
    ] = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="only details, consoles, output: most of the size")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only say what would be removed")
    ] = False,
    db: Db = None,
) -> None:
    """Remove the results of old runs; their counts, and sums by day and test, stay for good.

    The newest good run of each kind stays whole: the next one is held against it.
    """
    from harness.history import prune as work

    with opened(db or context.obj) as history:
        done = work.prune(history, older=older, keep=keep, texts=texts, dry_run=dry_run)
    would = "would go" if dry_run else "gone"
    what = "texts" if texts else "results"
    freed = "" if dry_run else f", {done.bytes / 1e6:.1f} MB freed"
    print(f"{done.results} {what} of {done.runs} runs {would}{freed}")


def opened(db: Path | None, *, make: bool = False) -> History:
    """Open the history, with what was left by runs that were cut."""
    from harness.history.record import catch_up
    from harness.history.store import History

    history = History.open(db, make=make)
    catch_up(history)
    return history


def record(run: StoredRun) -> dict[str, Any]:
    """Return a run in plain types, for JSON."""
    return {
        **asdict(run),
        "state": ("running", "finished", "cut")[run.state],
        "file": str(run.file),
        "counts": {str(outcome): count for outcome, count in run.counts.items()},
        "verdict": run.verdict,
    }


def judgement_record(judgement: Any) -> dict[str, Any]:
    """Return a judgement in plain types, for JSON."""
    return {
        "run": record(judgement.run),
        "good": judgement.good.id if judgement.good else None,
        "before": judgement.before.id if judgement.before else None,
        "tests": [
            {
                "test": each.key,
                "status": str(each.status),
                "id": each.result.id,
                "outcome": str(each.result.outcome),
                "reason": each.result.reason,
                "since": each.since.id if each.since else None,
            }
            for each in judgement.tests
        ],
    }
