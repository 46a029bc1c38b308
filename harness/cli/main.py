# SPDX-License-Identifier: GPL-2.0-only
"""The command line put together: which commands there are, and what errors exit with.

Commands and their options are stable: scripts and CI rely on them.
"""

from __future__ import annotations

import sys
import tomllib
from typing import Annotated

import typer

from harness.cli import faults, guest, history, machine, report
from harness.cli.commands import (
    bench,
    bisect,
    boot,
    build,
    check,
    compare,
    differ,
    doctor,
    kernels,
    known_issues,
    kselftest,
    nightly,
    run,
)
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
  snptest run psc gmem --interface v12
  snptest run launch -k id_block      the tests of a suite that match
  snptest build mine --base linux-source-6.12 --series ~/patches
  snptest run gmem --backend vng --kernel mine
  snptest boot mine -- uname -a       one command in that kernel
  snptest kselftest --kernel mine     upstream's own KVM selftests, of the same tree
  snptest compare old new gmem        what broke, what was fixed, what is flaky
  snptest bisect --series ~/patches gmem   which patch broke it?
  snptest history show last           what is new in the last run
  snptest report -o public            HTML pages of the newest runs, and an overview
  snptest nightly --dry-run           unattended runs over several hosts
  snptest machine build               QEMU with SEV-SNP, to run a kernel's SNP code on
  snptest doctor                      what this machine lacks, and how to get it

\b
Exit codes: 0 all passed, 1 a test failed or crashed, 2 usage,
            3 the harness, a build or a boot failed
""",
)


def _version(wanted: bool) -> None:
    if wanted:
        from harness.history.identity import harness_version
        from harness.places import ROOT

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        print(f"snptest {project['version']} ({harness_version()})")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="show the version and exit"
        ),
    ] = False,
) -> None:
    """Take what goes before a command."""


# In the order of --help; groups come last.
app.command(help=run.HELP)(run.run)
app.command(help=kselftest.HELP)(kselftest.kselftest)
app.command(help=differ.HELP)(differ.differ)
app.command(help=compare.HELP)(compare.compare)
app.command(help=bisect.HELP)(bisect.bisect)
app.command("bisect-step", help=bisect.STEP_HELP)(bisect.bisect_step)
app.command(help=nightly.HELP)(nightly.nightly)
app.command()(check.check)
app.command()(bench.bench)
app.command(help=doctor.HELP)(doctor.doctor)
app.command(help=build.HELP)(build.build)
app.command(help=boot.HELP)(boot.boot)
app.command(help=kernels.HELP)(kernels.kernels)
app.command("known-issues", help=known_issues.HELP)(known_issues.known_issues)
app.command(help=report.HELP)(report.report)
app.add_typer(machine.app, name="machine")
app.add_typer(guest.app, name="guest")
app.add_typer(history.app, name="history")


def main() -> int:
    """Run a command; return its exit code."""
    if sys.argv[1:2] == ["bisect-step"]:
        from harness.cli.bisect import guarded

        return guarded(_main)
    return _main()


def _main() -> int:
    """Do so; user errors are one line and a hint."""
    try:
        # Typer's own handling of errors would exit with 1, as for a test that failed.
        code = app(prog_name="snptest", standalone_mode=False)
    except typer.Abort:
        return faults.INTERRUPTED
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  Python exits with 1
        if callable(show := getattr(error, "show", None)):  # Typer's, of options and arguments
            show()
            return ExitCode.USAGE
        return faults.code_of(error)
    return code if isinstance(code, int) else ExitCode.PASSED
