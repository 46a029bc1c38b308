# SPDX-License-Identifier: GPL-2.0-only
"""How many clean runs say that a test that fails now and then would have failed.

Of tests that failed in K of N runs, p = K / (N + 1) is taken as the chance of a failure in one
run: so many clean runs are enough that all of them would have passed with a chance below DOUBT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DOUBT = 0.01
MOST_RUNS = 60
"""Clean runs after which even a test that fails once in hundreds is taken as good."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How often the failures that count are seen."""

    failed: int = 0
    """Runs of bad revisions that failed."""
    runs: int = 0
    """Runs of bad revisions."""

    @property
    def flaky(self) -> bool:
        """Whether a bad revision has passed."""
        return self.failed < self.runs

    def needed(self, least: int = 1) -> int:
        """Return the clean runs after which a revision is good."""
        return self.sure(least) if self.flaky else least

    def sure(self, least: int = 1) -> int:
        """Return those after which it is good for sure."""
        if not self.failed:
            return least
        chance = self.failed / (self.runs + 1)
        return max(least, min(MOST_RUNS, math.ceil(math.log(DOUBT) / math.log(1 - chance))))
