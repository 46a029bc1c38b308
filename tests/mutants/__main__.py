# SPDX-License-Identifier: GPL-2.0-only
"""Run the mutants: python -m tests.mutants [-k NAME] [--suite psc] [-n 2] [--list]."""

from __future__ import annotations

import argparse
import concurrent.futures
import sys

from tests.mutants.listing import listing
from tests.mutants.mutant import all_mutants
from tests.mutants.runner import judge


def main() -> int:
    """Judge the chosen mutants; 1 where one survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("-k", default="", help="only mutants whose name holds this text")
    parser.add_argument("--suite", default="", help="only mutants whose tests are of this suite")
    parser.add_argument("-n", type=int, default=2, help="how many at once (default 2)")
    parser.add_argument("--list", action="store_true", help="print docs/mutants.md, run nothing")
    options = parser.parse_args()
    if options.list:
        print(listing(), end="")
        return 0
    prefix = "suites/" if options.suite else ""
    chosen = [
        mutant
        for mutant in all_mutants()
        if options.k in mutant.name
        and any(f"{prefix}{options.suite}" in test for test in mutant.tests)
    ]
    if not chosen:
        parser.error("no such mutant")
    survivors = 0
    with concurrent.futures.ThreadPoolExecutor(options.n) as pool:
        for mutant, verdict in zip(chosen, pool.map(judge, chosen), strict=True):
            survivors += not verdict.caught
            state = "caught  " if verdict.caught else "SURVIVED"
            print(f"{state} {mutant.name}: {verdict.why}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
