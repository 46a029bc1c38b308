# SPDX-License-Identifier: GPL-2.0-only
"""Options that several commands have, the same in each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.machine import complete_machine


def complete_host(incomplete: str) -> list[str]:
    """Return the hosts that begin so, for shell completion."""
    from harness.errors import UserError
    from harness.ssh import hosts

    try:
        return [name for name in hosts.load() if name.startswith(incomplete)]
    except UserError:
        return []


def complete_firmware(incomplete: str) -> list[str]:
    """Name the firmware that begins so, for the shell."""
    from harness.linuxguest import catalogue

    return [name for name in catalogue.load().firmware if name.startswith(incomplete)]


def complete_guest_kernel(incomplete: str) -> list[str]:
    """Name the kernels for guests that begin so, for the shell."""
    from harness.kbuild.kernel import list_kernels
    from harness.linuxguest import catalogue

    names = [*catalogue.load().kernels, *(each.name for each in list_kernels())]
    return [name for name in names if name.startswith(incomplete)]


MachineAsRun = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="stock or snp, as for `run` (vng)",
        autocompletion=complete_machine,
    ),
]
MemoryAsRun = Annotated[
    str | None, typer.Option(metavar="SIZE", help="of that machine: 1G, the default")
]
Host = Annotated[
    str | None,
    typer.Option(
        metavar="HOST",
        help="of ci/hosts.toml, or USER@ADDRESS[:PORT] (ssh)",
        autocompletion=complete_host,
    ),
]
Expression = Annotated[
    str | None, typer.Option("-k", metavar="EXPR", help="only tests that match, as in pytest")
]
Workers = Annotated[
    str, typer.Option("-n", metavar="N", help="kernels side by side: a number, or auto")
]
Seed = Annotated[int, typer.Option(help="seed of schedules, keys and random tests")]
Junit = Annotated[Path | None, typer.Option(metavar="FILE", help="write JUnit XML")]
Ktap = Annotated[Path | None, typer.Option(metavar="FILE", help="write KTAP; - is stdout")]
JsonLines = Annotated[
    Path | None, typer.Option(metavar="FILE", help="write a JSON line per result as it ends")
]
Firmware = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="OVMF: a name of `snptest guest list`, or a file",
        autocompletion=complete_firmware,
    ),
]
GuestKernel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="the guest's kernel: a name of `snptest guest list`, one of yours, or a bzImage",
        autocompletion=complete_guest_kernel,
    ),
]
GuestQemu = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="QEMU that runs guests, a path on the host under test"),
]
