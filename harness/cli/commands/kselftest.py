# SPDX-License-Identifier: GPL-2.0-only
"""`snptest kselftest`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli import options
from harness.target import Target

HELP = """Run upstream's KVM selftests, of the tree that a kernel was built from, in it.

\b
Those that touch guest_memfd, private memory, SEV and SNP run, unless TESTs are named.

\b
Examples:
  snptest kselftest --kernel mine
  snptest kselftest --kernel mine debug_regs 'vmx_*'
  snptest kselftest --kernel mine --list
  snptest run gmem kselftest --backend vng --kernel mine    with other suites, one report
"""


@options.with_target("kernel", "backend", "machine", "memory", boots=True, backend="vng or local")
def kselftest(
    target: Target,
    tests: Annotated[
        list[str] | None, typer.Argument(metavar="TEST", help="name, or pattern with * and ?")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="list the tree's selftests")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="compile them again")] = False,
    junit: options.Junit = None,
    ktap: options.Ktap = None,
    json: options.JsonLines = None,
) -> None:
    """Run upstream's selftests."""
    from harness.cli import kselftest as command
    from harness.cli.run import RunOptions, run_suites

    if show:
        raise typer.Exit(command.show_list(target.kernel))
    suites = command.suites(target, tuple(tests or ()), again=rebuild)
    wanted = RunOptions(target=target, suites=suites, junit=junit, ktap=ktap, json=json)
    raise typer.Exit(run_suites(wanted))
