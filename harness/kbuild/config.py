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
from harness.places import ROOT
from harness.tables import close_to, shown

BASE, DISTRIBUTION = "base", "distribution"
"""The fragments that others lie on; one of them is part of every configuration."""
FRAGMENTS = ROOT / "kernels"
_SET = re.compile(r"(CONFIG_[A-Za-z0-9_]+)=(.*)")
_UNSET = re.compile(r"# (CONFIG_[A-Za-z0-9_]+) is not set")
_REASON = re.compile(r"# (without|implied) ([A-Z0-9_ ]+): \S.*")
_RELEASE = r"[0-9]+\.[0-9]+(?:\.[0-9]+)?"
_RANGE = re.compile(rf"# *(since|until) ({_RELEASE})(?: (until) ({_RELEASE}))?")
_LAST = 1 << 16
"""More than any number of a version."""
_ALWAYS = ((0, 0, 0), (_LAST, 0, 0))
"""Since and until when a symbol is asked for."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol that must have a value, and why."""

    name: str
    value: str
    why: str
    since: tuple[int, int, int] = _ALWAYS[0]
    until: tuple[int, int, int] = _ALWAYS[1]
    """The first and the last version of Linux that has it."""
    asked: bool = True
    """False where it is only of the configuration below a fragment: it need not take."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A file of symbols."""

    name: str
    """Of its own: a file that is not ours has some of its path's hash in it."""
    text: str
    below: str = ""
    """The configuration that it lies on (harness.kbuild.distribution)."""


def find_fragments(names: Sequence[str]) -> list[Fragment]:
    """Return base.config and the named fragments: files in kernels/, or paths to others.

    distribution.config takes the place of base.config.
    """
    found: dict[str, Fragment] = {}
    for name in (DISTRIBUTION if DISTRIBUTION in names else BASE, *names):
        path = FRAGMENTS / f"{name}.config"
        title = name
        if "/" in name or not path.is_file():
            path = Path(name).expanduser().resolve()
            title = f"{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"
        ours = fragment_names()
        hint = close_to(name, ours) or f"name one of {', '.join(ours)}, or a file of CONFIG_ lines"
        try:
            text = path.read_text(encoding="utf-8-sig")
            read_fragment(text)
        except OSError as error:
            raise UsageError(f"--config {name}: {error.strerror}", hint) from None
        except UnicodeDecodeError as error:
            byte = f"{error.object[error.start]:#04x}"
            raise UsageError(f"--config {name} has the byte {byte}; want UTF-8", hint) from None
        except ValueError as error:
            raise UsageError(f"--config {name}: {error}") from None
        found.setdefault(title, Fragment(title, text))
    return list(found.values())


def fragment_names() -> list[str]:
    """Name our own fragments."""
    return sorted(each.stem for each in FRAGMENTS.glob("*.config"))


def read_fragment(text: str) -> list[Symbol]:
    """Take a fragment apart; ValueError for a line that is neither symbol nor comment.

    So it is where a symbol has two values in one version: which one is meant?
    """
    symbols: list[Symbol] = []
    comment: list[str] = []
    limits = _ALWAYS
    fresh = True
    for number, line in enumerate(text.splitlines(), 1):
        line = line.rstrip()
        if match := _SET.fullmatch(line):
            symbols.append(Symbol(match[1], match[2], " ".join(comment), *limits))
            fresh = True
        elif match := _UNSET.fullmatch(line):
            symbols.append(Symbol(match[1], "n", " ".join(comment), *limits))
            fresh = True
        elif match := _RANGE.fullmatch(line):
            named = {match[1]: match[2], match[3]: match[4]}
            since = _limit("since", named["since"]) if "since" in named else _ALWAYS[0]
            until = _limit("until", named["until"]) if "until" in named else _ALWAYS[1]
            limits = (since, until)
        elif line.startswith("#"):
            if fresh:
                comment, limits = [], _ALWAYS
            fresh = False
            comment.append(line.lstrip("# ").rstrip())
        elif not line.strip():
            comment, limits, fresh = [], _ALWAYS, True
        else:
            raise ValueError(f"line {number} is {shown(line)}; want {_advice(line)}")
        if symbols and fresh:
            _check_once(symbols, number)
    return symbols


