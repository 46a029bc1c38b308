# SPDX-License-Identifier: GPL-2.0-only
"""The commands and their options, stable: scripts and CI rely on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import UsageError, UserError
from harness.report.outcome import ExitCode

app = typer.Typer(
    name="snptest",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Validate SEV-SNP patches for KVM: does a revision work; if not, which patch broke it?

\b
Examples:
  snptest run                         all suites on the emulated SNP host, no hardware needed
  snptest run psc gmem --revision v12
  snptest run launch -k id_block      the tests of a suite that match
  snptest build mine --base linux-source-6.12 --series ~/patches
  snptest run gmem --backend vng --kernel mine
  snptest doctor                      what this machine lacks, and how to get it

\b
Exit codes: 0 all passed, 1 a test failed or crashed, 2 usage,
            3 the harness, a build or a boot failed
""",
)

RUN_HELP = """Run test suites (all, unless named) against a kernel.

\b
SUITE is launch, psc, ap_creation, guest_req or gmem, or a test's id as a report prints it.

\b
Examples:
  snptest run                              five suites, emulator, both revisions
  snptest run psc -k 2m --revision merged  some tests, one revision
  snptest run --backend local              this machine's own /dev/kvm and /dev/sev
  snptest run --junit out/junit.xml        for CI
  snptest run psc --ktap - | tee psc.ktap  KTAP to stdout, everything else to stderr
"""


@app.command(help=RUN_HELP)
def run(
    suites: Annotated[list[str] | None, typer.Argument(metavar="SUITE")] = None,
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="emulator, local, vng or ssh")
    ] = "emulator",
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="only this one: v12 or merged")
    ] = None,
    kernel: Annotated[
        str | None, typer.Option(metavar="NAME", help="kernel made by `snptest build` (vng)")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="host to test (ssh)")] = None,
    expression: Annotated[
        str | None, typer.Option("-k", metavar="EXPR", help="only tests that match, as in pytest")
    ] = None,
    workers: Annotated[
        str, typer.Option("-n", metavar="N", help="processes: a number, or auto for one a core")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="seed of schedules, keys and random tests")] = 0,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="write JUnit XML")] = None,
    ktap: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write KTAP; - is stdout")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write a JSON line per result as it ends")
    ] = None,
) -> None:
    """Run test suites."""
    from harness.cli.run import RunOptions, run_suites

    options = RunOptions(
        suites=tuple(suites or ()),
        backend=backend,
        revision=revision,
        kernel=kernel,
        host=host,
        expression=expression,
        workers=workers,
        seed=seed,
        junit=junit,
        ktap=ktap,
        json=json,
    )
    raise typer.Exit(run_suites(options))


@app.command()
def check(
    quick: Annotated[
        bool, typer.Option("--quick", help="leave out what builds or boots kernels")
    ] = False,
) -> None:
    """Pass the project's own tests (lint, types, harness)."""
    from harness.cli.check import check as run_checks

    raise typer.Exit(run_checks(quick=quick))


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="write the figures")] = None,
) -> None:
    """Measure performance, as ratios, against its bars."""
    from harness.cli.bench import bench as run_benchmarks

    raise typer.Exit(run_benchmarks(tuple(names or ()), json))


@app.command()
def doctor() -> None:
    """Tell what this machine has, lacks, and how to get it."""
    from harness.doctor import show

    raise typer.Exit(show())


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="what to call the kernel", metavar="NAME")],
    base: Annotated[
        str, typer.Option(metavar="SOURCE", help="Debian source package to build on")
    ] = "linux-source-6.12",
    series: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="patches to apply, in order: folder, quilt, mbox"),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="fragment on top of base: debug, selftest or a file"),
    ] = None,
) -> None:
    """Build a kernel: Debian's source plus your series.

    \b
    Example:
      snptest build mine --base linux-source-6.12 --series ~/patches
      snptest run gmem --backend vng --kernel mine
    """
    from harness.cli.kernels import build_kernel

    raise typer.Exit(build_kernel(name, base, series, tuple(config or ())))


@app.command()
def kernels() -> None:
    """List the kernels that `snptest build` has made."""
    from harness.cli.kernels import list_kernels

    raise typer.Exit(list_kernels())


KNOWN_HELP = """List known issues: what is wrong already, and where each entry counts.

A failure that an entry explains is reported as xfail, with the entry's id, reason and link.
Entries live in kernels/known-issues.toml, which says how to write one.

\b
Examples:
  snptest known-issues
  snptest known-issues my.toml     check and list another file
"""


@app.command("known-issues", help=KNOWN_HELP)
def known_issues(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="instead of kernels/known-issues.toml")
    ] = None,
) -> None:
    """List known issues."""
    from harness.cli.known import show

    raise typer.Exit(show(file))


def main() -> int:
    """Run a command; return its exit code.  User errors are one line and a hint."""
    try:
        app(prog_name="snptest")
    except UserError as error:
        print(f"snptest: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.BROKEN
    except KeyboardInterrupt:
        return 130
    return ExitCode.PASSED
