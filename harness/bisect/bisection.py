# SPDX-License-Identifier: GPL-2.0-only
"""A bisection as it happens: what the plan asks for is built and run, and every answer is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from harness import kbuild, suiterun
from harness.bisect.ahead import Ahead, Request, build
from harness.bisect.plan import Answer, Step, plan, upcoming
from harness.bisect.revisions import Range, Revision
from harness.bisect.state import State
from harness.bisect.verdicts import Trial, Verdict, findings, trial_of
from harness.errors import BuildError, ResourceError, UsageError
from harness.kbuild.kernel import name_file
from harness.report.outcome import ExitCode, Result
from harness.target import Target

HOPELESS = 3
"""Runs in a row that the harness failed, after which it will fail any other, too."""

Judge = Callable[[Sequence[str], Callable[[Result], None]], suiterun.SuiteRun]


def _judge(words: Sequence[str], listener: Callable[[Result], None]) -> suiterun.SuiteRun:
    """Run; the history is of revisions that somebody wanted to know about, not of these."""
    return suiterun.run(words, listener, history=False)


@dataclass(frozen=True)
class Asked:
    """What decides: the tests, and how they are run."""

    tests: tuple[str, ...]
    target: Target = field(default_factory=lambda: Target("vng"))
    """Where they run, but for the kernel."""
    expression: str | None = None
    workers: str = "auto"
    least: int = 1
    """Clean runs that make a revision good."""

    def words(self, step: Step, kernel: str) -> list[str]:
        """Return the words of `snptest run` for a step."""
        words = [*(step.only or self.tests), *replace(self.target, kernel=kernel).words()]
        if self.expression and not step.only:
            words += ["-k", self.expression]
        # A few tests are no work for several kernels, and the next one is built meanwhile.
        workers = "1" if step.only and self.workers == "auto" else self.workers
        return [*words, "-n", workers, "--repeat", str(step.repeat)]


@dataclass
class Listener:
    """Follows a bisection; silent, others override."""

    progress: kbuild.Progress = field(default_factory=kbuild.Progress)

    def step(self, step: Step, revision: Revision) -> None:
        """Take note of a revision that is asked."""

    def running(self, step: Step) -> None:
        """Take note of its kernel's being built: the tests begin."""

    def result(self, result: Result) -> None:
        """Take note of a result."""

    def judged(self, trial: Trial, verdict: Verdict) -> None:
        """Take note of what was found, and what it means so far."""


class Bisection:
    """Asks revisions until it is sure which was the first bad one."""

    def __init__(
        self,
        searched: Range,
        asked: Asked,
        state: State,
        listener: Listener,
        judge: Judge = _judge,
    ) -> None:
        self.searched = searched
        self.asked = asked
        self.state = state
        self._listener = listener
        self._judge = judge

    def run(self) -> Answer:
        """Go on until there is an answer.

        UsageError: the tests are none.  BuildError: nothing can be run here at all.
        """
        history, least = self.searched.history, self.asked.least
        with Ahead() as ahead:
            while isinstance(following := plan(history, self.state.trials, least), Step):
                trial = self._perform(following, ahead)
                self.state.add(trial)
                verdict = findings(self.state.trials, least).verdict(trial.number)
                self._listener.judged(trial, verdict)
                self._give_up_on_the_harness()
        self._tidy(following)
        return following

    def kernel_name(self, number: int) -> str:
        """Name the kernel of a revision."""
        return f"bisect-{self.state.name[:8]}-{number}"

    def _perform(self, step: Step, ahead: Ahead) -> Trial:
        self._listener.step(step, self.searched.revisions[step.number])
        request = self._request(step.number)
        try:
            if ahead.has_begun(request):
                self._listener.progress.stage("waiting for its build, which has begun")
            ahead.settle(request)
            kernel = build(request, self._listener.progress)
        except BuildError as error:
            passing = isinstance(error, ResourceError)
            reason = f"no build: {error.headline}" + (f" ({error.hint})" if error.hint else "")
            return Trial(step.number, step.only, trouble=reason, passing=passing)
        coming = upcoming(self.searched.history, self.state.trials, step, self.asked.least)
        ahead.want([self._request(number) for number in coming])
        self._listener.running(step)
        done = self._judge(self.asked.words(step, kernel.name), self._listener.result)
        if done.code == ExitCode.USAGE:
            raise UsageError(suiterun.last_line(done.said))
        return trial_of(step.number, step.only, done, kernel.name)

    def _request(self, number: int) -> Request:
        return {"name": self.kernel_name(number), **self.searched.revisions[number].request}

    def _give_up_on_the_harness(self) -> None:
        """Raise BuildError where nothing was ever run, but all was built."""
        trials = self.state.trials
        if len(trials) == HOPELESS and all(each.trouble and each.kernel for each in trials):
            reason = trials[-1].trouble
            self.state.drop(HOPELESS)
            raise BuildError(
                f"{HOPELESS} revisions were built, and none could be run: {reason}",
                "does the good one boot? `snptest run --kernel` tells more",
            )

    def _tidy(self, answer: Answer) -> None:
        """Let go of the names of kernels that nobody will ask for."""
        kept = {*answer.suspects[-1:], *answer.edge}
        for number in range(len(self.searched.revisions)):
            if number not in kept:
                name_file(self.kernel_name(number)).unlink(missing_ok=True)
