# SPDX-License-Identifier: GPL-2.0-only
"""Known issues (kernels/known-issues.toml): what is wrong already, and where.

An issue is found by one of
  pattern   a splat: its head, what the WARN said, or the whole block
  test      a test that fails there (and, with `fails`, for that reason)
  skips     the reason for which tests skip: they still skip, and say which issue it is
and counts only where interfaces, kernels and environment say so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness import tables
from harness.places import ROOT
from harness.splats.extract import Splat
from harness.tables import Values

FILE = ROOT / "kernels" / "known-issues.toml"
HINT = "kernels/known-issues.toml explains its form"

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,60}")
_FIELDS = (
    *("id", "pattern", "test", "fails", "skips", "strict"),
    *("interfaces", "kernels", "environment", "reason", "link"),
)


@dataclass(frozen=True, slots=True)
class Where:
    """What ran, and on what."""

    test: str
    """Node id; "boot::KERNEL" for what a boot printed."""
    interface: str = ""
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
    interfaces: tuple[str, ...] = ("*",)
    kernels: KernelRange | None = None
    environment: frozenset[str] = frozenset()
    strict: bool = True
    """A test named by it that passes has failed: the entry is out of date."""

    @property
    def line(self) -> str:
        """What reports say: id, reason, link."""
        return f"[{self.id}] {self.reason} ({self.link})"

    def applies(self, where: Where) -> bool:
        """Whether it is about this interface, kernel and environment."""
        return (
            ("*" in self.interfaces or where.interface in self.interfaces)
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
    entries = Values(path, "", tables.read(path, HINT), ("issue",), HINT).tables("issue")
    issues: list[KnownIssue] = []
    for number, entry in enumerate(entries, 1):
        name = entry.get("id") if isinstance(entry, dict) else None
        where = f"issue {name!r}" if isinstance(name, str) else f"issue {number}"
        values = Values(path, where, entry, _FIELDS, HINT)
        issue = _issue(values)
        if any(issue.id == other.id for other in issues):
            raise values.wrong(
                "id", "one that no other issue has", f"{tables.shown(name)} is used twice"
            )
        issues.append(issue)
    return KnownIssues(tuple(issues))


def _issue(values: Values) -> KnownIssue:
    texts = {name: values.need(name) for name in ("id", "reason", "link")}
    if not _ID.fullmatch(texts["id"]):
        raise values.wrong("id", "lower-case letters, digits and '-', up to 61")
    if not re.match(r"https?://\S+$", texts["link"]):
        raise values.wrong("link", "a URL: https://...")
    given = [name for name in ("pattern", "test", "skips") if values.has(name)]
    if len(given) != 1:
        found = f"and {' and '.join(given[1:])} are given" if given else "is missing"
        raise values.wrong(
            given[0] if given else "pattern", "exactly one of pattern, test, skips", found
        )
    tests = values.some("test")
    for name in ("fails", "strict"):
        if values.has(name) and not tests:
            raise values.wrong(name, "it only with test", "is given, and test is not")
    return KnownIssue(
        id=texts["id"],
        reason=" ".join(texts["reason"].split()),
        link=texts["link"],
        pattern=values.regex("pattern", re.MULTILINE),
        test_globs=tests,
        tests=tuple(_glob(each) for each in tests),
        fails=values.regex("fails", re.MULTILINE),
        skips=values.regex("skips", re.MULTILINE),
        interfaces=values.some("interfaces") or ("*",),
        kernels=_range(values),
        environment=frozenset(values.some("environment")),
        strict=values.flag("strict", default=True),
    )


def _glob(text: str) -> re.Pattern[str]:
    """Translate * and ?; brackets are part of node ids, so they mean themselves."""
    return re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _range(values: Values) -> KernelRange | None:
    text = values.text("kernels")
    if text is None:
        return None
    try:
        return KernelRange.parse(text)
    except ValueError as error:
        raise values.wrong("kernels", f"bounds as in '>=6.8, <6.9-rc3' ({error})") from None
