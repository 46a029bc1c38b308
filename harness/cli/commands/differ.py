# SPDX-License-Identifier: GPL-2.0-only
"""`snptest differ`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.target import Target

HELP = """Compare the emulator with a real kernel on the SNP machine, operation by operation.

Random scripts of launch commands, page state changes, guest_memfd operations, guest requests,
AP creation, RMP instructions and vCPU runs, each from its seed, run on both.  Every errno,
firmware error, exit and RMP entry is compared.  Where they part, one of the two is wrong,
unless harness/differential/differences.toml says why.

\b
Examples:
  snptest differ --kernel mine                       50 scripts of 50 operations
  snptest differ --kernel mine --seed 1000 --count 500 --length 100
  snptest differ --kernel mine --shrink --save out   the shortest scripts that show it
  snptest differ --kernel mine --replay out/seed-7.json

\b
Exit codes: 0 nothing differs that is not documented, 1 something does, or the kernel
            died or logged a splat, 2 usage, 3 the kernel did not boot
"""


@options.with_target("kernel", "machine", boots=True)
def differ(
    target: Target,
    seed: Annotated[int, typer.Option(metavar="N", help="seed of the first script")] = 0,
    count: Annotated[int, typer.Option(metavar="N", help="scripts")] = 50,
    length: Annotated[int, typer.Option(metavar="N", help="operations of each")] = 50,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="make scripts that differ as short as they get")
    ] = False,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="run a script that was saved instead")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="keep scripts that differ there")
    ] = None,
) -> None:
    """Compare the emulator with a real kernel."""
    from harness.cli import differ as command

    wanted = command.DifferOptions(target, seed, count, length, shrink, replay, save)
    raise typer.Exit(command.differ(wanted))
