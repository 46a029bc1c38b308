# SPDX-License-Identifier: GPL-2.0-only
"""Which selftests run unless others are named, and how long each may take: tests.toml."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path

from harness import tables
from harness.places import ROOT
from harness.tables import Values

FILE = ROOT / "suites" / "kselftest" / "tests.toml"
LONGEST = 300.0
"""Seconds: a run in which nothing happens for much longer is given up (harness/runner.py)."""
SHORTEST = 0.1
MOST_MEMORY = 1 << 20
"""MiB."""
_FIELDS = ("tests", "default", "timeout", "memory", "why")


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
    """Read the file; UsageError names the group and the field that is wrong."""
    values = Values(path, "", tables.read(path), ("timeout", "group"))
    usual = _timeout(values, None)
    rules = [
        _rule(Values(path, f"group {number}", group, _FIELDS), usual)
        for number, group in enumerate(values.tables("group"), 1)
    ]
    return Catalogue(tuple(rules), Rule(("*",), usual))


def _rule(values: Values, usual: float) -> Rule:
    tests = tuple(values.texts("tests"))
    if not tests:
        raise values.wrong("tests", "a list of names or patterns of selftests")
    return Rule(
        tests,
        _timeout(values, usual),
        values.flag("default"),
        values.need("why"),
        values.whole("memory", 0, MOST_MEMORY) or 0,
    )


def _timeout(values: Values, usual: float | None) -> float:
    if usual is None and not values.has("timeout"):
        raise values.wrong("timeout", f"a number of seconds from {SHORTEST:g} to {LONGEST:g}")
    return values.seconds("timeout", usual or LONGEST, LONGEST, SHORTEST)
