# SPDX-License-Identifier: GPL-2.0-only
"""Two traces side by side: the first difference that no entry of differences.toml explains."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from harness import tables
from harness.differential.operations import Operation
from harness.differential.trace import Observation, Trace
from harness.tables import Values

DATA = Path(__file__).with_name("differences.toml")
ABSENT = "(nothing)"
_KEYS = ("id", "operation", "field", "emulator", "target", "wrong", "reason", "source", "ends")


@dataclass(frozen=True, slots=True)
class Documented:
    """A difference that is known; every pattern must match the whole text."""

    id: str
    operation: re.Pattern[str]
    """On the operation as it is printed: name(argument=value, ...)."""
    field: re.Pattern[str]
    emulator: re.Pattern[str]
    target: re.Pattern[str]
    wrong: str
    """Who is: emulator, machine, or neither where nothing says what is right."""
    reason: str
    source: str
    ends: bool = False
    """What follows in the script differs for that: it is not compared."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two traces part."""

    index: int
    operation: Operation
    field: str
    emulator: str
    target: str
    before: tuple[Observation, ...] = ()
    """What came before it, on the emulator: the same as on the other side."""

    @property
    def kind(self) -> str:
        """What it has in common with others of the same cause."""
        return f"{self.operation.name}: {re.sub('0x[0-9a-f]+', 'X', self.field)}"

    def describe(self, context: int = 6) -> str:
        """A few lines: what came before, and both sides."""
        lines = [f"  {each.operation}" for each in self.before[-context:]]
        lines += [
            f"> {self.operation}  (operation {self.index})",
            f"    {self.field}",
            f"      emulator: {self.emulator}",
            f"      target:   {self.target}",
        ]
        return "\n".join(lines)


@dataclass(slots=True)
class Compared:
    """What comparing gave."""

    difference: Difference | None = None
    documented: Counter[str] = field(default_factory=Counter)
    """How often each entry explained a difference, by id."""
    operations: int = 0
    """How many operations were compared."""


@cache
def documented(path: Path = DATA) -> tuple[Documented, ...]:
    """The entries of a file; UsageError where it is damaged."""
    entries = Values(path, "", tables.read(path), ("difference",)).tables("difference")
    return tuple(
        _entry(Values(path, f"difference {number}", each, _KEYS))
        for number, each in enumerate(entries, 1)
    )


def _entry(values: Values) -> Documented:
    def pattern(key: str) -> re.Pattern[str]:
        values.need(key, "a regular expression")
        found = values.regex(key, re.DOTALL)
        assert found is not None
        return found

    return Documented(
        id=values.need("id"),
        operation=pattern("operation"),
        field=pattern("field"),
        emulator=pattern("emulator"),
        target=pattern("target"),
        wrong=values.choice("wrong", ("emulator", "machine", "neither")),
        reason=values.need("reason"),
        source=values.need("source"),
        ends=values.flag("ends"),
    )


def compare(
    emulator: Trace, target: Trace, entries: Sequence[Documented] | None = None
) -> Compared:
    """Go through both; stops at the first difference that is not documented."""
    known = documented() if entries is None else entries
    done = Compared()
    for index, (left, right) in enumerate(
        zip(emulator.observations, target.observations, strict=True)
    ):
        names = [*left.fields, *(name for name in right.fields if name not in left.fields)]
        for name in names:
            a, b = left.fields.get(name, ABSENT), right.fields.get(name, ABSENT)
            if a == b:
                continue
            entry = _find(known, left.operation, name, a, b)
            if entry is None:
                before = emulator.observations[:index]
                done.difference = Difference(index, left.operation, name, a, b, before)
                return done
            done.documented[entry.id] += 1
            if entry.ends:
                return done
        done.operations += 1
    return done


def _find(
    known: Sequence[Documented], operation: Operation, name: str, emulator: str, target: str
) -> Documented | None:
    text = str(operation)
    for each in known:
        if (
            each.operation.fullmatch(text)
            and each.field.fullmatch(name)
            and each.emulator.fullmatch(emulator)
            and each.target.fullmatch(target)
        ):
            return each
    return None
