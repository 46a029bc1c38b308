# SPDX-License-Identifier: GPL-2.0-only
"""`snptest kselftest`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli import options

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


def kselftest(
    tests: Annotated[
        list[str] | None, typer.Argument(metavar="TEST", help="name, or pattern with * and ?")
    ] = None,
    kernel: Annotated[
        str | None, typer.Option(metavar="NAME", help="kernel made by `snptest build`")
    ] = None,
    backend: Annotated[str, typer.Option(metavar="NAME", help="vng or local")] = "vng",
    machine: options.MachineAsRun = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="of the machine: 1G, the default (vng)")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="list the tree's selftests")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="compile them again")] = False,
    junit: options.Junit = None,
    ktap: options.Ktap = None,
    json: options.JsonLines = None,
) -> None:
    """Run upstream's selftests."""
    from harness.cli import kselftest as command
    from harness.cli.run import RunOptions

    if show:
        raise typer.Exit(command.show_list(kernel))
    wanted = RunOptions(
        backend=backend,
        kernel=kernel,
        machine=machine,
        memory=memory,
        junit=junit,
        ktap=ktap,
        json=json,
    )
    raise typer.Exit(command.kselftest(wanted, tuple(tests or ()), again=rebuild))
