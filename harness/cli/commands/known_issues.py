# SPDX-License-Identifier: GPL-2.0-only
"""`snptest known-issues`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = """List known issues: what is wrong already, and where each entry counts.

A failure that an entry explains is reported as xfail, with the entry's id, reason and link.
Entries live in kernels/known-issues.toml, which says how to write one.

\b
Examples:
  snptest known-issues
  snptest known-issues my.toml     check and list another file
"""


def known_issues(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="instead of kernels/known-issues.toml")
    ] = None,
) -> None:
    """List known issues."""
    from harness.cli.known import show

    raise typer.Exit(show(file))
