# SPDX-License-Identifier: GPL-2.0-only
"""`snptest guest`: Linux as a confidential guest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.cli.kernels import complete_kernel
from harness.cli.machine import complete_machine
from harness.errors import UsageError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Linux as a confidential guest of the kernel under test: QEMU, OVMF, a distribution's
kernel, a shell on this terminal.

The kernel that --kernel names is booted, on the SNP machine where it has SNP; QEMU runs there and
starts the guest. Its console is this terminal, Ctrl-] ends it. docs/guests.md has more.

\b
Examples:
  snptest guest --kernel mine                      an SNP guest with a shell
  snptest guest --kernel mine --vcpus 4 --memory 2G
  snptest guest --kernel mine --type sev-es
  snptest guest --kernel mine --guest-kernel mine  the same kernel, as guest
  snptest guest --kernel mine --firmware ~/edk2/OVMF.fd --append 'nokaslr'
  snptest guest --kernel mine --append snptest.run=poweroff < /dev/null
  snptest guest --kernel mine --gdb                prints what to attach gdb by
  snptest guest list                               firmware and kernels to choose from
  snptest guest build                              fetch the default ones, make an initrd

\b
Exit codes: 0 the guest ended by itself, or you ended it; 2 usage; 3 QEMU ended it, or the
kernel under test did not boot.
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
  snptest guest build --guest-kernel 7.x        Debian's newest kernel
  snptest guest build --firmware trixie         an older OVMF
  snptest guest build --guest-kernel mine       what `snptest build` made, as guest
  snptest guest build --firmware ~/edk2/OVMF.fd --guest-kernel ~/linux/arch/x86/boot/bzImage
  snptest guest build --refresh                 newer packages, if there are any
"""


KINDS = ("snp", "sev-es", "sev", "none")
"""What --type takes."""


@app.callback(invoke_without_command=True)
def guest(
    context: typer.Context,
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="kernel under test, which runs the guest: built by `snptest build`",
            autocompletion=complete_kernel,
        ),
    ] = None,
    vcpus: Annotated[int, typer.Option(metavar="N", min=1, max=255, help="of the guest")] = 1,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="of the guest: 2G, say")] = "512M",
    kind: Annotated[
        str,
        typer.Option("--type", metavar="TYPE", help=f"what protects it: {', '.join(KINDS)}"),
    ] = "snp",
    firmware: options.Firmware = None,
    guest_kernel: options.GuestKernel = None,
    initrd: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="the guest's initrd, instead of one with a shell"),
    ] = None,
    append: Annotated[
        str, typer.Option(metavar="WORDS", help="for the guest kernel's command line")
    ] = "",
    hashes: Annotated[
        bool | None,
        typer.Option(
            "--hashes/--no-hashes",
            help="measure kernel, initrd and command line with the firmware "
            "(where it can: the default)",
            show_default=False,
        ),
    ] = None,
    cpu: Annotated[str, typer.Option(metavar="MODEL", help="as QEMU names it")] = "EPYC-Milan",
    policy: Annotated[
        str, typer.Option(metavar="N", help="the guest's policy: 0xb0000 allows debugging, too")
    ] = "",
    qemu: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="QEMU there, instead of the machine's own"),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="of the kernel under test: stock, or snp, the default where it is built",
            autocompletion=complete_machine,
        ),
    ] = None,
    host_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="of that machine (guest's and 1.5 GiB)")
    ] = None,
    host_cpus: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="of it")] = 2,
    gdb: Annotated[
        bool, typer.Option("--gdb", help="have the machine wait for gdb, for host and guest")
    ] = False,
) -> None:
    """Run a guest by hand, unless there is a subcommand."""
    if context.invoked_subcommand is not None:
        return
    from harness.linuxguest import byhand

    if kernel is None:
        raise UsageError("a guest needs a kernel that runs it", "--kernel NAME; snptest kernels")
    raise typer.Exit(
        byhand.run(
            byhand.ByHand(
                kernel=kernel,
                machine=machine,
                host_memory=host_memory,
                cpus=host_cpus,
                firmware=firmware,
                guest_kernel=guest_kernel,
                initrd=initrd,
                append=append,
                kind=byhand.kind_of(kind),
                vcpus=vcpus,
                memory=byhand.mebibytes(memory),
                cpu=cpu,
                policy=byhand.number(policy),
                hashes=hashes,
                qemu=qemu,
                gdb=gdb,
            )
        )
    )


@app.command(help=BUILD_HELP)
def build(
    firmware: options.Firmware = None,
    guest_kernel: options.GuestKernel = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="look for newer packages than those kept")
    ] = False,
) -> None:
    """Fetch and make parts."""
    from harness.linuxguest import cli

    raise typer.Exit(cli.build(firmware, guest_kernel, refresh=refresh))


@app.command("list")
def list_parts() -> None:
    """List firmware and kernels to choose from, and what of them is here."""
    from harness.linuxguest import cli

    raise typer.Exit(cli.listing())
