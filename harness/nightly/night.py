# SPDX-License-Identifier: GPL-2.0-only
"""A night as it happens: kernels are built one after the other, each host works on its own.

A job that its host was lost with goes to another that is equal; a host that was lost twice in a
row is left alone.  Whatever came of a job is on disk before the next begins.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from harness import kbuild, suiterun
from harness.errors import UserError
from harness.nightly import labgrid
from harness.nightly.schedule import HERE, Job, Place, Revision, Schedule
from harness.nightly.state import TRIES, Night, Record
from harness.report import sanitize
from harness.report.outcome import ExitCode, Outcome
from harness.suiterun import SuiteRun

STRIKES = 2
"""Jobs in a row that bring no result, after which a host is given up."""
MOST_AGAIN = 20
"""Failing tests that run again: more are no flakes."""
AGAIN = " again"
"""Ends the label of runs that only repeat what failed."""

Judge = Callable[[Sequence[str], float], SuiteRun]
"""Runs `snptest run WORDS`, for so many seconds at most."""
Builder = Callable[[Revision], str]
"""Builds a revision, returns the kernel's name."""


def judge(words: Sequence[str], within: float) -> SuiteRun:
    """Run in a process of its own."""
    return suiterun.run(words, within=within)


def build(revision: Revision, say: Callable[[str], None] = lambda text: None) -> str:
    """Build a revision's kernel; BuildError as of kbuild.build().

    `say` is told what was decided about its series: which version was taken, what was merged.
    """
    assert revision.base is not None
    name = f"nightly-{revision.name}"
    kbuild.build(
        name,
        revision.base,
        list(revision.series) or None,
        fragments=revision.config,
        say=say,
    )
    return name


class Listener:
    """Follows a night; silent, others override.  Called from several threads, one at a time."""

    def building(self, revision: Revision) -> None:
        """Take note of a build that begins."""

    def built(self, revision: Revision, error: str) -> None:
        """Take note of one that ended; `error` is empty where it went well."""

    def began(self, job: Job, worker: str) -> None:
        """Take note of a job that begins."""

    def ended(self, job: Job, record: Record, run: SuiteRun | None) -> None:
        """Take note of what came of it."""

    def lost(self, worker: str, why: str) -> None:
        """Take note of a host that is given up."""


@dataclass
class Tools:
    """What a night works with; tests have others."""

    judge: Judge = judge
    build: Builder = build
    place: Callable[[str, str, str], contextlib.AbstractContextManager[None]] = labgrid.acquired


