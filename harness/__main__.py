# SPDX-License-Identifier: GPL-2.0-only
"""`python -m harness`: what ./snptest starts once its environment stands."""

import sys

from harness.cli import faults, streams

ABORT = 128
"""Ends `git bisect run`, which takes every lower code but 0 and 125 as a bad revision."""


def start() -> int:
    """Run the command line; whatever happens, exit code 1 says that a test failed."""
    streams.guard()
    step = sys.argv[1:2] == ["bisect-step"]
    try:
        if sys.flags.optimize:
            print("snptest: Python's -O drops assertions, and so verdicts", file=sys.stderr)
            print("  hint: unset PYTHONOPTIMIZE", file=sys.stderr)
            return ABORT if step else 2
        from harness.cli.main import main

        code = main()
    except BaseException as error:  # noqa: BLE001  Python would exit with 1
        code = faults.code_of(error)
        code = code if code >= ABORT or not step else ABORT
    after = streams.code_after(code)
    return code if step else after


if __name__ == "__main__":
    sys.exit(start())
