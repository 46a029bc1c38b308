# SPDX-License-Identifier: GPL-2.0-only
"""What a bisection has found so far, on disk.

The same command goes on where it was, and a patch that was edited meanwhile is another question.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.bisect.verdicts import Trial
from harness.kbuild import cache
from harness.kept import Kept, digest_of


def folder() -> Path:
    """Return where bisections are kept."""
    return cache.root() / "bisect"


class State(Kept):
    """The trials of one question."""

    what = "bisection"

    def __init__(self, question: Mapping[str, Any], *, restart: bool = False) -> None:
        """`restart` forgets what was found before."""
        super().__init__(folder(), digest_of(question), question, restart=restart)
        self.trials: list[Trial] = []

    def add(self, trial: Trial) -> None:
        """Keep a trial: afterwards it is on disk."""
        self.trials.append(trial)
        self.write()

    def drop(self, count: int) -> None:
        """Forget the last trials."""
        del self.trials[len(self.trials) - count :]
        self.write()

    def content(self) -> dict[str, Any]:
        """Return the trials."""
        return {"trials": [each.as_dict() for each in self.trials]}

    def take(self, content: dict[str, Any]) -> None:
        """Take trials that were kept, without those that failed for want of memory or disk."""
        trials = [Trial.from_dict(each) for each in content["trials"]]
        self.trials = [each for each in trials if not each.passing]
