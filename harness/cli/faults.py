# SPDX-License-Identifier: GPL-2.0-only
"""What is said, and which code is exited with, where a command ends by an exception.

Python's own answer to one that nobody caught is exit code 1, which is a word about the kernel.
Needs nothing but the standard library: other packages may be what is missing.
"""

from __future__ import annotations

import errno
import sys
import traceback
from pathlib import Path

from harness.errors import UsageError, UserError
from harness.report.outcome import ExitCode

INTERRUPTED = 130
"""As shells have it: 128 + SIGINT."""
_OURS = Path(__file__).resolve().parents[1].name
_SURROUNDINGS = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    )
)
"""Errors that are the machine's wherever they come up."""


def code_of(error: BaseException) -> int:
    """Tell of what ended a command, on standard error; return the code to exit with, never 1."""
    match error:
        case UserError():
            _say(error.message, error.hint)
            return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.BROKEN
        case KeyboardInterrupt():
            return INTERRUPTED
        case SystemExit():
            # Our commands say what they found in other ways: 1 is a library's.
            meant = error.code in (None, 0, ExitCode.USAGE)
            if isinstance(error.code, str):
                _say(error.code)
            return int(str(error.code or 0)) if meant else ExitCode.BROKEN
        case MemoryError():
            _say("there is not enough memory", "close other programs, or use fewer workers: -n 1")
        case OSError() if error.errno in _SURROUNDINGS:
            what = f": {error.filename}" if error.filename else ""
            _say(f"{error.strerror}{what}", "what was done before that is kept")
        case ModuleNotFoundError() if (error.name or "").partition(".")[0] != _OURS:
            _say(
                f"the Python environment lacks the module {error.name}",
                "remove the folder .venv (or SNPTEST_VENV): ./snptest makes it anew",
            )
        case _:
            traceback.print_exception(error, file=sys.stderr)
            first = next(iter(str(error).splitlines()), "")
            _say(
                f"internal error: {type(error).__name__}{': ' if first else ''}{first}",
                "this is snptest's own fault and says nothing about the kernel; "
                "what to report stands above",
            )
    return ExitCode.BROKEN


def _say(message: str, hint: str = "") -> None:
    print(f"snptest: {message}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)
