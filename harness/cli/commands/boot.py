# SPDX-License-Identifier: GPL-2.0-only
"""`snptest boot`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli import options
from harness.cli.kernels import complete_kernel

HELP = """Boot a kernel that `snptest build` made, for one command or for a look around.

The root file system is this machine's, read-only; /tmp, /var/tmp and /run are the guest's
own.  Of them the guest sees the working directory, the program with what lies beside it, and
files that arguments name, read-only, too.  KVM's modules are loaded.  What the command prints
and its exit status are passed on; the console is kept apart, in a file.

\b
Examples:
  snptest boot mine -- uname -a
  snptest boot mine -- ./reproducer < input
  snptest boot mine -p kvm_amd.sev_snp=0 -- dmesg
  snptest boot mine --machine snp -- dmesg      on the machine of `snptest machine build`
  snptest boot mine                     a root shell on this terminal

\b
Exit codes: the command's or the shell's; 2 usage, 3 where the kernel died, or did not end it.
"""


def boot(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_kernel)],
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- CMD...]")] = None,
    machine: options.Machine = None,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="of the machine: 2G, say")] = "1G",
    cpus: Annotated[int, typer.Option(metavar="N", help="of the machine", min=1, max=64)] = 2,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="P", help="for the kernel's command line"),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="that the command may take, boot included")
    ] = 3600.0,
) -> None:
    """Boot a kernel."""
    from harness.cli import boot as command_boot

    parameters = tuple(parameter or ())
    raise typer.Exit(
        command_boot.boot(name, command or [], machine, memory, cpus, parameters, timeout)
    )
