# SPDX-License-Identifier: GPL-2.0-only
"""A mutant: one line of the emulator made wrong, in a copy of the package."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One breakage: `old` occurs exactly once in `file` and becomes `new`."""

    name: str
    file: str
    """Path from the project's root."""
    old: str
    new: str
    tests: tuple[str, ...]
    """Test files or node ids (without parameters), one of which must fail.

    They are of suites/; of tests/ for what no suite reaches.
    """

    def source(self, root: Path = ROOT) -> str:
        """The mutated text of the file; ValueError where `old` is not there exactly once."""
        text = (root / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} has {text.count(self.old)} x {self.old!r}")
        if self.old == self.new:
            raise ValueError(f"{self.name} changes nothing")
        return text.replace(self.old, self.new)

    def plant(self, folder: Path) -> None:
        """Copy package, suites and configuration into a folder, with this one line changed."""
        for name in ("harness", "suites", "tests", "guests", "kernels"):
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in ("conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        (folder / self.file).write_text(self.source())


def all_mutants() -> list[Mutant]:
    """Every mutant of the modules beside this one, by name."""
    import tests.mutants as package

    found: list[Mutant] = []
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        found += getattr(module, "MUTANTS", ())
    names = [mutant.name for mutant in found]
    if len(set(names)) != len(names):
        raise ValueError("two mutants have one name")
    return sorted(found, key=lambda mutant: mutant.name)
