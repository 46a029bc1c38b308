# SPDX-License-Identifier: GPL-2.0-only
"""`snptest nightly`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = """Run a whole night unattended: revisions times places times suites.

FILE says what (ci/nightly.toml, which explains every key).  Each host works through its own
jobs, all at once; kernels are built meanwhile.  A job that a host is lost with goes to its
equals, and a host that is lost twice is left alone.  What fails runs again; in the end every
job is held against the nights before it in the history: new failures, those that still fail,
flaky ones, known issues, fixed ones.

\b
Examples:
  snptest nightly --dry-run                what would run, and where
  snptest nightly ~/farm.toml --markdown night.md --json night.json
  snptest nightly --only gmem --only launch
  snptest history test NAME                one test, night after night
  systemctl enable --now snptest-nightly.timer     the units are in ci/systemd

\b
Killed at any moment, the same command goes on with the night; --restart begins a new one.
Exit codes: 0 nothing fails but what is known or flaky, 1 something does, 2 usage,
            3 jobs without an answer: a build, a boot or a host failed
"""


def nightly(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="the schedule (ci/nightly.toml)")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="only jobs of this revision, place or suite; again: or"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the jobs, run none")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="begin a new night, whatever was done")
    ] = False,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write what is printed, as Markdown")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="write it as JSON")] = None,
) -> None:
    """Run a whole night."""
    from harness.cli import nightly as command

    wanted = command.NightlyOptions(
        file=file or command.FILE,
        only=tuple(only or ()),
        dry_run=dry_run,
        restart=restart,
        markdown=markdown,
        json=json,
    )
    raise typer.Exit(command.nightly(wanted))
