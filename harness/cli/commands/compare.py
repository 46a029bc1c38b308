# SPDX-License-Identifier: GPL-2.0-only
"""`snptest compare`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.cli.kernels import complete_base, complete_kernel
from harness.target import Target

HELP = """Compare two revisions: what is broken, fixed, flaky, skipped, slower.

A and B are kernels that `snptest build` made, the emulator (v12, merged, 7.3), or stored runs:
a number of `snptest history`, last, last-1, results/TIME, or a file of `run --json` (a kernel
whose name is a number needs --backend vng).  What differs runs again, so that flaky tests are
told from changed ones; what is flaky in B alone runs in A until that can be no accident.  With
--base, --config, --series-a or --series-b, A and B are built first, under these names.

\b
Examples:
  snptest compare old new                       all suites in both kernels
  snptest compare old new gmem -k hole          some tests
  snptest compare v12 merged psc                two interfaces of the emulator
  snptest compare last-1 last                   the two newest runs of the history
  snptest compare results/20261123-081337 new   a run of the past against a kernel
  snptest compare v1 v2 --base ~/linux@v6.16 --series-a v1.mbox --series-b v2.mbox
  snptest compare old new --markdown reply.txt  for a mail, 72 columns; - is stdout

\b
"Slower" passes in both, and takes 1.5 times as long and half a second more.
"Newly flaky" fails in B now and then, and in A never, in several runs: a race, most likely.
Exit codes: 0 nothing broken, 1 B fails what A does not, newly flaky included, 2 usage,
            3 a side, or a test that differs, could not be judged
"""


BACKEND = "of kernels: vng (ssh where a host is named); emulator for v12, merged, 7.3"


@options.with_target("machine", "memory", "host", "seed")
def compare(
    target: Target,
    a: Annotated[str, typer.Argument(metavar="A", autocompletion=complete_kernel)],
    b: Annotated[str, typer.Argument(metavar="B", autocompletion=complete_kernel)],
    suites: Annotated[list[str] | None, typer.Argument(metavar="SUITE")] = None,
    backend: Annotated[str | None, options.of_target("backend", BACKEND)] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="BASE", help="build A and B of these first", autocompletion=complete_base
        ),
    ] = None,
    series_a: Annotated[
        list[str] | None, typer.Option(metavar="SERIES", help="A has the patches of these")
    ] = None,
    series_b: Annotated[
        list[str] | None, typer.Option(metavar="SERIES", help="B has the patches of these")
    ] = None,
    config: options.Config = None,
    expression: options.Expression = None,
    workers: options.Workers = "auto",
    repeat: Annotated[
        int, typer.Option(metavar="N", min=0, max=50, help="runs more of what differs")
    ] = 2,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write plain text for a mail; - is stdout")
    ] = None,
) -> None:
    """Compare two revisions."""
    from harness.cli import compare as command

    wanted = command.CompareOptions(
        target=target,
        a=a,
        b=b,
        suites=tuple(suites or ()),
        backend=backend,
        base=base,
        series_a=tuple(series_a or ()),
        series_b=tuple(series_b or ()),
        config=tuple(config or ()),
        expression=expression,
        workers=workers,
        repeat=repeat,
        markdown=markdown,
    )
    raise typer.Exit(command.compare(wanted))
