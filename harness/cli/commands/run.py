# SPDX-License-Identifier: GPL-2.0-only
"""`snptest run`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli import options
from harness.cli.kernels import complete_base, complete_config, complete_kernel
from harness.cli.machine import complete_machine

HELP = """Run test suites (all, unless named) against a kernel.

\b
SUITE is launch, psc, ap_creation, guest_req or gmem, or a test's id as a report prints it.
linux and kselftest run only if they are named. --firmware, --guest-kernel and --guest-qemu are
for linux, and say what its guests are made of.

\b
Examples:
  snptest run                              five suites, emulator, all revisions
  snptest run psc -k 2m --revision merged  some tests, one revision
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


def run(
    suites: Annotated[list[str] | None, typer.Argument(metavar="SUITE")] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="emulator (ssh where a host is named, vng where a kernel or a machine is), "
            "local, vng, ssh",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="only this one: v12, merged or 7.3")
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="kernel made by `snptest build` (vng, ssh)",
            autocompletion=complete_kernel,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="build a kernel of these sources first, as `snptest build` does, and run in it",
            autocompletion=complete_base,
        ),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(metavar="SERIES", help="with the patches of these: as for `build`"),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="with this configuration", autocompletion=complete_config
        ),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="stock, or snp: the default where it was built and the kernel has SNP (vng)",
            autocompletion=complete_machine,
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="memory of that machine: 1G, the default")
    ] = None,
    host: options.Host = None,
    firmware: options.Firmware = None,
    guest_kernel: options.GuestKernel = None,
    guest_qemu: options.GuestQemu = None,
    expression: options.Expression = None,
    workers: options.Workers = "auto",
    seed: options.Seed = 0,
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

    boots = kernel or base or series or config or machine
    wanted = RunOptions(
        suites=tuple(suites or ()),
        backend=backend or ("ssh" if host else "vng" if boots else "emulator"),
        revision=revision,
        kernel=kernel,
        base=base,
        series=tuple(series or ()),
        config=tuple(config or ()),
        machine=machine,
        memory=memory,
        host=host,
        firmware=firmware,
        guest_kernel=guest_kernel,
        guest_qemu=guest_qemu,
        expression=expression,
        workers=workers,
        seed=seed,
        repeat=repeat,
        maxfail=maxfail,
        junit=junit,
        ktap=ktap,
        json=json,
        label=label,
        history=history,
    )
    raise typer.Exit(run_suites(wanted))
