# SPDX-License-Identifier: GPL-2.0-only
"""Which selftests run unless others are named, and how long each may take: tests.toml."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError

FILE = Path(__file__).resolve().parents[2] / "suites" / "kselftest" / "tests.toml"
LONGEST = 300.0
"""Seconds: a run in which nothing happens for much longer is given up (harness/runner.py)."""
_FIELDS = {"tests", "default", "timeout", "memory", "why"}


@dataclass(frozen=True, slots=True)
class Rule:
    """What the file says about some tests."""

    tests: tuple[str, ...]
    timeout: float
    default: bool = False
    why: str = ""
    memory: int = 0
    """MiB that the machine must have."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The file."""

    rules: tuple[Rule, ...]
    other: Rule

    def rule(self, name: str) -> Rule:
        """Return the first rule that a test's name fits."""
        for rule in self.rules:
            if any(fnmatch.fnmatchcase(name, each) for each in rule.tests):
                return rule
        return self.other


def lacking_memory(rule: Rule, meminfo: str | None) -> str:
    """Say that a machine, by its /proc/meminfo, has too little memory; "" where it has enough."""
    match = re.search(r"^MemTotal: +([0-9]{1,15}) kB$", meminfo or "", re.MULTILINE)
    there = int(match[1]) >> 10 if match else 0
    if match is None or there >= rule.memory:
        return ""
    return f"needs {rule.memory} MiB of memory, the machine has {there}"


def load(path: Path = FILE) -> Catalogue:
    """Read the file; UserError names the group and the field that is wrong."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    try:
        usual = _timeout(table.get("timeout"))
        groups = table.get("group", [])
        if not isinstance(groups, list) or table.keys() - {"timeout", "group"}:
            raise ValueError("there are timeout and [[group]] only")
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    rules = []
    for number, group in enumerate(groups, 1):
        try:
            rules.append(_rule(group, usual))
        except ValueError as error:
            raise UserError(f"{path}: group {number}: {error}") from None
    return Catalogue(tuple(rules), Rule(("*",), usual))


def _rule(group: Any, usual: float) -> Rule:
    if not isinstance(group, dict):
        raise ValueError("is no table")
    if unknown := sorted(group.keys() - _FIELDS):
        raise ValueError(f"{unknown[0]}: no such field; there are {', '.join(sorted(_FIELDS))}")
    tests, why, default = group.get("tests"), group.get("why"), group.get("default", False)
    if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
        raise ValueError("tests: is no list of names")
    if not isinstance(why, str) or not why:
        raise ValueError("why: is missing")
    if not isinstance(default, bool):
        raise ValueError("default: is true or false")
    memory = group.get("memory", 0)
    if not isinstance(memory, int) or isinstance(memory, bool) or memory < 0:
        raise ValueError("memory: is no number of MiB")
    return Rule(tuple(tests), _timeout(group.get("timeout", usual)), default, why, memory)


def _timeout(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= LONGEST:
        raise ValueError(f"timeout: is no number of seconds up to {LONGEST:g}")
    return float(value)
