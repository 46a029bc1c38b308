# SPDX-License-Identifier: GPL-2.0-only
"""`snptest doctor`: its options and help."""

from __future__ import annotations

import typer

from harness.cli import options

HELP = """Tell what this machine, or a host, has and lacks, and how to get it.

With --host, only why SNP guests do or do not run there: firmware settings, IOMMU, kernel,
module parameters, PSP firmware, permissions.  The first line that is not ok comes first in
the kernel's own order, too: put that right and look again.  Nothing is changed or installed.

\b
Examples:
  snptest doctor                   this machine: tools, kernels, space, SNP
  snptest doctor --host milan1     a host of ci/hosts.toml, or USER@ADDRESS[:PORT]

\b
Exit codes: 0 ready; 2 usage; 3 the emulator cannot run here, SNP guests not on the host,
            or no connection to it
"""


def doctor(host: options.Host = None) -> None:
    """Tell what there is."""
    from harness.doctor import show

    raise typer.Exit(show(host))
