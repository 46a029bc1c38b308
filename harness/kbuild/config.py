# SPDX-License-Identifier: GPL-2.0-only
"""Kernel configuration: fragments, and a check that every symbol of them took.

A fragment is a paragraph of comment and the symbols below it; the comment says why they
are needed.  Kconfig drops a symbol whose dependencies fail without a word, so afterwards
each one is compared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildError, UsageError

FRAGMENTS = Path(__file__).resolve().parents[2] / "kernels"
_SET = re.compile(r"(CONFIG_[A-Za-z0-9_]+)=(.*)")
_UNSET = re.compile(r"# (CONFIG_[A-Za-z0-9_]+) is not set")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol that must have a value, and why."""

    name: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Fragment:
    """A file of symbols."""

    name: str
    """Of its own: a file that is not ours has some of its path's hash in it."""
    text: str


def find_fragments(names: Sequence[str]) -> list[Fragment]:
    """Return base.config and the named fragments: files in kernels/, or paths to others."""
    found: dict[str, Fragment] = {}
    for name in ("base", *names):
        path = FRAGMENTS / f"{name}.config"
        title = name
        if "/" in name or not path.is_file():
            path = Path(name).expanduser().resolve()
            title = f"{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"
        try:
            text = path.read_text()
            read_fragment(text)
        except (OSError, UnicodeDecodeError) as error:
            ours = ", ".join(fragment_names())
            raise UsageError(
                f"--config {name}: {error.strerror if isinstance(error, OSError) else 'no text'}",
                f"name one of {ours}, or a file of CONFIG_ lines",
            ) from None
        except ValueError as error:
            raise UsageError(f"--config {name}: {error}") from None
        found.setdefault(title, Fragment(title, text))
    return list(found.values())


def fragment_names() -> list[str]:
    """Name our own fragments."""
    return sorted(each.stem for each in FRAGMENTS.glob("*.config"))


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


def wanted_symbols(fragments: Sequence[Fragment]) -> list[Symbol]:
    """Return what fragments ask for together: of one symbol twice, the last counts."""
    symbols = [symbol for each in fragments for symbol in read_fragment(each.text)]
    return list({symbol.name: symbol for symbol in symbols}.values())


def allconfig(wanted: list[Symbol]) -> str:
    """Return the symbols as KCONFIG_ALLCONFIG takes them."""
    return "".join(f"{symbol.name}={symbol.value}\n" for symbol in wanted)


def check_config(wanted: list[Symbol], text: str) -> None:
    """Raise BuildError where a symbol did not take."""
    problems = dropped(wanted, read_config(text))
    if problems:
        raise BuildError(
            "the configuration is not what the kernel needs: " + "; ".join(problems),
            "its dependencies may have changed in this tree: amend kernels/*.config",
        )
