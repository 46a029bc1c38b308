# SPDX-License-Identifier: GPL-2.0-only
"""`snptest build` and `snptest kernels`: a thin door to harness.kbuild."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.kbuild.cli import BuildOptions


DEFAULT_BASE = "linux-source-6.12"


def build_kernel(options: BuildOptions) -> int:
    """Build a kernel, or one after each patch; the code to exit with."""
    from harness.kbuild import cli

    return cli.build(options)


def list_kernels(as_json: bool = False) -> int:
    """List what was built; the code to exit with."""
    from harness.kbuild import cli

    return cli.kernels(as_json)


def collect_kernels(
    names: Sequence[str], keep: int | None, older: float | None, dry_run: bool
) -> int:
    """Remove old kernels; the code to exit with."""
    from harness.kbuild import cli

    return cli.collect_kernels(names, keep, older, dry_run)


def complete_kernel(incomplete: str) -> list[str]:
    """Name the kernels that begin so, for the shell."""
    from harness.kbuild.kernel import list_kernels as found

    return [kernel.name for kernel in found() if kernel.name.startswith(incomplete)]


def complete_config(incomplete: str) -> list[str]:
    """Name our fragments that begin so, for the shell."""
    from harness.kbuild.config import fragment_names

    names = [name for name in fragment_names() if name != "base"]
    return [name for name in names if name.startswith(incomplete)]


def complete_base(incomplete: str) -> list[str]:
    """Name the source packages that begin so, for the shell; directories it knows itself."""
    names = [DEFAULT_BASE, "linux-source-7.x"]
    return [name for name in names if name.startswith(incomplete)]
