# SPDX-License-Identifier: GPL-2.0-only
"""`snptest nightly`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from harness.cli.output import need_writable, to_stdout, write_text
from harness.console import make_console
from harness.errors import UsageError
from harness.history.store import History
from harness.nightly import render
from harness.nightly.night import Listener, Operation, Tools, build
from harness.nightly.schedule import Job, Revision, Schedule, load
from harness.nightly.state import Night, Record
from harness.nightly.verdict import exit_code, verdicts
from harness.places import ROOT
from harness.report.live import animated
from harness.report.outcome import Outcome
from harness.report.words import counted
from harness.suiterun import SuiteRun

FILE = ROOT / "ci" / "nightly.toml"


@dataclass(frozen=True)
class NightlyOptions:
    """What the command line says."""

    file: Path = FILE
    only: tuple[str, ...] = ()
    dry_run: bool = False
    restart: bool = False
    markdown: Path | None = None
    json: Path | None = None


def nightly(options: NightlyOptions, tools: Tools | None = None) -> int:
    """Run a night; 0 where nothing fails that is not known or flaky, 1 where it does, 3 else."""
    if not options.dry_run:
        need_writable(options.markdown, options.json)
    schedule = _only(load(options.file), options.only)
    console = make_console(stderr=to_stdout(options.markdown, options.json))
    if options.dry_run:
        _tell(console, schedule)
        return 0
    with History.open() as history:  # before anything runs: it must be there in the end
        question = {"digest": _digest(schedule)}
        seconds = 3600 * schedule.hours
        with Night(schedule.name, question, seconds, restart=options.restart) as night:
            if night.resumed:
                done = sum(each.done for each in night.records.values())
                console.print(f"going on: {done} of {len(schedule.jobs)} jobs are done (--restart)")
            with _Display(console, schedule) as display:
                used = tools or Tools(build=display.build)
                Operation(schedule, night, display, used).run()
            found = verdicts(history, schedule, night)
            render.show(console, schedule, night, found)
            write_text(options.markdown, render.markdown(schedule, night, found))
            text = json.dumps(render.record(schedule, night, found), indent=2)
            write_text(options.json, text + "\n")
    return exit_code(found)


def _only(schedule: Schedule, words: tuple[str, ...]) -> Schedule:
    """Leave out the jobs whose name has none of the words among its parts."""
    if not words:
        return schedule
    parts = {part for job in schedule.jobs for part in job.name.split("/")}
    for word in words:
        if word not in parts:
            raise UsageError(f"--only {word}: no job has that", ", ".join(sorted(parts)))
    jobs = [job for job in schedule.jobs if set(words) & set(job.name.split("/"))]
    return dataclasses.replace(schedule, jobs=tuple(jobs))


def _digest(schedule: Schedule) -> str:
    content = json.dumps(dataclasses.asdict(schedule), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _tell(console: Console, schedule: Schedule) -> None:
    for job in schedule.jobs:
        workers = ", ".join(schedule.places[job.place].workers)
        console.print(Text(f"{job.name}  on {workers}"), soft_wrap=True)
    console.print(f"{counted(len(schedule.jobs), 'job')}, {schedule.hours:g} hours at most")


class _Display(Listener):
    """A line for whatever happens: a night is read in a journal, by somebody who was asleep.

    On a terminal, a bar below them says what is under way.
    """

    def __init__(self, console: Console, schedule: Schedule) -> None:
        self._console = console
        self._total = len(schedule.jobs)
        self._done = 0
        self._running: dict[str, str] = {}
        self._lock = threading.Lock()
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.completed}/{task.total} jobs  {task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=not animated(console),
            transient=True,
        )
        self._task = self._bar.add_task("", total=self._total)

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._bar.stop()

    def _say(self, text: str, style: str = "") -> None:
        with self._lock:
            self._console.print(Text(text, style=style), soft_wrap=True)
            running = ", ".join(self._running.values())
            self._bar.update(self._task, completed=self._done, description=running)

    def build(self, revision: Revision) -> str:
        """Build a revision's kernel; say what was decided about its series."""
        return build(revision, lambda text: self._say(f"{revision.name}: {text}"))

    def building(self, revision: Revision) -> None:
        self._running["build"] = f"building {revision.name}"
        self._say(f"building {revision.name}", "dim")

    def built(self, revision: Revision, error: str) -> None:
        self._running.pop("build", None)
        if error:
            self._say(f"{revision.name} was not built: {error}", "yellow")
        else:
            self._say(f"built {revision.name}", "dim")

    def began(self, job: Job, worker: str) -> None:
        self._running[worker] = job.name
        self._say(f"{job.name} on {worker}", "dim")

    def ended(self, job: Job, record: Record, run: SuiteRun | None) -> None:
        self._done += record.done
        self._running.pop(record.worker, None)
        where = f"{self._done}/{self._total}" if record.done else "again"
        results = run.results if run else []
        counts = [
            f"{number} {outcome}"
            for outcome in Outcome
            if (number := sum(each.outcome is outcome for each in results))
        ]
        said = [*counts, *record.broken[:1]]
        style = "red" if any(each.outcome.bad for each in results) else ""
        self._say(f"{where} {job.name}: {', '.join(said)}", "yellow" if record.broken else style)

    def lost(self, worker: str, why: str) -> None:
        self._say(f"{worker} is given up: {why}", "bold yellow")
