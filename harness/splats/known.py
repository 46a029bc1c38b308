# SPDX-License-Identifier: GPL-2.0-only
"""Known issues (kernels/known-issues.toml): what is wrong already, and where.

An issue is found by one of
  pattern   a splat: its head, what the WARN said, or the whole block
  test      a test that fails there (and, with `fails`, for that reason)
  skips     the reason for which tests skip: they still skip, and say which issue it is
and counts only where revisions, kernels and environment say so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import tables
from harness.errors import UsageError
from harness.splats.extract import Splat

FILE = Path(__file__).resolve().parents[2] / "kernels" / "known-issues.toml"
HINT = "kernels/known-issues.toml explains its form"

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,60}")
_TEXT_FIELDS = ("id", "pattern", "fails", "skips", "kernels", "reason", "link")
_LIST_FIELDS = ("test", "revisions", "environment")
_FIELDS = frozenset((*_TEXT_FIELDS, *_LIST_FIELDS, "strict"))


@dataclass(frozen=True, slots=True)
class Where:
    """What ran, and on what."""

    test: str
    """Node id; "boot::KERNEL" for what a boot printed."""
    revision: str = ""
    environment: frozenset[str] = frozenset()
    """The backend's name and Kernel.environment: vng, tcg, stock, snp."""
    release: str = ""
    """uname -r of the kernel under test; empty where nobody knows, as for a model."""


@dataclass(frozen=True, slots=True)
class KnownIssue:
    """One entry of the file."""

    id: str
    reason: str
    link: str
    pattern: re.Pattern[str] | None = None
    test_globs: tuple[str, ...] = ()
    tests: tuple[re.Pattern[str], ...] = ()
    """The globs, compiled."""
    fails: re.Pattern[str] | None = None
    skips: re.Pattern[str] | None = None
    revisions: tuple[str, ...] = ("*",)
    kernels: KernelRange | None = None
    environment: frozenset[str] = frozenset()
    strict: bool = True
    """A test named by it that passes has failed: the entry is out of date."""

    @property
    def line(self) -> str:
        """What reports say: id, reason, link."""
        return f"[{self.id}] {self.reason} ({self.link})"

    def applies(self, where: Where) -> bool:
        """Whether it is about this revision, kernel and environment."""
        return (
            ("*" in self.revisions or where.revision in self.revisions)
            and (self.kernels is None or self.kernels.holds(where.release))
            and self.environment <= where.environment
        )

    def names(self, test: str) -> bool:
        """Whether it is about that test."""
        return any(each.fullmatch(test) for each in self.tests)


@dataclass(frozen=True, slots=True)
class KnownIssues:
    """All entries, in the file's order; the first that fits counts."""

    issues: tuple[KnownIssue, ...] = ()

    def of_splat(self, splat: Splat, where: Where) -> KnownIssue | None:
        """Find the issue that a splat is."""
        texts = (splat.title, splat.block)
        for issue in self.issues:
            pattern = issue.pattern
            if pattern and issue.applies(where) and any(pattern.search(text) for text in texts):
                return issue
        return None

    def of_failure(self, where: Where, *texts: str) -> KnownIssue | None:
        """Find the issue that a test's failure is; `texts` are its reason and details."""
        for issue in self.issues:
            if issue.names(where.test) and issue.applies(where):
                fails = issue.fails
                if fails is None or any(fails.search(text) for text in texts):
                    return issue
        return None

    def gone(self, where: Where) -> KnownIssue | None:
        """Find the issue for which a test that passed should have failed."""
        for issue in self.issues:
            if issue.strict and issue.names(where.test) and issue.applies(where):
                return issue
        return None

    def of_skip(self, where: Where, reason: str) -> KnownIssue | None:
        """Find the issue for which a test skips."""
        for issue in self.issues:
            if issue.skips and issue.skips.search(reason) and issue.applies(where):
                return issue
        return None


_Version = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class KernelRange:
    """Kernel versions, as in ">=6.8, <6.9-rc3"."""

    text: str
    bounds: tuple[tuple[str, _Version], ...]

    @classmethod
    def parse(cls, text: str) -> KernelRange:
        """Read a range; ValueError where it is none."""
        bounds = []
        for part in text.split(","):
            match = re.fullmatch(r"\s*(>=|<=|<|>|==)\s*(\S+)\s*", part)
            version = _version(match[2], whole=True) if match else None
            if match is None or version is None:
                raise ValueError(f"{part.strip()!r} is no bound such as '>=6.8' or '<6.9-rc3'")
            bounds.append((match[1], version))
        return cls(text, tuple(bounds))

    def holds(self, release: str) -> bool:
        """Whether a release (uname -r) lies in it; one that nobody knows does not."""
        version = _version(release)
        if version is None:
            return False
        return all(
            {
                ">=": version >= bound,
                "<=": version <= bound,
                "<": version < bound,
                ">": version > bound,
                "==": version == bound,
            }[sign]
            for sign, bound in self.bounds
        )


