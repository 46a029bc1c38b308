# SPDX-License-Identifier: GPL-2.0-only
"""docs/mutants.md: which breakage of the emulator which tests must catch."""

from __future__ import annotations

from tests.mutants.mutant import all_mutants

HEAD = """\
<!-- SPDX-License-Identifier: GPL-2.0-only -->
# What the suites are known to catch

Each line is a deliberate breakage of one place in the emulator, and the tests of which at least
one fails on it: of the suites, or (`tests/`) the emulator's own, for what no suite reaches.
`python -m tests.mutants` plants each in a copy of the package and proves it (`-k NAME` or
`--suite psc` for a part); `./snptest check` does so for a selection. This page is made by
`python -m tests.mutants --list`.

| breakage | where | caught by |
|---|---|---|
"""


def listing() -> str:
    """The page, from the mutants as they are declared."""
    rows = []
    for mutant in all_mutants():
        tests = ", ".join(f"`{test.removeprefix('suites/')}`" for test in mutant.tests)
        rows.append(f"| {mutant.name} | `{mutant.file.removeprefix('harness/')}` | {tests} |")
    return HEAD + "\n".join(rows) + f"\n\n{len(rows)} breakages.\n"
