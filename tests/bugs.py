# SPDX-License-Identifier: GPL-2.0-only
"""Seeded bugs of the kernel's SNP code: breakages of a line or two, and the tests that see them.

tests/data/bugs holds one patch each, against linux-source-6.12.  `python -m tests.bugs` builds
the kernel without any, then with each in turn (or with those that are named), runs the suites
of its area on the SNP machine, then the others until one sees it, and writes docs/bugs.md.  A
test sees a bug if it fails or crashes with it and passes without.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harness import kbuild
from harness.errors import BuildError
from harness.report import sanitize
from tests.mutants.mutant import ROOT
from tests.runs import Finished, run

BUGS = ROOT / "tests/data/bugs"
TABLE = ROOT / "docs/bugs.md"
BASE = "linux-source-6.12"
SUITES = ("launch", "psc", "ap_creation", "guest_req", "gmem")
RUN_TIMEOUT = 1800.0

_FIRST = {
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
}
"""Suites that should see the bugs of an area."""

_AREA = re.compile(r"^Area: (\w+)\n\n(.+?)\n---$", re.MULTILINE | re.DOTALL)
_BAD = ("fail", "crash", "error")


@dataclass(frozen=True, slots=True)
class Bug:
    """One patch."""

    name: str
    area: str
    what: str
    """What it breaks, in a sentence."""
    patch: Path


@dataclass(slots=True)
class Verdict:
    """What became of a bug."""

    bug: Bug
    seen_by: list[str] = field(default_factory=list)
    """Tests that fail with it and pass without."""
    trouble: str = ""
    """Why it could not be judged."""


def load(names: Iterable[str] = ()) -> list[Bug]:
    """Read the bugs of those names, or all; ValueError for a patch without its heading."""
    wanted = set(names)
    found = []
    for patch in sorted(BUGS.glob("*.patch")):
        match = _AREA.search(patch.read_text())
        if match is None or match[1] not in _FIRST:
            raise ValueError(f"{patch.name} names no area")
        found.append(Bug(patch.stem, match[1], match[2].replace("\n", " "), patch))
    unknown = wanted - {bug.name for bug in found}
    if unknown:
        raise ValueError(f"no such bug: {', '.join(sorted(unknown))}")
    return [bug for bug in found if not wanted or bug.name in wanted]


def suites_for(bug: Bug) -> list[tuple[str, ...]]:
    """In which order suites are asked: those of the area, then the rest."""
    first = _FIRST[bug.area]
    return [first, tuple(name for name in SUITES if name not in first)]


def bad(finished: Finished) -> set[str]:
    """The tests of a run that did not go well."""
    return {each["id"] for each in finished.results if each["outcome"] in _BAD}


def judge(bug: Bug, good: set[str], folder: Path) -> Verdict:
    """Build the kernel with a bug and ask the suites; `good` are the tests that pass without."""
    verdict = Verdict(bug)
    try:
        kernel = kbuild.build("bug", BASE, bug.patch)
    except BuildError as error:
        verdict.trouble = str(error)
        return verdict
    for suites in suites_for(bug):
        place = folder / f"{bug.name}-{suites[0]}"
        place.mkdir()
        finished = suite_run(kernel.name, suites, place)
        verdict.seen_by = sorted(bad(finished) & good)
        if not verdict.seen_by and not finished.results:
            # Not even a guest: a kernel that does not boot has shown itself, too.
            verdict.trouble = sanitize.line(finished.text[-300:])
        if verdict.seen_by or verdict.trouble:
            break
    return verdict


def suite_run(kernel: str, suites: tuple[str, ...], folder: Path) -> Finished:
    """Run suites on the SNP machine."""
    words = (*suites, "--backend", "vng", "--machine", "snp", "--kernel", kernel)
    return run(*words, folder=folder, timeout=RUN_TIMEOUT)


def table(verdicts: list[Verdict]) -> str:
    """Return the table of who sees what, as Markdown."""
    lines = [
        "<!-- SPDX-License-Identifier: GPL-2.0-only -->",
        "# Seeded bugs of the kernel",
        "",
        "Each is a patch in tests/data/bugs; `.venv/bin/python -m tests.bugs` makes this table.",
        "",
        f"Seen: {sum(bool(each.seen_by) for each in verdicts)} of {len(verdicts)}.",
        "",
        "| bug | area | breaks | seen by |",
        "|---|---|---|---|",
    ]
    for each in verdicts:
        names = [name.removeprefix("suites/") for name in each.seen_by]
        seen = f"{len(names)} tests, `{names[0]}` among them" if names else "**nobody**"
        lines.append(
            f"| {each.bug.name} | {each.bug.area} | {each.bug.what} | {each.trouble or seen} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Judge bugs; 1 where one is not seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.bugs", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="BUG", help="only these")
    options = parser.parse_args(arguments)
    bugs = load(options.names)
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="snptest-bugs-", dir="/var/tmp") as place:
        folder = Path(place)
        plain = kbuild.build("bug-none", BASE)
        (folder / "none").mkdir()
        before = suite_run(plain.name, SUITES, folder / "none")
        good = {each["id"] for each in before.results if each["outcome"] == "pass"}
        print(f"without any: {len(good)} pass, {len(bad(before))} do not", flush=True)
        for bug in bugs:
            verdict = judge(bug, good, folder)
            verdicts.append(verdict)
            seen = f"seen by {len(verdict.seen_by)}" if verdict.seen_by else "NOT SEEN"
            print(f"{bug.name}: {verdict.trouble or seen}", *verdict.seen_by[:3], flush=True)
            if not options.names:
                TABLE.write_text(table(verdicts))
    return 0 if all(each.seen_by for each in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
