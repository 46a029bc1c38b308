# SPDX-License-Identifier: GPL-2.0-only
"""`snptest build`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.kernels import DEFAULT_BASE, complete_base, complete_config, complete_kernel

HELP = """Build a kernel: a base, your series on top, and a small configuration.

\b
NAME is what `run --kernel` will call it.
BASE is  linux-source-6.12             Debian's source package, the newest
         linux-source-6.12=6.12.107    a point release of it
         linux-source-7.x              the newest 7 that Debian has
         ~/linux                       a source directory as it is, edits and all
         ~/linux@v6.16                 a revision of a git repository (or --rev v6.16)
         https://HOST/linux.git@v6.16  the same, fetched
         linux-6.16.tar.xz             a tarball, as kernel.org has them
         ~/linux@auto                  the base-commit that the series names, in that repository
                                       (auto alone: in this one, or where the range begins)
SERIES is a folder of patches or mails, a quilt series, an mbox, a maildir, a patch,
         REPOSITORY:A..B (A..B alone: of the base's), or a message id or its address at
         lore.kernel.org or patchwork.  Patches n/m must all be there.
         Of several versions in a file the newest is taken: FILE@v2 is another, FILE@ID that of
         a message.  By message id it is the version of that message: newest:ID is the newest.

\b
Examples:
  snptest build mine --base linux-source-6.12 --series ~/patches
  snptest build mine --base ~/linux               edit, build, run; seconds each time
  snptest build mine --base ~/linux@v6.16 --series v6.16..topic
  snptest build v12 --base ~/linux@kvm/next --series 20240329225835.400662-1-michael.roth@amd.com
  snptest build mine --series ~/patches --every   does it build after each patch?
  snptest build mine --base ~/linux@auto --series thread.mbox@v2 --dry-run   does it apply?
  snptest build slow --base ~/linux --config debug   lockdep, KASAN, KVM's own assertions
"""


def build(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_kernel)],
    base: Annotated[
        str,
        typer.Option(metavar="BASE", help="sources to build on", autocompletion=complete_base),
    ] = DEFAULT_BASE,
    rev: Annotated[
        str | None,
        typer.Option(metavar="REVISION", help="branch, tag or commit, where BASE is git's"),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(metavar="SERIES", help="patches to apply; again: more of them on top"),
    ] = None,
    until: Annotated[
        int | None, typer.Option(metavar="N", help="apply the first N patches only")
    ] = None,
    every: Annotated[
        bool, typer.Option("--every", help="build after each patch in turn; 3 if one fails")
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="with --every: go on after one that fails")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="only list the patches; 2 if one is missing or does not apply"
        ),
    ] = False,
    config: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="configuration on top of base: debug, guest, selftest, or a file of CONFIG_ "
            "lines; distribution: Debian's own instead of base",
            autocompletion=complete_config,
        ),
    ] = None,
) -> None:
    """Build a kernel."""
    from harness.cli.kernels import build_kernel
    from harness.kbuild.cli import BuildOptions

    wanted = BuildOptions(
        name=name,
        base=base,
        revision=rev,
        series=tuple(series or ()),
        until=until,
        config=tuple(config or ()),
        every=every,
        keep_going=keep_going,
        dry_run=dry_run,
    )
    raise typer.Exit(build_kernel(wanted))