def _limit(word: str, release: str) -> tuple[int, int, int]:
    """Read a version; "until 6.12" means all of its point releases."""
    major, minor, *point = (int(number) for number in release.split("."))
    return major, minor, point[0] if point else _LAST * (word == "until")


def _advice(line: str) -> str:
    """Say what a line that is not understood should be."""
    match = re.fullmatch(r"\s*(?:CONFIG_)?([A-Z0-9_]+)\s*=\s*(\S.*)", line, re.IGNORECASE)
    meant = f"CONFIG_{match[1].upper()}={match[2]}" if match else "CONFIG_NAME=value"
    return f"{meant}, '# CONFIG_NAME is not set', or a comment"


def _check_once(symbols: list[Symbol], number: int) -> None:
    """Raise ValueError where the last symbol has another value before, in the same version."""
    last = symbols[-1]
    for other in symbols[:-1]:
        apart = other.until < last.since or last.until < other.since
        if other.name == last.name and other.value != last.value and not apart:
            found = f"line {number} sets {last.name} to {shown(last.value)}"
            raise ValueError(f"{found}, a line before it to {shown(other.value)}; want one of them")


def left_out(text: str) -> set[str]:
    """Return the symbols that a fragment's comments name as left out, with the reason why."""
    return _named(text, "without")


def implied(text: str) -> set[str]:
    """Return the symbols that a fragment's comments name as on without being asked for."""
    return _named(text, "implied")


def _named(text: str, word: str) -> set[str]:
    found = [match for line in text.splitlines() if (match := _REASON.fullmatch(line))]
    return {f"CONFIG_{name}" for each in found if each[1] == word for name in each[2].split()}


def read_config(text: str) -> dict[str, str]:
    """Return a .config as name and value; what is not set is not in it."""
    return {match[1]: match[2] for line in text.splitlines() if (match := _SET.fullmatch(line))}


def dropped(wanted: list[Symbol], config: dict[str, str]) -> list[str]:
    """Say for each symbol that did not take what it is instead and why it matters."""
    return [
        f"{symbol.name}={symbol.value} did not take (it is {config.get(symbol.name, 'n')}): "
        f"{symbol.why or 'no reason given'}"
        for symbol in wanted
        if symbol.asked and config.get(symbol.name, "n") != symbol.value
    ]


def wanted_symbols(fragments: Sequence[Fragment], version: Sequence[int]) -> list[Symbol]:
    """Return what fragments ask of a version, and what the configurations below them have.

    Of one symbol twice, the last counts.
    """
    major, minor, point = version
    release = (major, minor, point)
    symbols = [
        symbol
        for each in fragments
        for symbol in (*_below(each), *read_fragment(each.text))
        if symbol.since <= release <= symbol.until
    ]
    return list({symbol.name: symbol for symbol in symbols}.values())


def _below(fragment: Fragment) -> list[Symbol]:
    known = read_config(fragment.below)
    return [Symbol(name, value, "", asked=False) for name, value in known.items()]


def allconfig(wanted: list[Symbol]) -> str:
    """Return the symbols as KCONFIG_ALLCONFIG takes them."""
    return "".join(f"{symbol.name}={symbol.value}\n" for symbol in wanted)


def check_config(wanted: list[Symbol], text: str) -> None:
    """Raise BuildError where a symbol did not take."""
    config = read_config(text)
    problems = dropped(wanted, config)
    if problems:
        compiler = config.get("CONFIG_CC_VERSION_TEXT", "").strip('"')
        lacking = f", or {compiler} lacks what they need: CC= or LLVM= name another"
        raise BuildError(
            "the configuration is not what the kernel needs: " + "; ".join(problems),
            "dependencies may have changed in this tree: amend the fragment "
            "(kernels/base.config says how to limit a symbol to some versions)"
            + (lacking if compiler else ""),
        )
