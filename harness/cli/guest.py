# SPDX-License-Identifier: GPL-2.0-only
"""`snptest guest`: Linux as a confidential guest."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Linux as a confidential guest: what it is started from.

\b
Examples:
  snptest guest list                 firmware and kernels to choose from
  snptest guest build                fetch the default ones, make an initrd
""",
)

BUILD_HELP = """Fetch and make the parts of a Linux guest: firmware, kernel, initrd.

Firmware (OVMF), kernels and busybox are Debian's packages, downloaded by apt and checked by its
signed lists; nothing of them is installed. guests/linux/parts.toml names them, and more can be
added there. They lie in ~/.cache/snptest/linuxguest, by content: only the first time and
--refresh need the mirror. The initrd holds busybox, the kernel's modules and guests/linux.

\b
Examples:
  snptest guest build                           the defaults
  snptest guest build --kernel 7.x              Debian's newest kernel
  snptest guest build --firmware trixie         an older OVMF
  snptest guest build --kernel mine             what `snptest build` made, as guest
  snptest guest build --firmware ~/edk2/OVMF.fd --kernel ~/linux/arch/x86/boot/bzImage
  snptest guest build --refresh                 newer packages, if there are any
"""


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


FirmwareOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="OVMF: a name of `snptest guest list`, or a file",
        autocompletion=complete_firmware,
    ),
]
GuestKernelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="the guest's kernel: a name of `snptest guest list`, one of yours, or a bzImage",
        autocompletion=complete_guest_kernel,
    ),
]


@app.command(help=BUILD_HELP)
def build(
    firmware: FirmwareOption = None,
    kernel: GuestKernelOption = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="look for newer packages than those kept")
    ] = False,
) -> None:
    """Fetch and make parts."""
    from harness.linuxguest import cli

    raise typer.Exit(cli.build(firmware, kernel, refresh=refresh))


@app.command("list")
def list_parts() -> None:
    """List firmware and kernels to choose from, and what of them is here."""
    from harness.linuxguest import cli

    raise typer.Exit(cli.listing())
