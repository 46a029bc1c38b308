# SPDX-License-Identifier: GPL-2.0-only
"""What `snptest build` and `snptest kernels` print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness import kbuild
from harness.kbuild.progress import ConsoleProgress


def build(name: str, base: str, series: Path | None, fragments: Sequence[str]) -> int:
    """Build a kernel and say what came out."""
    console = Console(stderr=True)
    with ConsoleProgress(console) as progress:
        kernel = kbuild.build(
            name, base, series, fragments=fragments, progress=progress, say=console.print
        )
    print(f"{kernel.name}: Linux {kernel.release}, {_content(kernel)}, in {kernel.directory}")
    return 0


def kernels() -> int:
    """List what was built."""
    table = Table("name", "release", "from", "built", "MB", box=None)
    for kernel in kbuild.list_kernels():
        table.add_row(
            kernel.name,
            kernel.release,
            _content(kernel),
            kernel.created.replace("T", " ").removesuffix("+00:00"),
            f"{kernel.size / 1e6:.0f}",
        )
    if not table.row_count:
        print("no kernel was built yet: snptest build NAME --base linux-source-6.12")
        return 0
    Console().print(table)
    return 0


def _content(kernel: kbuild.KernelBuild) -> str:
    count = len(kernel.series)
    return kernel.base + (f" + {count} patch{'es' * (count > 1)}" if count else "")
