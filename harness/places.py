# SPDX-License-Identifier: GPL-2.0-only
"""Where things are kept on this machine: the cache, the state, results.

As the XDG base directory specification has it, a relative path in one of its variables does not
count: it would be another place for each directory that a process of ours runs in.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
"""The project's own tree."""


def cache() -> Path:
    """Return $XDG_CACHE_HOME/snptest (not made yet, maybe)."""
    return _home("XDG_CACHE_HOME", ".cache") / "snptest"


def state() -> Path:
    """Return $XDG_STATE_HOME/snptest (not made yet, maybe)."""
    return _home("XDG_STATE_HOME", ".local/state") / "snptest"


def results() -> Path | None:
    """Return the folder that $SNPTEST_RESULTS names; None where it names none."""
    named = os.environ.get("SNPTEST_RESULTS")
    return Path(named).expanduser().absolute() if named else None


def _home(variable: str, default: str) -> Path:
    named = os.environ.get(variable, "")
    if os.path.isabs(named):
        return Path(named)
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise UserError(
            f"no home directory: HOME is not set, and user {os.getuid()} has none",
            f"set HOME or {variable}",
        )
    return Path(home) / default
