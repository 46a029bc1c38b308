# SPDX-License-Identifier: GPL-2.0-only
"""The producer of results: a pytest plugin that turns reports into the stream of JSON lines.

It runs in the process that sees all reports (with xdist: the controller).  Whoever shows or
stores results reads the stream; nothing else of pytest is needed for that.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from harness import standstill
from harness.report import sanitize, verdict
from harness.report.facts import Facts
from harness.report.jsonl import JsonLines
from harness.report.outcome import Outcome, Result
from harness.target import Target


class ResultStream:
    """Writes what happens: start, collected, begin, result, finish, and what is told in between.

    That is: about, broken, trouble, gave up.
    """

    def __init__(self, path: Path, config: pytest.Config) -> None:
        self.lines = JsonLines(
            path, needed=True
        )  # a pipe: without its reader, nobody wants a result
        target = Target.of(config.getoption)
        self.backend = target.backend
        self.stacks: str | None = config.getoption("--stacks")
        self.phases: dict[str, verdict.Phases] = {}
        self.counts: Counter[str] = Counter()
        self.repeat: int = config.getoption("--repeat")
        self.collected = False
        self.interrupted = False
        self.gave_up = ""
        self.troubles: set[str] = set()
        self.abouts: list[dict[str, str]] = []
        self.broken_files: set[str] = set()
        self.boots: set[tuple[str, str, str]] = set()
        self.began = time.monotonic()
        self.stood: dict[str, float] = {}
        """How long this process had stood still when a test began."""
        self.lines.write("start", target.header())

    # Collection -------------------------------------------------------------------------

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without workers: what will run."""
        self._collected(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """With workers: the first one to know says what will run."""
        self._collected(ids)

    def _collected(self, ids: Iterable[str]) -> None:
        count = Counter(verdict.suite_of(nodeid) for nodeid in ids for _ in range(self.repeat))
        # The controller of workers collects nothing itself.
        if count and not self.collected:
            self.collected = True
            self.lines.write("collected", {"count": count.total(), "suites": dict(count)})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Report a file that cannot be imported, once however many workers tried."""
        if report.failed and report.nodeid not in self.broken_files:
            self.broken_files.add(report.nodeid)
            text = sanitize.tail(report.longreprtext)
            last = next((each[2:] for each in text.splitlines() if each.startswith("E ")), text)
            self._emit(
                Result(
                    id=report.nodeid,
                    suite=verdict.suite_of(report.nodeid),
                    interface="",
                    outcome=Outcome.ERROR,
                    seconds=0.0,
                    reason=sanitize.line(f"could not be collected: {last}", verdict.REASON_WIDTH),
                    details=text,
                    backend=self.backend,
                )
            )

    # Tests ------------------------------------------------------------------------------

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Say which test begins."""
        self.stood[nodeid] = standstill.watch().total()
        self.lines.write("begin", {"id": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the phases of a test; the teardown is the last."""
        facts = Facts.of(report)
        for said in facts.abouts:
            self._about(said)
        for boot in facts.boots:
            self._booted(boot)
        for trouble in facts.troubles:
            self._trouble(trouble)
        self.gave_up = facts.gave_up or self.gave_up
        if report.when not in ("setup", "call", "teardown"):
            self._emit(self._died(report))
            return
        phases = self.phases.setdefault(report.nodeid, verdict.Phases(report.nodeid))
        phases.add(report, facts)
        if report.when == "teardown":
            del self.phases[report.nodeid]
            self._emit(phases.result(self.backend))
        if self.gave_up and report.when == "teardown":
            self.lines.write("gave up", {"reason": self.gave_up})
            self.gave_up = ""

    def _about(self, said: dict[str, str]) -> None:
        """Tell once what the kernel under test is, for all workers and boots."""
        clean = {name: text for name, value in said.items() if (text := sanitize.line(value, 200))}
        if clean and clean not in self.abouts:
            self.abouts.append(clean)
            self.lines.write("about", clean)

    def _trouble(self, reason: str) -> None:
        """Tell once what keeps the results from being whole."""
        if reason not in self.troubles:
            self.troubles.add(reason)
            self.lines.write("trouble", {"reason": reason})

    def _booted(self, result: Result) -> None:
        """Tell of a boot that was not silent, once for all workers and boots."""
        key = (result.id, result.outcome, result.reason)
        if key not in self.boots:
            self.boots.add(key)
            self._emit(result)

    def _died(self, report: pytest.TestReport) -> Result:
        """Tell of a worker that died; xdist then starts another, which runs the rest."""
        phases = self.phases.pop(report.nodeid, verdict.Phases(report.nodeid))
        phases.outcome = Outcome.CRASH
        phases.reason = "the process that drove the kernel died during this test"
        phases.details = sanitize.tail(report.longreprtext)
        worker = getattr(getattr(report, "node", None), "gateway", None)
        if self.stacks and worker is not None:
            path = Path(self.stacks) / f"stacks-{worker.id}.txt"
            if path.exists() and path.stat().st_size:
                phases.reason = "the test hung and its process had to be ended"
                phases.details += "\n\n" + sanitize.tail(path.read_bytes().decode(errors="replace"))
        stood = standstill.watch().total() - self.stood.get(report.nodeid, 0.0)
        if stood:
            phases.outcome, phases.reason = Outcome.ERROR, verdict.stood_still(stood)
        elif _killed(worker):
            phases.outcome = Outcome.ERROR
            phases.reason = "the process that ran it was killed from outside (out of memory?)"
        return phases.result(self.backend)

    def _emit(self, result: Result) -> None:
        self.counts[result.outcome] += 1
        self.lines.result(result)

    # End --------------------------------------------------------------------------------

    def pytest_internalerror(self, excrepr: object) -> None:
        """Report that pytest itself failed: no result can be trusted to be complete."""
        self.lines.write("broken", {"reason": sanitize.tail(str(excrepr))})

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note that somebody ended the run; xdist's own endings have a type of theirs."""
        self.interrupted = excinfo.type is KeyboardInterrupt

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Count up and end the stream."""
        # xdist ends before a test whose worker died twice is told; nothing may be dropped.
        # A run that was ended from outside says nothing about the tests that ran.
        for phases in () if self.interrupted else self.phases.values():
            phases.outcome = Outcome.CRASH
            phases.reason = "the run ended during this test"
            self._emit(phases.result(self.backend))
        footer = {"seconds": round(time.monotonic() - self.began, 3), "exit": int(exitstatus)}
        self.lines.finish(footer | {"counts": dict(self.counts)})


def _killed(gateway: Any) -> bool:
    """Whether a worker ended by SIGKILL: no test and no kernel sends it, the OOM killer does."""
    process = getattr(getattr(gateway, "_io", None), "popen", None)
    if process is None:
        return False
    try:
        return bool(process.wait(timeout=5) == -signal.SIGKILL)
    except subprocess.TimeoutExpired:
        return False
