# SPDX-License-Identifier: GPL-2.0-only
"""Where commands print."""

from __future__ import annotations

import sys

from rich.console import Console


def make_console(*, stderr: bool = False) -> Console:
    """Make the console of a command: colour on a terminal only, lines whole elsewhere."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    return Console(
        file=stream,
        width=None if terminal else 120,
        force_terminal=terminal,  # FORCE_COLOR of a CI system would make its log a terminal
        highlight=False,
        markup=False,
        emoji=False,
    )
