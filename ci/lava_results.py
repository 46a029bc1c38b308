# SPDX-License-Identifier: GPL-2.0-only
"""Reports a KTAP file to LAVA: a test case for each line of results, by `lava-test-case`.

Needs nothing but Python: it runs on the board.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

RESULT = re.compile(r"^\s*(ok|not ok) \d+ (?:- )?(.+?)(?: # (\w+).*)?$", re.ASCII)


def cases(text: str) -> list[tuple[str, str]]:
    """Return (name, pass | fail | skip) of each result; what sums up others is left out."""
    found = []
    lines = text.splitlines()
    for line, before in zip(lines, ["", *lines], strict=False):
        match = RESULT.match(line)
        # The result of a subtest's plan stands behind its deeper results.
        if not match or _depth(before) > _depth(line):
            continue
        word, name, directive = match.groups()
        outcome = "skip" if directive == "SKIP" else "pass" if word == "ok" else "fail"
        found.append((re.sub(r"[^A-Za-z0-9._:/-]", "_", name), outcome))
    return found


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def main(path: str) -> int:
    """Report a file; 1 where it has no results."""
    found = cases(Path(path).read_text(errors="replace"))
    for name, outcome in found:
        subprocess.run(["lava-test-case", name, "--result", outcome], check=True, timeout=60)
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
