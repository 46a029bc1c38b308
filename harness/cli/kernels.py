# SPDX-License-Identifier: GPL-2.0-only
"""`snptest build` and `snptest kernels`: a thin door to harness.kbuild."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import UsageError


def build_kernel(name: str, base: str, series: Path | None, fragments: Sequence[str] = ()) -> int:
    """Build a kernel; the code to exit with."""
    if series is not None and not series.exists():
        hint = "--series names a folder of patches, a quilt series, a patch or an mbox"
        raise UsageError(f"{series} does not exist", hint)
    from harness.kbuild import cli

    return cli.build(name, base, series, fragments)


def list_kernels() -> int:
    """List what was built; the code to exit with."""
    from harness.kbuild import cli

    return cli.kernels()
