# SPDX-License-Identifier: GPL-2.0-only
"""`snptest run`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli import options
from harness.target import Target

HELP = """Run test suites (all, unless named) against a kernel.

\b
SUITE is launch, psc, ap_creation, guest_req or gmem, or a test's id as a report prints it.
linux and kselftest run only if they are named. --firmware, --guest-kernel and --guest-qemu are
for linux, and say what its guests are made of.

\b
Examples:
  snptest run                              five suites, emulator, all interfaces
  snptest run psc -k 2m --interface merged some tests, one interface
  snptest run --backend local              this machine's own /dev/kvm and /dev/sev
  snptest run gmem psc --kernel mine       in a kernel that was built, booted by virtme-ng
  snptest run --machine snp                in the distribution's kernel, built first, with SNP
  snptest run gmem --series ~/patches      built first, on linux-source-6.12
  snptest run --host milan1                on a host of ci/hosts.toml, in the kernel it runs
  snptest run --host milan1 --kernel mine  in one that was built, booted there first
  snptest run linux --kernel mine --guest-kernel 7.x --firmware trixie
  snptest run gmem -k hole --repeat 50     is it flaky?
  snptest run --junit out/junit.xml        for CI
  snptest run psc --ktap - | tee psc.ktap  KTAP to stdout, everything else to stderr
"""


@options.with_target(boots=("base", "series", "config"))
def run(
    target: Target,
    suites: Annotated[list[str] | None, typer.Argument(metavar="SUITE")] = None,
    base: options.Base = None,
    series: options.Series = None,
    config: options.Config = None,
    expression: options.Expression = None,
    workers: options.Workers = "auto",
    repeat: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=10000, help="runs of each test, in the same kernel"),
    ] = 1,
    maxfail: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="run no more tests when so many went wrong"),
    ] = None,
    junit: options.Junit = None,
    ktap: options.Ktap = None,
    json: options.JsonLines = None,
    label: Annotated[
        str, typer.Option(metavar="TEXT", help="what the history calls runs of this kind")
    ] = "",
    history: Annotated[
        bool, typer.Option("--history/--no-history", help="keep the run in the history")
    ] = True,
) -> None:
    """Run test suites."""
    from harness.cli.run import RunOptions, run_suites

    wanted = RunOptions(
        target=target,
        suites=tuple(suites or ()),
        base=base,
        series=tuple(series or ()),
        config=tuple(config or ()),
        expression=expression,
        workers=workers,
        repeat=repeat,
        maxfail=maxfail,
        junit=junit,
        ktap=ktap,
        json=json,
        label=label,
        history=history,
    )
    raise typer.Exit(run_suites(wanted))