@dataclass
class Operation:
    """The queue, and who works on it."""

    schedule: Schedule
    night: Night
    listener: Listener = field(default_factory=Listener)
    tools: Tools = field(default_factory=Tools)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._stopped = False
        self._kernels: dict[str, str] = {}
        """Built kernels, by revision."""
        self._failed: dict[str, str] = {}
        """Why a revision was not built."""
        self._busy: dict[str, Job] = {}
        self._strikes: dict[str, int] = {}
        self._errors: list[BaseException] = []
        # A clock that jumps meanwhile neither ends the night nor makes it longer.
        whole = 3600 * self.schedule.hours
        left = min(whole, self.night.began + whole - time.time())
        self._deadline = time.monotonic() + left

    def run(self) -> None:
        """Go on until everything is done, or cannot be.  Whatever a worker raises is raised."""
        workers = {name for place in self.schedule.places.values() for name in place.workers}
        tasks = [self._build_all, *(partial(self._work, name) for name in sorted(workers))]
        threads = [
            threading.Thread(target=self._guarded, args=(task,), daemon=True) for task in tasks
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(1.0)
        except BaseException:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()
            raise
        if self._errors:
            raise self._errors[0]
        self._leave_the_rest()
        self.night.over = True
        self.night.write()

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001  # raised by run()
            with self._changed:
                self._errors.append(error)
                self._stopped = True
                self._changed.notify_all()

    # Building ---------------------------------------------------------------------------

    def _build_all(self) -> None:
        """Build what the jobs that are left need, in their order."""
        for revision in self.schedule.revisions.values():
            with self._changed:
                if not revision.builds or not self._wanted(revision) or self._is_over():
                    continue
                self.listener.building(revision)
            name, why = "", ""
            try:
                name = self.tools.build(revision)
            except UserError as error:
                why = sanitize.line(error.headline, 300)
                why += f" ({sanitize.line(error.hint, 300)})" if error.hint else ""
            with self._changed:
                if why:
                    self._failed[revision.name] = why
                    for job in self._left():
                        if job.revision == revision.name:
                            self._give_up(job, f"{revision.name} was not built: {why}")
                else:
                    self._kernels[revision.name] = name
                self.listener.built(revision, why)
                self._changed.notify_all()

    def _wanted(self, revision: Revision) -> bool:
        return any(job.revision == revision.name for job in self._left())

    # Working ----------------------------------------------------------------------------

    def _work(self, worker: str) -> None:
        while (job := self._next(worker)) is not None:
            record = self.night.record(job.name)
            run = self._run(job, worker, record)
            with self._changed:
                del self._busy[worker]
                self._note(job, worker, record, run)
                self._changed.notify_all()

    def _next(self, worker: str) -> Job | None:
        """Wait for a job that this worker can do; None where there will be none."""
        with self._changed:
            while not self._is_over() and worker not in self.night.lost:
                mine = [job for job in self._left() if worker in self._place(job).workers]
                ready = [job for job in mine if self._is_ready(job) and self._may(job, worker)]
                if ready:
                    job = ready[0]
                    self._busy[worker] = job
                    record = self.night.record(job.name)
                    record.worker, record.started = worker, time.time()
                    self.night.write()
                    self.listener.began(job, worker)
                    return job
                # Another's job may come back from a host that is lost.
                others = any(worker in self._place(job).workers for job in self._busy.values())
                if not mine and not others:
                    return None
                self._changed.wait(min(60.0, max(0.1, self._deadline - time.monotonic())))
        return None

    def _is_ready(self, job: Job) -> bool:
        revision = self.schedule.revisions[job.revision]
        return not revision.builds or job.revision in self._kernels

    def _may(self, job: Job, worker: str) -> bool:
        """Whether nobody else should rather try a job that came to nothing here."""
        tried = self.night.record(job.name).tried
        others = set(self._place(job).workers) - {*tried, *self.night.lost}
        return worker not in tried or not others

    def _run(self, job: Job, worker: str, record: Record) -> SuiteRun | None:
        """Run a job, and what fails again; None where not even its host was to be had."""
        place = self._place(job)
        began = time.monotonic()
        within = 3600 * self.schedule.job_hours
        record.broken, record.folders, record.code = [], [], ExitCode.BROKEN
        try:
            with self._host(place, worker):
                run = self.tools.judge(self.words(job, worker), within)
                record.code = run.code
                record.broken = list(run.broken)
                if not run.whole and not record.broken:
                    record.broken = [suiterun.last_line(run.said) or f"it ended with {run.code}"]
                record.folders = [run.folder] if run.folder else []
                failing = [each for each in run.results if each.outcome in _FAILED and each.suite]
                names = list(dict.fromkeys(each.id for each in failing))[:MOST_AGAIN]
                left = within - (time.monotonic() - began)
                if run.whole and names and self.schedule.confirm and left > 0:
                    again = self.tools.judge(self.words(job, worker, names), left)
                    record.folders += [again.folder] if again.folder else []
        except UserError as error:
            record.broken = [sanitize.line(error.message, 300)]
            return None
        finally:
            record.seconds = round(time.monotonic() - began, 1)
        return run

    def _host(self, place: Place, worker: str) -> contextlib.AbstractContextManager[None]:
        if place.coordinator is None:
            return contextlib.nullcontext()
        return self.tools.place(place.coordinator, worker, f"snptest-{self.schedule.name}")

    def words(self, job: Job, worker: str, only: Sequence[str] = ()) -> list[str]:
        """Return the words of `snptest run` for a job, or for some tests of it that run again."""
        place, revision = self._place(job), self.schedule.revisions[job.revision]
        label = self.schedule.label(job)
        target = replace(
            place.target,
            kernel=self._kernels.get(job.revision, revision.kernel),
            interface=revision.interface,
            host=worker if worker != HERE else None,
        )
        words = [*(only or (job.suite,)), *target.words()]
        if only:
            words += ["--repeat", str(self.schedule.confirm), "--label", label + AGAIN]
        else:
            words += ["--label", label]
        return [*words, *place.options]

    def _note(self, job: Job, worker: str, record: Record, run: SuiteRun | None) -> None:
        """Keep what came of a job.  The lock is held."""
        if run is not None and (run.whole or run.results):
            self._strikes[worker] = 0
            # Cut short with results: another host may do better, once.
            record.done = run.whole
        else:
            self._strikes[worker] = self._strikes.get(worker, 0) + 1
        if not record.done:
            record.tried.append(worker)
            record.done = len(record.tried) >= TRIES
        if self._strikes.get(worker, 0) >= STRIKES and worker != HERE:
            why = record.broken[0] if record.broken else "no result"
            self.night.lost[worker] = why
            self.listener.lost(worker, why)
        self.night.write()
        self.listener.ended(job, record, run)

    # What is left -----------------------------------------------------------------------

    def _left(self) -> list[Job]:
        """Return the jobs that nobody has done or does.  The lock is held."""
        busy = set(self._busy.values())
        return [
            job
            for job in self.schedule.jobs
            if job not in busy and not self.night.record(job.name).done
        ]

    def _is_over(self) -> bool:
        return self._stopped or time.monotonic() >= self._deadline

    def _place(self, job: Job) -> Place:
        return self.schedule.places[job.place]

    def _give_up(self, job: Job, why: str) -> None:
        record = self.night.record(job.name)
        record.done, record.broken = True, [why]
        self.night.write()
        self.listener.ended(job, record, None)

    def _leave_the_rest(self) -> None:
        """Say of every job that was not done why."""
        with self._changed:
            for job in self._left():
                workers = self._place(job).workers
                lost = [name for name in workers if name in self.night.lost]
                if len(lost) == len(workers):
                    hosts = ", ".join(f"{name} ({self.night.lost[name]})" for name in lost)
                    self._give_up(job, f"lost: {hosts}")
                else:
                    self._give_up(job, f"the night was over after {self.schedule.hours:g} hours")


_FAILED = (Outcome.FAIL, Outcome.CRASH)
