# SPDX-License-Identifier: GPL-2.0-only
"""Runs of the past: a folder of results/, or a results.jsonl that was kept elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.compare.diff import Side
from harness.errors import UsageError
from harness.history import runs, schema
from harness.history.runs import StoredRun
from harness.history.store import History
from harness.kbuild.toolchain import brief
from harness.report import sanitize
from harness.report.events import Lines
from harness.report.outcome import Result


def find(text: str) -> Path | None:
    """Return the file of results that a word names; None where it names no stored run."""
    path = Path(text).expanduser()
    if path.is_dir() and (path / "results.jsonl").is_file():
        return path / "results.jsonl"
    return path if path.is_file() else None


def load(path: Path, suites: Sequence[str] = ()) -> Side:
    """Read a stored run, all of it or some suites or tests; UsageError where it is none.

    A last line that is cut, or missing, tells of a run that was killed: it counts as broken.
    """
    side = Side(str(path.parent if path.name == "results.jsonl" else path))
    finished = False
    lines = Lines()
    for line in lines.feed(path.read_bytes()):
        event = line.event
        if event is None:
            raise UsageError(
                f"{path}:{line.number} is no line of results: {line.wrong}",
                "a stored run is results/TIME, or what `run --json FILE` wrote",
            )
        if event.result is not None:
            side.results.append(event.result)
        elif event.kind == "start":
            describe(side, event.fields)
        elif event.kind == "finish":
            finished = True
            side.broken += event.broken
    if not finished:
        side.broken.append(f"{side.label} was cut short" + (": half a line" if lines.cut else ""))
    return of_suites(side, suites)


def of_history(history: History, run: StoredRun) -> Side:
    """Return a run of the history as a side."""
    about = ", ".join(filter(None, (run.where, run.what)))
    broken = [f"run {run.id}: {reason}" for reason in run.broken]
    if run.state == schema.RUNNING:
        broken.append(f"run {run.id}: it goes on")
    if run.pruned:
        broken.append(f"run {run.id}: its results were pruned")
    compiler = brief(run.kernel.compiler)
    about += f", by {compiler}" if compiler else ""
    return Side(f"run {run.id}", runs.results(history, run, texts=False), broken, about, compiler)


def of_suites(side: Side, suites: Sequence[str]) -> Side:
    """Leave what is of these suites, files or tests, where any are named; it must be something."""
    if suites:
        wanted = {name.rstrip("/") for name in suites}
        side.results = [each for each in side.results if _is_wanted(each, wanted)]
    if not side.results:
        which = f" of {', '.join(suites)}" if suites else ""
        side.broken.append(f"{side.label} holds no results{which}")
    return side


def _is_wanted(result: Result, wanted: set[str]) -> bool:
    """Whether a result is of one of these suites, files or tests."""
    file, _, test = result.id.partition("::")
    names = (result.suite, f"suites/{result.suite}", file, f"{file}::{test.partition('[')[0]}")
    return result.id in wanted or not wanted.isdisjoint(names)


def describe(side: Side, header: dict[str, Any]) -> None:
    """Take what a run's header says of a side: what ran where, and which compiler built it."""
    names = ("backend", "interface", "kernel", "machine", "host")
    said = {"interface": header.get("revision")} | header  # as it was called once
    found = [f"{name} {said[name]}" for name in names if said.get(name)]
    built = header.get("built")
    if isinstance(built, dict) and built.get("compiler"):
        side.compiler = brief(sanitize.line(str(built["compiler"])))
        found.append(f"by {side.compiler}")
    side.about = sanitize.line(", ".join(found))
