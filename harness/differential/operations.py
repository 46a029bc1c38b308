# SPDX-License-Identifier: GPL-2.0-only
"""Operations as data: what a script consists of, as it is kept in files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.errors import UsageError

Value = int | tuple[int, ...]


class Start(StrEnum):
    """What there is before the first operation."""

    VM = "vm"
    """An SNP VM with memory, before KVM_SEV_INIT2."""
    GUEST = "guest"
    """A launched test guest whose first vCPU waits for commands; the second was not created."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing to do: a name that `drive` knows, and numbers."""

    name: str
    args: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={_text(v)}' for key, v in self.args.items())})"

    def number(self, name: str, default: int = 0) -> int:
        """An argument that is a number."""
        value = self.args.get(name, default)
        if not isinstance(value, int):
            raise UsageError(f"{self.name}: {name} is no number")
        return value

    def numbers(self, name: str) -> tuple[int, ...]:
        """An argument that is a list."""
        value = self.args.get(name, ())
        if isinstance(value, int):
            raise UsageError(f"{self.name}: {name} is no list")
        return value


@dataclass(frozen=True, slots=True)
class Script:
    """A sequence of operations."""

    start: Start
    seed: int
    operations: tuple[Operation, ...]

    def with_operations(self, operations: tuple[Operation, ...]) -> Script:
        """The same with other operations."""
        return replace(self, operations=operations)

    def encode(self) -> str:
        """As JSON, one operation a line."""
        lines = ",\n  ".join(json.dumps([each.name, dict(each.args)]) for each in self.operations)
        head = f'"start": "{self.start}", "seed": {self.seed}'
        return f'{{{head}, "operations": [\n  {lines}\n]}}\n'

    @classmethod
    def decode(cls, text: str) -> Script:
        """Read JSON; ValueError where it is no script."""
        raw = json.loads(text)
        try:
            operations = tuple(_operation(name, args) for name, args in raw["operations"])
            return cls(Start(raw["start"]), int(raw["seed"]), operations)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a script: {error!r}") from None


def load(path: Path) -> Script:
    """Read a script that was saved; UsageError where it can't be."""
    try:
        return Script.decode(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(
            f"{path}: {error}", "a script is what `snptest differ --save` writes"
        ) from (error)


def _operation(name: Any, args: Any) -> Operation:
    values: dict[str, Value] = {}
    for key, value in args.items():
        if isinstance(value, list) and all(type(each) is int for each in value):
            values[key] = tuple(value)
        elif type(value) is int:
            values[key] = value
        else:
            raise ValueError(f"{name}: {key} is {value!r}")
    return Operation(str(name), values)


def _text(value: Value) -> str:
    if isinstance(value, int):
        return hex(value) if abs(value) > 9 else str(value)
    return f"[{', '.join(_text(each) for each in value)}]"
