# SPDX-License-Identifier: GPL-2.0-only
"""`snptest check`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer


def check(
    quick: Annotated[
        bool, typer.Option("--quick", help="leave out what builds or boots kernels")
    ] = False,
) -> None:
    """Pass the project's own tests (lint, types, harness)."""
    from harness.cli.check import check as run_checks

    raise typer.Exit(run_checks(quick=quick))
