# SPDX-License-Identifier: GPL-2.0-only
"""`snptest kernels`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.kernels import complete_kernel
from harness.errors import UsageError

HELP = """List the kernels that `snptest build` has made, or remove old ones.

\b
Examples:
  snptest kernels                          name, release, base, series, config, date, size
  snptest kernels --collect                remove what no name refers to
  snptest kernels --collect mine old       these two, and what only they needed
  snptest kernels --collect --keep 3       all but the newest three
  snptest kernels --collect --older 14 --dry-run   what two weeks would free

\b
A kernel that is booted just now stays.  Objects and sources are kept as long as a kernel
of the same configuration and version is: without them the next build takes minutes.
"""


def kernels(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="kernels to collect", autocompletion=complete_kernel),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="list as JSON, with all details")] = False,
    collect: Annotated[
        bool, typer.Option("--collect", help="remove NAMEs and what nothing refers to")
    ] = False,
    keep: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="collect all but the newest N")
    ] = None,
    older: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="collect those built before that")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only say what would be removed")
    ] = False,
) -> None:
    """List kernels, or remove some."""
    from harness.cli.kernels import collect_kernels, list_kernels

    if collect:
        raise typer.Exit(collect_kernels(tuple(names or ()), keep, older, dry_run))
    if names or keep is not None or older is not None or dry_run:
        raise UsageError("NAME, --keep, --older and --dry-run are for --collect")
    raise typer.Exit(list_kernels(json))
