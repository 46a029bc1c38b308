# SPDX-License-Identifier: GPL-2.0-only
"""Traces of the emulator, a line for each seed: python -m harness.differential SEED COUNT LENGTH.

For comparing two trees of this project with each other.
"""

from __future__ import annotations

import argparse

from harness.differential.generate import generate
from harness.differential.session import emulate


def main() -> None:
    """Print the traces."""
    parser = argparse.ArgumentParser(prog="harness.differential", description=__doc__)
    for name in ("seed", "count", "length"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    for seed in range(options.seed, options.seed + options.count):
        print(emulate(generate(seed, options.length)).encode(), flush=True)


if __name__ == "__main__":
    main()
