# SPDX-License-Identifier: GPL-2.0-only
"""Kernel configuration: fragments, and a check that every symbol of them took.

A fragment is a paragraph of comment and the symbols below it; the comment says why they
are needed.  Kconfig drops a symbol whose dependencies fail without a word, so afterwards
each one is compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildError

FRAGMENTS = Path(__file__).resolve().parents[2] / "kernels"
_SET = re.compile(r"(CONFIG_[A-Za-z0-9_]+)=(.*)")
_UNSET = re.compile(r"# (CONFIG_[A-Za-z0-9_]+) is not set")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol that must have a value, and why."""

    name: str
    value: str
    why: str


def read_fragment(text: str) -> list[Symbol]:
    """Take a fragment apart."""
    symbols: list[Symbol] = []
    comment: list[str] = []
    fresh = True
    for line in text.splitlines():
        if match := _SET.fullmatch(line):
            symbols.append(Symbol(match[1], match[2], " ".join(comment)))
            fresh = True
        elif match := _UNSET.fullmatch(line):
            symbols.append(Symbol(match[1], "n", " ".join(comment)))
            fresh = True
        elif line.startswith("#"):
            if fresh:
                comment = []
            fresh = False
            comment.append(line.lstrip("# ").rstrip())
        elif not line.strip():
            comment, fresh = [], True
        else:
            raise ValueError(f"neither a symbol nor a comment: {line!r}")
    return symbols


def read_config(text: str) -> dict[str, str]:
    """Return a .config as name and value; what is not set is not in it."""
    return {match[1]: match[2] for line in text.splitlines() if (match := _SET.fullmatch(line))}


def dropped(wanted: list[Symbol], config: dict[str, str]) -> list[str]:
    """Say for each symbol that did not take what it is instead and why it matters."""
    return [
        f"{symbol.name}={symbol.value} did not take (it is {config.get(symbol.name, 'n')}): "
        f"{symbol.why or 'no reason given'}"
        for symbol in wanted
        if config.get(symbol.name, "n") != symbol.value
    ]


def check_config(wanted: list[Symbol], text: str) -> None:
    """Raise BuildError where a symbol did not take."""
    problems = dropped(wanted, read_config(text))
    if problems:
        raise BuildError(
            "the configuration is not what the kernel needs: " + "; ".join(problems),
            "its dependencies may have changed in this tree: amend kernels/*.config",
        )
