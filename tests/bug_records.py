# SPDX-License-Identifier: GPL-2.0-only
"""Seeded bugs as they lie in tests/data/bugs, what was found of each, and the table of it.

What was found is kept beside them in verdicts.json, for the patch and the suites that it was
found with: a bug whose patch changed is judged again, and one that nobody saw when a suite
changed.  Which tests pass without a bug is kept in the cache (bugs/).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.kbuild import cache
from tests.mutants.mutant import ROOT

BUGS = ROOT / "tests/data/bugs"
VERDICTS = BUGS / "verdicts.json"
TABLE = ROOT / "docs/bugs.md"
SUITES = ("launch", "psc", "ap_creation", "guest_req", "gmem")

WHOLE = "whole"
"""The area of bugs that only whole guests show: the suites of SUITES have to be asked, too."""

AREAS = {
    "launch": ("launch",),
    "teardown": ("launch", "gmem"),
    "psc": ("psc",),
    "events": ("psc", "guest_req"),
    "ap_creation": ("ap_creation",),
    "guest_req": ("guest_req",),
    "gmem": ("gmem",),
    "rmp": ("launch", "gmem"),
    "psp": ("guest_req", "launch"),
    "locking": ("launch", "guest_req", "gmem"),
    WHOLE: ("linux",),
}
"""Suites that should see the bugs of an area."""

_HEAD = re.compile(
    r"^Area: (\w+)\n(?:First: (suites/\S+)\n)?\n(.+?)\n---$", re.MULTILINE | re.DOTALL
)
_REASON = 90


@dataclass(frozen=True, slots=True)
class Bug:
    """One patch."""

    name: str
    area: str
    what: str
    """What it breaks, in a sentence."""
    first: str | None
    """Where to look first: a file of the suites; saves time, where it sees the bug."""
    patch: Path

    @property
    def digest(self) -> str:
        """What identifies the change."""
        return hashlib.sha256(_diff(self.patch.read_text()).encode()).hexdigest()[:16]


@dataclass(slots=True)
class Record:
    """What became of a bug."""

    patch: str
    """Digest of the patch."""
    suites: str
    """Digest of the suites that were asked."""
    seen: dict[str, str] = field(default_factory=dict)
    """Tests that go wrong with it and pass without, and how."""
    trouble: str = ""
    """Why it could not be judged."""
    area: bool = False
    """Whether only the suites of its area were asked, and did not see it."""


def load(names: Iterable[str] = ()) -> list[Bug]:
    """Read the bugs of those names, or all; ValueError for a patch without its heading."""
    wanted = set(names)
    found = []
    for patch in sorted(BUGS.glob("*.patch")):
        match = _HEAD.search(patch.read_text())
        if match is None or match[1] not in AREAS:
            raise ValueError(f"{patch.name} names no area")
        what = match[3].replace("\n", " ")
        found.append(Bug(patch.stem, match[1], what, match[2], patch))
    unknown = wanted - {bug.name for bug in found}
    if unknown:
        raise ValueError(f"no such bug: {', '.join(sorted(unknown))}")
    return [bug for bug in found if not wanted or bug.name in wanted]


def suites_digest(suites: Sequence[str] = SUITES) -> str:
    """Return what identifies the tests of suites, and the guest that they run."""
    folders = [*(ROOT / "suites" / name for name in suites), ROOT / "guests"]
    return _digest(
        path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    )


def of(bug: Bug) -> Record | None:
    """Return what was found of a bug; None where it was not judged since its patch changed."""
    kept = _verdicts().get(bug.name)
    record = Record(**kept) if kept else None
    return record if record and record.patch == bug.digest else None


def is_judged(bug: Bug) -> bool:
    """Tell whether judging a bug again would say the same."""
    record = of(bug)
    if record is None or record.trouble or record.area:
        return False
    return bool(record.seen) or record.suites == suites_digest()


def keep(bug: Bug, record: Record) -> None:
    """Write down what was found."""
    verdicts = _verdicts() | {bug.name: asdict(record)}
    known = {each.name for each in load()}
    kept = {name: verdicts[name] for name in sorted(known & verdicts.keys())}
    cache.write_json(VERDICTS, kept)


def plain(asked: str) -> list[str] | None:
    """Return the tests of a suite, or of one file or test, that pass without a bug.

    None where that has to be looked at.
    """
    file = _plain() / f"{_file_name(asked)}.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    return kept["passed"] if kept.get("suites") == suites_digest([_suite(asked)]) else None


def keep_plain(asked: str, passed: list[str]) -> None:
    """Write down which tests pass without a bug."""
    content = {"suites": suites_digest([_suite(asked)]), "passed": passed}
    cache.write_json(_plain() / f"{_file_name(asked)}.json", content)


def _suite(asked: str) -> str:
    return asked.removeprefix("suites/").partition("/")[0]


def _file_name(asked: str) -> str:
    return re.sub(r"[^\w.-]+", "-", asked.removeprefix("suites/"))


def table(verdicts: Sequence[tuple[Bug, Record | None]]) -> str:
    """Return the table of who sees what, as Markdown."""
    judged = [record for _, record in verdicts if record and not record.trouble]
    seen = sum(bool(record.seen) for record in judged)
    lines = [
        "<!-- SPDX-License-Identifier: GPL-2.0-only -->",
        "# Seeded bugs of the kernel",
        "",
        "Each is a patch in tests/data/bugs, of a line or two of the kernel's own SNP code;",
        "`.venv/bin/python -m tests.bugs` builds it into Debian's 6.12, runs the suites on the SNP",
        "machine, and makes this table.  A test sees a bug that goes wrong with it and passes",
        "without.  A suite is stopped after some failures, so others may see it, too.",
        "",
        f"Judged: {len(judged)} of {len(verdicts)}.  Seen: {seen} of those {len(judged)}.",
        "",
        "| bug | area | breaks | seen by | how |",
        "|---|---|---|---|---|",
    ]
    for bug, record in verdicts:
        lines.append(f"| {bug.name} | {bug.area} | {bug.what} | {_seen(record)} |")
    return "\n".join(lines) + "\n"


def _seen(record: Record | None) -> str:
    if record is None or record.trouble:
        return f"not judged | {_cell(record.trouble if record else '')}"
    if not record.seen:
        return f"**nobody{' of its area' if record.area else ''}** |"
    names = list(dict.fromkeys(name.partition("[")[0] for name in record.seen))
    shown = ", ".join(f"`{name.removeprefix('suites/')}`" for name in names[:2])
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"{shown}{more} | {_cell(next(iter(record.seen.values())))}"


def _cell(text: str) -> str:
    short = text if len(text) <= _REASON else text[: _REASON - 3] + "..."
    return short.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _verdicts() -> dict[str, Any]:
    return cache.read_json(VERDICTS) or {}


def _diff(patch: str) -> str:
    return patch.partition("\n---\n")[2]


def _plain() -> Path:
    folder = cache.root() / "bugs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest(files: Iterable[Path]) -> str:
    content = hashlib.sha256()
    for file in files:
        content.update(f"{file.relative_to(ROOT)}\0".encode())
        content.update(hashlib.sha256(file.read_bytes()).digest())
    return content.hexdigest()[:16]
