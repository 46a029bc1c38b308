# SPDX-License-Identifier: GPL-2.0-only
"""`snptest bisect` and `bisect-step`: their options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.cli.kernels import complete_base
from harness.target import Target

HELP = """Find the patch of a series, or the commit of a range, that broke a test.

TESTs are suites, or ids as reports print them.  A revision is bad if one of them fails or
crashes in it; what fails at the good end too does not count.  What does not build or boot is
skipped.  The first failure is followed: from then on only those tests run, several times in
each boot, so that a flaky test does not mislead.  Meanwhile the kernels that may be next are
built.  The ends are taken on trust, and run only where the answer hangs on them.

\b
A series:  --series SERIES on --base BASE, as for `snptest build`; --good and --bad are
           numbers of patches: 0, the base, and the last one, unless given.
A range:   --base REPOSITORY (here, unless given); --good and --bad (HEAD) are revisions.

\b
Examples:
  snptest bisect --series ~/patches gmem
  snptest bisect --base ~/linux@v6.16 --series v1.mbox --good 3 --bad 11 launch psc -k hole
  snptest bisect --base ~/linux --good v6.16 --bad topic gmem
  snptest bisect --base ~/linux --good v6.16 suites/gmem/test_binding.py::test_every_page_of_a_hole
  snptest bisect --series ~/patches gmem --runs 20      a test that seldom fails

\b
Killed or interrupted, the same command goes on where it was; --restart begins anew.
Exit codes: 0 found, 2 usage, 3 not found: nothing fails at the bad end that passes at the good
            one, only revisions that cannot be judged are left, or nothing could be run
"""
PLACE = ("backend", "machine", "memory", "host", "seed")
STEP_BACKEND = "vng (ssh where a host is named); emulator and local build nothing"
RUNS_HELP = "clean runs that make a revision good, as long as no bad one has passed"


@options.with_target(*PLACE, boots=True, backend="vng (ssh where a host is named)")
def bisect(
    target: Target,
    tests: Annotated[list[str], typer.Argument(metavar="TEST")],
    good: Annotated[
        str | None, typer.Option(metavar="A", help="revision, or number of a patch (0)")
    ] = None,
    bad: Annotated[
        str | None, typer.Option(metavar="B", help="revision (HEAD), or number of a patch (last)")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="what the series applies to, or a git repository",
            autocompletion=complete_base,
        ),
    ] = None,
    series: options.Series = None,
    config: options.Config = None,
    expression: options.Expression = None,
    workers: options.Workers = "auto",
    runs: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help=RUNS_HELP)] = 1,
    restart: Annotated[
        bool, typer.Option("--restart", help="forget what was found for this question before")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the answer and its evidence")
    ] = None,
) -> None:
    """Find the patch or commit that broke a test."""
    from harness.cli import bisect as command

    wanted = command.BisectOptions(
        target=target,
        tests=tuple(tests),
        good=good,
        bad=bad,
        base=base,
        series=tuple(series or ()),
        config=tuple(config or ()),
        expression=expression,
        workers=workers,
        runs=runs,
        restart=restart,
        json=json,
    )
    raise typer.Exit(command.bisect(wanted))


STEP_HELP = """Judge the kernel sources here, for `git bisect run`.

The work tree is built as it is, --series (a fix that it needs, say) on top, and TESTs are run.

\b
Examples:
  git bisect start topic v6.16
  git bisect run snptest bisect-step gmem
  git bisect run snptest bisect-step gmem -k hole --runs 20 --series ~/build-fix.patch
  git bisect run snptest bisect-step psc --backend emulator    no kernel: snptest itself

\b
Exit codes: 0 good, 1 bad, 125 it does not build or boot, or the harness failed,
            128 and above end the bisection: usage, ^C, an error of snptest
"""


@options.with_target(*PLACE, boots=True, backend=STEP_BACKEND)
def bisect_step(
    target: Target,
    tests: Annotated[list[str], typer.Argument(metavar="TEST")],
    base: Annotated[
        str | None, typer.Option(metavar="DIR", help="another work tree than this directory")
    ] = None,
    series: options.Series = None,
    config: options.Config = None,
    expression: options.Expression = None,
    workers: options.Workers = "auto",
    runs: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="runs of each test, in one boot")
    ] = 1,
) -> None:
    """Judge the sources here."""
    from harness.cli import bisect as command

    wanted = command.BisectOptions(
        target=target,
        tests=tuple(tests),
        base=base,
        series=tuple(series or ()),
        config=tuple(config or ()),
        expression=expression,
        workers=workers,
        runs=runs,
    )
    raise typer.Exit(command.step(wanted))
