# SPDX-License-Identifier: GPL-2.0-only
"""Seeded bugs of the kernel's SNP code: breakages of a line or two, and the tests that see them.

tests/data/bugs holds one patch each, against linux-source-6.12.  `python -m tests.bugs` builds
the kernel without any and runs all suites on the SNP machine, then with each in turn (or with
those that are named): the file that the patch names, the suites of its area, then the others
until one sees it.  A test sees a bug if it fails or crashes with it and passes without.  What
was found is kept, so that what was broken off goes on and bugs can be judged one by one;
docs/bugs.md is written from all of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from harness import kbuild
from harness.errors import BuildError
from harness.report import sanitize
from harness.report.outcome import BOOT
from tests import bug_records as records
from tests.bug_records import AREAS, SUITES, WHOLE, Bug, Record
from tests.runs import Finished, run

BASE = "linux-source-6.12"
RUN_TIMEOUT = 1800.0
ENOUGH = 2
"""After so many failures a suite is not run on: it has seen the bug."""

_BAD = ("fail", "crash", "error")
_TAIL = 300


def good_tests(bugs: Iterable[Bug], folder: Path) -> set[str]:
    """Return the tests that pass without a bug; run what changed since the last time.

    Those of SUITES, and of whole guests what these bugs name: all of `linux` takes hours.
    RuntimeError where a suite has no test that passes: then nothing can be judged.
    """
    good: set[str] = set()
    whole = sorted({bug.first for bug in bugs if bug.area == WHOLE and bug.first})
    for number, suite in enumerate((*SUITES, *whole)):
        passed = records.plain(suite)
        if passed is None:
            kernel = kbuild.build("bug-none", BASE)
            finished = suite_run(kernel.name, (suite,), folder / f"none-{number}")
            passed = [each["id"] for each in finished.results if each["outcome"] == "pass"]
            others = len(finished.results) - len(passed)
            if not any(each["suite"] == BOOT for each in finished.results):
                passed.append(BOOT)
            print(f"without any, {suite}: {len(passed)} pass, {others} do not", flush=True)
            if set(passed) <= {BOOT}:
                raise RuntimeError(finished.text[-2000:])
            records.keep_plain(suite, passed)
        good.update(passed)
    return good


def judge(bug: Bug, good: set[str], folder: Path, *, area: bool = False) -> Record | None:
    """Build the kernel with a bug and ask the suites; `good` are the tests that pass without.

    area: ask only those of its area, and return None where they do not see it.  A bug that only
    whole guests should show is put before the other suites even if it was seen.
    """
    record = Record(bug.digest, records.suites_digest())
    try:
        kernel = kbuild.build("bug", BASE, bug.patch)
    except BuildError as error:
        record.trouble = str(error)
        return record
    for number, suites in enumerate(order(bug)[: -1 if area else None]):
        finished = suite_run(kernel.name, suites, folder / f"{bug.name}-{number}", stop=True)
        bad = [each for each in finished.results if each["outcome"] in _BAD]
        record.seen |= {
            each["id"]: how(each)
            for each in bad
            if (BOOT if each["suite"] == BOOT else each["id"]) in good
        }
        if not finished.results and not record.seen:
            record.trouble = sanitize.line(finished.text[-_TAIL:])
        if record.trouble or (record.seen and (area or bug.area != WHOLE)):
            return record
    return None if area and not record.seen else record


def order(bug: Bug) -> list[tuple[str, ...]]:
    """Return what is asked one after the other: a file, the suites of the area, the rest."""
    if bug.area == WHOLE and bug.first:
        return [(bug.first,), SUITES]
    area = AREAS[bug.area]
    rest = tuple(name for name in SUITES if name not in area)
    return [(bug.first,), area, rest] if bug.first else [area, rest]


def how(result: dict[str, str]) -> str:
    """Return in what way a test saw a bug: its outcome and the first line of the reason."""
    reason = sanitize.line(result.get("reason", "").partition("\n")[0])
    return f"{result['outcome']}: {reason}"


def suite_run(
    kernel: str, suites: tuple[str, ...], folder: Path, *, stop: bool = False
) -> Finished:
    """Run suites on the SNP machine, a kernel on each core."""
    folder.mkdir()
    workers = "1" if ".py" in suites[0] else "auto"
    words = (*suites, "--backend", "vng", "--machine", "snp", "--kernel", kernel, "-n", workers)
    if stop:
        words = (*words, "--maxfail", str(ENOUGH))
    return run(*words, folder=folder, timeout=RUN_TIMEOUT)


def main(arguments: list[str]) -> int:
    """Judge bugs; 1 where one is not seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.bugs", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="BUG", help="only these")
    parser.add_argument("--again", action="store_true", help="also those that are judged already")
    parser.add_argument("--area", action="store_true", help="ask only the suites of its area")
    parser.add_argument("--plain", action="store_true", help="only the kernel without any bug")
    parser.add_argument("--table", action="store_true", help="only write docs/bugs.md")
    parser.add_argument("--left", action="store_true", help="only name those that are not judged")
    options = parser.parse_args(arguments)
    bugs = records.load(options.names)
    if options.left:
        print(*(bug.name for bug in bugs if not records.is_judged(bug)), sep="\n")
        return 0
    if not options.table:
        with tempfile.TemporaryDirectory(prefix="snptest-bugs-", dir="/var/tmp") as place:
            folder = Path(place)
            asked = [bug for bug in bugs if options.again or not records.is_judged(bug)]
            good = good_tests(asked, folder)
            for bug in asked if not options.plain else []:
                record = judge(bug, good, folder, area=options.area)
                if record is None:
                    record = Record(bug.digest, records.suites_digest(), area=True)
                records.keep(bug, record)
                seen = f"seen by {len(record.seen)}" if record.seen else "NOT SEEN"
                print(f"{bug.name}: {record.trouble or seen}", flush=True)
                for test, why in list(record.seen.items())[:3]:
                    print(f"    {test}: {why}", flush=True)
    verdicts = [(bug, records.of(bug)) for bug in bugs]
    if not options.names and not options.plain:
        records.TABLE.write_text(records.table(verdicts))
    return 0 if all(record and record.seen for _, record in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
