# SPDX-License-Identifier: GPL-2.0-only
"""What the SNP machine cannot run, of the tests that the emulator runs: `python -m tests.skips`.

Runs all suites on both, on interface merged and the distribution's kernel, and writes
docs/skips.md: every test that passes on the emulator and is skipped on the machine, by reason.
1 where fewer than 95% run, or one does neither pass nor skip there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.places import ROOT
from harness.report.outcome import Outcome

PAGE = ROOT / "docs/skips.md"
BAR = 0.95
TIMEOUT = 3600.0
INTERFACE = "merged"
SIDES = {"emulator": ["--interface", INTERFACE], "machine": ["--machine", "snp"]}
HEAD = """<!-- SPDX-License-Identifier: GPL-2.0-only -->
# What the SNP machine cannot run

Of the tests that pass on the emulator (interface `{interface}`), these are skipped on the SNP
machine with the distribution's kernel, {release}: {skipped} of {all}, so that {share:.1%} run. This
page is made by `python -m tests.skips`.
"""


def plain(test: str) -> str:
    """Name a test without what it ran on: `a.py::test_b[vng-0]` is `a.py::test_b[0]`."""
    return re.sub(
        rf"\[(?:vng|{INTERFACE})(?:-([^]]*))?\]$", lambda found: _brackets(found[1]), test
    )


def _brackets(parameters: str | None) -> str:
    return f"[{parameters}]" if parameters else ""


def skipped(
    emulator: Mapping[str, Mapping[str, Any]], machine: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Return the tests by reason, the most frequent first; both sides are by plain names."""
    reasons = defaultdict(list)
    for name, result in emulator.items():
        there = machine.get(name, {"outcome": Outcome.SKIP, "reason": "there is no such test"})
        if result["outcome"] == Outcome.PASS and there["outcome"] == Outcome.SKIP:
            reasons[str(there["reason"])].append(name)
    return dict(sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])))


def render(reasons: Mapping[str, list[str]], passed: int, release: str) -> str:
    """Return the page; `passed` is how many tests pass on the emulator."""
    count = sum(map(len, reasons.values()))
    share = 1 - count / passed
    lines = [
        HEAD.format(interface=INTERFACE, release=release, skipped=count, all=passed, share=share)
    ]
    for reason, names in reasons.items():
        families: dict[str, int] = defaultdict(int)
        for name in names:
            families[name.partition("[")[0].removeprefix("suites/")] += 1
        lines.append(f"## {reason}\n")
        for name, times in sorted(families.items()):
            lines.append(f"* `{name}`" + (f" ({times} parameters)" if times > 1 else ""))
        lines.append("")
    return "\n".join(lines)


def read(path: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """Read a run's JSON lines: results by plain name, and the kernel's release."""
    results, release = {}, ""
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record["event"] == "result":
            results[plain(record["id"])] = record
        elif record["event"] == "about":
            release = record.get("release", release)
    return results, release


def _run(words: list[str], output: Path) -> None:
    subprocess.run(
        [str(ROOT / "snptest"), "run", *words, "--json", str(output)],
        env=os.environ | {"SNPTEST_HISTORY": "", "SNPTEST_RESULTS": str(output.parent)},
        timeout=TIMEOUT,
        check=False,  # what fails is in the results
    )


def main() -> int:
    """Run both sides and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.skips",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for side in SIDES:
        parser.add_argument(
            f"--{side}", type=Path, metavar="FILE", help="results that are there (JSON lines)"
        )
    given = vars(parser.parse_args())
    sides = {}
    with tempfile.TemporaryDirectory(prefix="snptest-skips-") as folder:
        for side, words in SIDES.items():
            path = given[side] or Path(folder) / f"{side}.jsonl"
            if not given[side]:
                _run(words, path)
            sides[side] = read(path)
    emulator, machine = sides["emulator"][0], sides["machine"][0]
    passed = sum(each["outcome"] == Outcome.PASS for each in emulator.values())
    reasons = skipped(emulator, machine)
    PAGE.write_text(render(reasons, passed, sides["machine"][1]))
    fine = (Outcome.PASS, Outcome.SKIP, Outcome.XFAIL)
    broken = [name for name, each in machine.items() if each["outcome"] not in fine]
    for name in broken:
        print(f"{name}: {machine[name]['outcome']} on the machine", file=sys.stderr)
    share = 1 - sum(map(len, reasons.values())) / passed
    print(f"{share:.1%} of {passed} tests run on the machine: {PAGE.relative_to(ROOT)}")
    return int(bool(broken) or share < BAR)


if __name__ == "__main__":
    raise SystemExit(main())
