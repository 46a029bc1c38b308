# SPDX-License-Identifier: GPL-2.0-only
"""`snptest bench`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="write the figures")] = None,
) -> None:
    """Measure performance, as ratios, against its bars."""
    from harness.cli.bench import bench as run_benchmarks

    raise typer.Exit(run_benchmarks(tuple(names or ()), json))
