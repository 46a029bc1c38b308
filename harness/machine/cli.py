# SPDX-License-Identifier: GPL-2.0-only
"""What `snptest machine build` and `snptest machine info` print."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console

from harness.errors import UsageError
from harness.kbuild.progress import ConsoleProgress
from harness.machine import build as building
from harness.machine import installed, patches
from harness.machine.installed import MachineBuild
from harness.places import ROOT
from harness.report.outcome import ExitCode
from harness.report.words import counted

README = ROOT / "qemu/README.md"
NONE = Path("none")
"""As --patches: the sources have them already."""
MODELLED = "## What is modelled"
"""The heading of README's table."""


def build(source: Path | None, folder: Path | None, *, refresh: bool, plain: bool) -> int:
    """Build the machine, or stock QEMU, and say what came out."""
    if plain and folder is not None:
        raise UsageError("--plain is without patches", "leave --patches out")
    if folder is not None and not folder.is_dir() and folder != NONE:
        raise UsageError(f"--patches {folder}: no such directory", f"or '{NONE}', for none")
    console = Console(stderr=True)
    with ConsoleProgress(console) as progress:
        machine = building.build(
            source,
            folder=None if plain else folder or patches.PATCHES,
            refresh=refresh,
            progress=progress,
            say=console.print,
        )
    print(f"{'plain QEMU' if plain else 'SNP machine'}: {_content(machine)}, {machine.qemu}")
    return ExitCode.PASSED


def info() -> int:
    """Describe the machine: built or not, of what, modelling what."""
    machine = installed.find()
    series = patches.load()
    if machine is None:
        print("SNP machine: not built yet (snptest machine build)")
        listed = [(each.name, each.subject) for each in series]
    else:
        print(f"SNP machine: {_content(machine)}")
        print(f"source:      {machine.source}")
        print(f"checked by:  {machine.checked}")
        print(f"built:       {machine.created}, in {machine.seconds:.0f} s, by {machine.compiler}")
        print(f"program:     {machine.qemu}")
        if machine.stale:
            print("stale:       qemu/patches has changed since (snptest machine build)")
        listed = list(machine.patches)
    print(f"patches:     {len(listed) or 'none'}")
    if machine is not None and not machine.snp:
        print("this QEMU has no SNP: kernels are booted on stock QEMU")
    for file, subject in listed:
        print(f"  {file[:4]} {subject}")
    if rows := modelled():
        print("modelled:    (qemu/README.md has the rest, and what is not)")
        for part, what in rows:
            print(f"  {part}: {what}")
    return ExitCode.PASSED


def modelled() -> list[tuple[str, str]]:
    """Return the rows of the README's table: a part of the machine, and what of it there is."""
    if not README.is_file():
        return []
    _, _, section = README.read_text().partition(f"{MODELLED}\n")
    rows = re.findall(r"^\| *([^|]+?) *\| *([^|]+?) *\|", section.partition("\n## ")[0], re.M)
    return [row for row in rows[1:] if not set(row[0]) <= set("-: ")]


def _content(machine: MachineBuild) -> str:
    count = len(machine.patches)
    return f"QEMU {machine.version}" + (f" + {counted(count, 'patch', 'patches')}" if count else "")
