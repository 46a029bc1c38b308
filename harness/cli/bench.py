# SPDX-License-Identifier: GPL-2.0-only
"""`snptest bench`: runs benchmarks/*.py; each figure is a ratio or has a bar to be held against.

A benchmark is a module with `run() -> dict | list[dict]`; keys: name, ratio (the measured
figure), bar (its upper limit, None where it only informs), unit, detail.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.cli.output import need_writable, to_stdout, write_text
from harness.console import make_console
from harness.errors import UsageError
from harness.places import ROOT
from harness.report.outcome import ExitCode

FOLDER = ROOT / "benchmarks"


@dataclass(frozen=True)
class Figure:
    """One measured figure and its bar."""

    name: str
    ratio: float
    bar: float | None
    unit: str = "x"
    detail: str = ""

    @property
    def held(self) -> bool:
        """Whether the figure is within its bar."""
        return self.bar is None or self.ratio <= self.bar

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Figure:
        """Read what a benchmark returned."""
        return cls(
            name=str(record["name"]),
            ratio=float(record["ratio"]),
            bar=None if record.get("bar") is None else float(record["bar"]),
            unit=str(record.get("unit", "x")),
            detail=str(record.get("detail", "")),
        )


def bench(names: tuple[str, ...], output: Path | None) -> int:
    """Run the named benchmarks, or all; 1 where a bar is missed."""
    known = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"no benchmark is called {unknown[0]!r}", f"there are {', '.join(known) or 'none yet'}"
        )
    if not known:
        raise UsageError("this tree has no benchmarks yet")
    need_writable(output)
    console = make_console(stderr=to_stdout(output))
    figures: list[Figure] = []
    for name in names or known:
        began = time.monotonic()
        console.print(Text(f"{name} ...", style="dim"))
        measured = importlib.import_module(f"benchmarks.{name}").run()
        records = [measured] if isinstance(measured, dict) else measured
        figures += [Figure.from_dict(record) for record in records]
        console.print(Text(f"{name} took {time.monotonic() - began:.1f} s", style="dim"))
    _show(console, figures)
    if output:
        records = [{**asdict(figure), "held": figure.held} for figure in figures]
        write_text(output, json.dumps(records, indent=2) + "\n")
    return ExitCode.PASSED if all(figure.held for figure in figures) else ExitCode.FAILED


def _show(console: Console, figures: Iterable[Figure]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("benchmark")
    for title in ("figure", "bar"):
        table.add_column(title, justify="right")
    for title in ("unit", "", "detail"):
        table.add_column(title)
    for figure in figures:
        table.add_row(
            figure.name,
            f"{figure.ratio:.3g}",
            "" if figure.bar is None else f"{figure.bar:g}",
            figure.unit,
            Text("ok", style="green") if figure.held else Text("MISSED", style="bold red"),
            Text(figure.detail, style="dim"),
        )
    console.print(table)