def _version(text: str, *, whole: bool = False) -> _Version | None:
    """Numbers of a version; a release candidate comes before its release."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,5}))?(?:-rc(\d{1,3}))?", text)
    if match is None or (whole and match.end() != len(text)):
        return None
    candidate = int(match[4]) if match[4] else 10**6
    return int(match[1]), int(match[2]), int(match[3] or 0), candidate


def load(path: Path = FILE) -> KnownIssues:
    """Read the file; UsageError names file, entry and field where something is wrong."""
    table = tables.read(path, HINT)
    entries = table.pop("issue", [])
    if table or not isinstance(entries, list):
        what = f"{next(iter(table))!r}" if table else "'issue'"
        raise UsageError(f"{path}: {what} is not expected", "entries are tables: [[issue]]")
    issues: list[KnownIssue] = []
    for number, entry in enumerate(entries, 1):
        name = entry.get("id") if isinstance(entry, dict) else None
        label = f"{path}: issue {name!r}" if isinstance(name, str) else f"{path}: issue {number}"
        try:
            issue = _issue(entry)
        except ValueError as error:
            raise UsageError(f"{label}: {error}") from None
        if any(issue.id == other.id for other in issues):
            raise UsageError(f"{label}: id is used twice")
        issues.append(issue)
    return KnownIssues(tuple(issues))


def _issue(entry: Any) -> KnownIssue:
    if not isinstance(entry, dict):
        raise ValueError("is no table")
    if unknown := sorted(entry.keys() - _FIELDS):
        raise ValueError(f"{unknown[0]}: no such field; there are {', '.join(sorted(_FIELDS))}")
    fields = {name: _text(entry, name) for name in _TEXT_FIELDS}
    lists = {name: _list(entry, name) for name in _LIST_FIELDS}
    for name in ("id", "reason", "link"):
        if not fields[name]:
            raise ValueError(f"{name}: is missing")
    if not _ID.fullmatch(fields["id"]):
        raise ValueError("id: use lower-case letters, digits and '-'")
    if not re.match(r"https?://\S+$", fields["link"]):
        raise ValueError("link: is no URL")
    given = [name for name in ("pattern", "test", "skips") if entry.get(name)]
    if len(given) != 1:
        raise ValueError("pattern, test, skips: give exactly one of them")
    if "fails" in entry and not lists["test"]:
        raise ValueError("fails: goes with test only")
    strict = entry.get("strict", True)
    if not isinstance(strict, bool):
        raise ValueError("strict: is true or false")
    if "strict" in entry and not lists["test"]:
        raise ValueError("strict: goes with test only")
    return KnownIssue(
        id=fields["id"],
        reason=fields["reason"],
        link=fields["link"],
        pattern=_regex("pattern", fields["pattern"]),
        test_globs=lists["test"],
        tests=tuple(_glob(each) for each in lists["test"]),
        fails=_regex("fails", fields["fails"]),
        skips=_regex("skips", fields["skips"]),
        revisions=lists["revisions"] or ("*",),
        kernels=_range(fields["kernels"]),
        environment=frozenset(lists["environment"]),
        strict=strict,
    )


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name}: is no string")
    return " ".join(value.split()) if name == "reason" else value


def _list(entry: dict[str, Any], name: str) -> tuple[str, ...]:
    value = entry.get(name, [])
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ValueError(f"{name}: is neither a string nor a list of strings")
    return tuple(value)


def _regex(name: str, text: str) -> re.Pattern[str] | None:
    if not text:
        return None
    try:
        return re.compile(text, re.MULTILINE)
    except re.error as error:
        raise ValueError(f"{name}: is no regular expression: {error}") from None


def _glob(text: str) -> re.Pattern[str]:
    """Translate * and ?; brackets are part of node ids, so they mean themselves."""
    return re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _range(text: str) -> KernelRange | None:
    if not text:
        return None
    try:
        return KernelRange.parse(text)
    except ValueError as error:
        raise ValueError(f"kernels: {error}") from None
