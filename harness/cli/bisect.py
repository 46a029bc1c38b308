# SPDX-License-Identifier: GPL-2.0-only
"""`snptest bisect`, and `snptest bisect-step` for `git bisect run`."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from harness import backends, kbuild, suiterun
from harness.bisect import render, revisions
from harness.bisect.bisection import Asked, Bisection, Listener
from harness.bisect.plan import Answer, End, Step, plan
from harness.bisect.revisions import Range, Revision
from harness.bisect.state import State
from harness.bisect.verdicts import Trial, Verdict, findings, trial_of
from harness.cli.kernels import DEFAULT_BASE
from harness.cli.output import ResultsBar, need_writable, to_stdout, write_text
from harness.cli.run import suite_paths
from harness.console import make_console
from harness.errors import BuildError, UsageError, UserError
from harness.kbuild.progress import ConsoleProgress, sayer
from harness.kbuild.toolchain import DEFAULT, Toolchain
from harness.report.outcome import ExitCode, Result
from harness.report.words import counted
from harness.target import Target

SKIPPED = 125
"""What `git bisect run` takes as: cannot be tested."""
ABORT = 128
"""The least exit code with which `git bisect run` ends at once, instead of taking it as bad."""
STEP_KERNEL = "bisect-step"


@dataclass(frozen=True)
class BisectOptions:
    """What the command line says."""

    target: Target
    tests: tuple[str, ...]
    good: str | None = None
    bad: str | None = None
    base: str | None = None
    series: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    expression: str | None = None
    workers: str = "auto"
    runs: int = 1
    restart: bool = False
    json: Path | None = None

    @property
    def builds(self) -> bool:
        """Whether the backend runs kernels that are built here."""
        return self.target.backend not in ("emulator", "local")


def bisect(options: BisectOptions) -> int:
    """Find the patch or commit; 0 where it is found, 3 else."""
    if not options.tests:
        raise UsageError("which tests tell good from bad?", "name suites or tests")
    suite_paths(options.tests)
    need_writable(options.json)
    backends.get(options.target.backend)
    if not options.builds:
        raise UsageError(
            f"backend {options.target.backend} boots no kernel that was built here",
            "--backend vng; or let `git bisect run snptest bisect-step` bisect something else",
        )
    console = make_console(stderr=to_stdout(options.json))
    with ConsoleProgress(console) as progress:
        searched = _range(options, progress, sayer(console))
    asked = Asked(options.tests, options.target, options.expression, options.workers, options.runs)
    with State(_question(options, searched), restart=options.restart) as state:
        _greet(console, searched, asked, state)
        with _Display(console, searched) as display:
            bisection = Bisection(searched, asked, state, display)
            answer = bisection.run()
        render.show(console, bisection, answer)
        if options.json is not None:
            record = render.record(bisection, answer)
            write_text(options.json, json.dumps(record, indent=2) + "\n")
    return _code(answer)


def _code(answer: Answer) -> int:
    # That nothing is bad is no failure of a test, which 1 would be.
    return ExitCode.PASSED if answer.end is End.FOUND else ExitCode.BROKEN


def _range(options: BisectOptions, progress: kbuild.Progress, say: Callable[[str], None]) -> Range:
    if not options.series:
        return revisions.of_git(options.base or ".", options.good, options.bad, options.config)
    base = options.base or DEFAULT_BASE
    return revisions.of_series(
        base, options.series, options.good, options.bad, options.config, progress, say
    )


def _question(options: BisectOptions, searched: Range) -> dict[str, Any]:
    """Return everything that another answer may follow from."""
    commits = [each.commit for each in searched.revisions]
    files = [Path(each) for each in options.config if Path(each).is_file()]
    toolchain = Toolchain.of_environment()
    named = {} if toolchain == DEFAULT else {"compiler": toolchain.version()}
    return {
        **named,
        "about": searched.about,
        "commits": hashlib.sha256(" ".join(commits).encode()).hexdigest(),
        "tests": list(options.tests),
        "expression": options.expression,
        "options": options.target.words(),
        "config": [*options.config, *(hashlib.sha256(f.read_bytes()).hexdigest() for f in files)],
    }


def _greet(console: Console, searched: Range, asked: Asked, state: State) -> None:
    """Say what is searched, and what is known of it from before."""
    tests = " ".join(asked.tests)
    console.print(Text(f"bisecting {searched.about}: {tests}", style="bold"), soft_wrap=True)
    if not state.trials:
        return
    found = findings(state.trials, asked.least)
    done = isinstance(plan(searched.history, state.trials, asked.least), Answer)
    runs = "1 run" if len(state.trials) == 1 else f"{len(state.trials)} runs"
    text = f"found before, in {runs}" if done else f"going on: {runs} are known"
    console.print(Text(f"{text} (--restart forgets them)", style="dim"), soft_wrap=True)
    for trial in state.trials:
        verdict = found.verdict(trial.number)
        console.print(render.line_of(searched.revisions[trial.number], trial, verdict))


class _Display(Listener):
    """A line a step, and on a terminal a bar of its build, then of its tests."""

    def __init__(self, console: Console, searched: Range) -> None:
        super().__init__(ConsoleProgress(console))
        self._console = console
        self._searched = searched
        self._count = 0
        self._tests = ResultsBar(console)
        self._building = False

    def step(self, step: Step, revision: Revision) -> None:
        """Say what is asked, and how much is left."""
        self._tests.stop()
        self._count += 1
        left = "the last one" if step.left == 1 else f"about {step.left} left"
        text = f"step {self._count} ({left}): {revision.title}: {step.why}"
        self._console.print(Text(text, style="dim"), soft_wrap=True)
        self._open()

    def running(self, step: Step) -> None:
        """Go from the bar of a build to that of tests."""
        self._close()
        tests = counted(len(step.only), "test") if step.only else "all that was asked for"
        times = f", {step.repeat} times" if step.repeat > 1 else ""
        self._tests.begin(f"running {tests}{times}")

    def result(self, result: Result) -> None:
        """Count a result."""
        self._tests.result(result)

    def judged(self, trial: Trial, verdict: Verdict) -> None:
        """Say what came out."""
        self._tests.stop()
        self._close()
        revision = self._searched.revisions[trial.number]
        self._console.print(render.line_of(revision, trial, verdict), soft_wrap=True)

    def _open(self) -> None:
        if not self._building:
            self.progress.__enter__()
            self._building = True

    def _close(self) -> None:
        if self._building:
            self.progress.__exit__(None, None, None)
            self._building = False

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *details: object) -> None:
        self._tests.stop()
        self._close()


# For `git bisect run` -------------------------------------------------------------------


def guarded(main: Callable[[], int]) -> int:
    """Run the command line of bisect-step: no exit code that is not meant so says bad."""
    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None) * ABORT
    meant = code in (ExitCode.PASSED, ExitCode.FAILED, SKIPPED) or code >= ABORT
    return code if meant else ABORT


def step(options: BisectOptions) -> int:
    """Judge the sources as they are: 0 good, 1 bad, 125 cannot be judged, 128 a user's error.

    What is wrong with snptest, or with how it was called, must not pass for a bad revision.
    """
    try:
        return _step(options)
    except UserError as error:
        print(f"snptest: {error}")
        return ABORT
    except KeyboardInterrupt:
        return ABORT + 2
    except Exception:  # noqa: BLE001  # exit code 1 would say that the revision is bad
        traceback.print_exc()
        return ABORT + 1


def _step(options: BisectOptions) -> int:
    if not options.tests:
        raise UsageError("which tests tell good from bad?", "name suites or tests")
    backends.get(options.target.backend)
    console = make_console()
    target = options.target
    words = ["-n", options.workers, "--repeat", str(options.runs)]
    if options.expression:
        words += ["-k", options.expression]
    kernel = ""
    if options.builds:
        base = options.base or "."
        if not (Path(base) / ".git").exists():
            raise UsageError(f"--base {base} is no git work tree", "run it where git bisect runs")
        try:
            with ConsoleProgress(console) as progress:
                kernel = kbuild.build(
                    STEP_KERNEL, base, options.series, fragments=options.config, progress=progress
                ).name
        except BuildError as error:
            hint = f" ({error.hint})" if error.hint else ""
            console.print(Text(f"skip: no build: {error.headline}{hint}"), soft_wrap=True)
            return SKIPPED
        target = replace(target, kernel=kernel)
    done = suiterun.run([*options.tests, *target.words(), *words])
    if done.code == ExitCode.USAGE:
        raise UsageError(suiterun.last_line(done.said))
    trial = trial_of(1, (), done, kernel)
    verdict = findings([trial]).verdict(1)
    revision = Revision(kernel or options.target.backend, "")
    console.print(render.line_of(revision, trial, verdict), soft_wrap=True)
    if trial.folder:
        console.print(Text(f"results: {trial.folder}", style="dim"), soft_wrap=True)
    return {Verdict.GOOD: ExitCode.PASSED, Verdict.BAD: ExitCode.FAILED}.get(verdict, SKIPPED)
