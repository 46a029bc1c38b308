# SPDX-License-Identifier: GPL-2.0-only
"""What `snptest doctor` finds: one line each, with a remedy."""

from __future__ import annotations

import enum
from dataclasses import dataclass

PURPOSE = "SNP guests"
"""What the findings of harness/preflight are for."""


class State(enum.StrEnum):
    """How a check came out."""

    OK = "ok"
    MISSING = "missing"
    """Something the project can use is not there."""
    BROKEN = "broken"
    """Something that is there, or that everything needs, does not work."""
    UNKNOWN = "unknown"
    """It could not be looked at."""


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    topic: str
    state: State
    found: str
    remedy: str = ""
    needed_for: str = ""
