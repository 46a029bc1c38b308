# SPDX-License-Identifier: GPL-2.0-only
"""`snptest machine`: the SNP machine, QEMU with the patches of qemu/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import UserError

STALE = "snptest: qemu/patches has changed since the SNP machine was built: snptest machine build"
MISSING = """snptest: stock QEMU has no SNP: tests that need it will skip
  hint: build the SNP machine once, and the kernel's SNP code runs, too: snptest machine build"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""The SNP machine: a QEMU that has SEV-SNP, so that a kernel's own SNP code runs without
SNP hardware.

\b
Examples:
  snptest machine build              once; some minutes, then it is there
  snptest machine info               what it models, what it was built from
  snptest boot mine --machine snp    boot a kernel on it
""",
)

BUILD_HELP = """Build the SNP machine: QEMU 10.0.x with the patches of qemu/patches.

The sources come from the distribution's package by apt, or from upstream (qemu/source.toml says
where, and the hash). Nothing is installed but what a build needs; the machine lies in
~/.cache/snptest/machine, by content: building again without a change takes no time.

\b
Examples:
  snptest machine build
  snptest machine build --source ~/qemu-10.0.11.tar.xz    sources of your own
  snptest machine build --patches ~/snp-patches           other patches than qemu/patches
  snptest machine build --source ~/qemu --patches none    a tree that has them already
  snptest machine build --refresh                         a newer 10.0.x, if there is one
  snptest machine build --plain                           without patches, to compare with
"""


@app.command(help=BUILD_HELP)
def build(
    source: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="QEMU's sources: a directory or a tarball"),
    ] = None,
    patches: Annotated[
        Path | None, typer.Option(metavar="DIR", help="the patches, instead of qemu/patches")
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="look for newer sources than those kept")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="stock QEMU built alike; the machine stays as it is")
    ] = False,
) -> None:
    """Build the machine."""
    from harness.machine import cli

    raise typer.Exit(cli.build(source, patches, refresh=refresh, plain=plain))


@app.command()
def info() -> None:
    """Tell what the machine models, what it was built from, and where it is."""
    from harness.machine import cli

    raise typer.Exit(cli.info())


def complete_machine(incomplete: str) -> list[str]:
    """Name the machines that begin so, for the shell."""
    from harness.vng.kinds import MACHINES

    return [name for name in MACHINES if name.startswith(incomplete)]


def need_machine(name: str) -> None:
    """See that a machine is there; on a terminal, offer to build the one that is not."""
    from harness.machine import installed
    from harness.vng.kinds import SNP
    from harness.vng.snp import find_machine

    built = installed.find() if name == SNP else None
    try:
        find_machine(name)
    except UserError:
        if name != SNP or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        question = "The SNP machine is not built; build it now (some minutes)?"
        if not typer.confirm(question, err=True):
            raise
        from harness.machine import cli

        cli.build(None, None, refresh=False, plain=False)
        find_machine(name)
    else:
        if built is not None and built.stale:
            print(STALE, file=sys.stderr)


def suggest_machine(kernel: str) -> str:
    """Name the machine that a kernel runs on where none was asked for; say what would be better."""
    from harness import kbuild
    from harness.machine import installed
    from harness.vng import snp
    from harness.vng.kinds import SNP

    build = kbuild.get(kernel)
    machine = snp.choose(None, build).name
    if machine == SNP:
        need_machine(machine)
    elif snp.supports(build) and installed.find() is None:
        print(MISSING, file=sys.stderr)
    return machine
