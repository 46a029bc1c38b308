# SPDX-License-Identifier: GPL-2.0-only
"""Reports a KTAP file to LAVA: a test case for each line of results, by `lava-test-case`.

    lava_results.py results.ktap [EXIT CODE OF THE RUN]

Needs nothing but Python: it runs on the board.  LAVA knows pass, fail, skip and unknown:

    pass                    pass
    fail, crash             fail
    xfail, a known issue    fail: the kernel answered wrongly, though that is no news
    error, of the harness   unknown: it says nothing about the kernel
    skip                    skip

One more case, snptest-run, passes where the run came to its end (exit code 0 or 1) and the file
has all results that it announces: without it, few results look like few tests.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

RESULT = re.compile(r"^ *(ok|not ok) \d+ (?:- )?(.+?)(?: # (\w+).*)?$", re.ASCII)
PLAN = re.compile(r"^ *1\.\.(\d+)$", re.ASCII)
RUN = "snptest-run"
BROKEN = 3


@dataclass
class _Block:
    """A test and its subtests, by their indentation."""

    depth: int
    announced: int = 0
    seen: int = 0

    @property
    def whole(self) -> bool:
        return self.seen == self.announced


def read(text: str) -> tuple[list[tuple[str, str]], bool]:
    """Return (name, pass | fail | skip | unknown) of each result, and whether none is missing.

    What sums up subtests is left out.
    """
    found: list[tuple[str, str]] = []
    blocks: list[_Block] = []
    whole = True
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip(" "))
        if line.lstrip().startswith("KTAP version"):
            blocks.append(_Block(depth))
        elif blocks and (plan := PLAN.match(line)):
            blocks[-1].announced = int(plan[1])
        elif blocks and (match := RESULT.match(line)):
            parent = blocks[-1].depth > depth
            while blocks[-1].depth > depth:
                whole &= blocks.pop().whole
            blocks[-1].seen += 1
            if not parent:
                found.append((match[2], _outcome(match[1], match[3])))
    whole &= len(blocks) == 1 and blocks[0].whole
    called = identifiers(name for name, _ in found)
    return [(name, outcome) for name, (_, outcome) in zip(called, found, strict=True)], whole


def _outcome(word: str, directive: str | None) -> str:
    if directive == "SKIP":
        return "skip"
    if directive == "ERROR":
        return "unknown"
    return "fail" if directive == "XFAIL" or word == "not ok" else "pass"


def identifiers(names: Iterable[str]) -> list[str]:
    """Return names as LAVA takes them (no blanks; it makes _ of /), still different ones."""
    clean = [_clean(name) for name in names]
    taken, seen, found = set(clean), Counter[str](), []
    for name in clean:
        seen[name] += 1
        each = name
        while seen[name] > 1 and (each := f"{name}:{seen[name]}") in taken:
            seen[name] += 1
        taken.add(each)
        found.append(each)
    return found


def _clean(name: str) -> str:
    dotted = re.sub(r"\.py::|::|/", ".", name)
    open_ended = re.sub(r"\](?=$|:)", "", dotted)  # of parameters
    return re.sub(r"[^A-Za-z0-9._:-]+", "_", open_ended)


def main(path: str, code: str = "0") -> int:
    """Report a file; 3 where LAVA did not take it, or the run is not whole."""
    try:
        cases, whole = read(Path(path).read_text(errors="replace"))
    except OSError as error:
        print(f"lava_results: cannot read {path}: {error.strerror}", file=sys.stderr)
        cases, whole = [], False
    whole = whole and bool(cases) and code in ("0", "1")
    for name, outcome in [*cases, (RUN, "pass" if whole else "fail")]:
        try:
            subprocess.run(["lava-test-case", name, "--result", outcome], check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"lava_results: {error}", file=sys.stderr)
            return BROKEN
    return 0 if whole else BROKEN


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if len(sys.argv) == 2 else 2)
    sys.exit(main(*sys.argv[1:]))
