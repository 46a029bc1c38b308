# SPDX-License-Identifier: GPL-2.0-only
"""Standard output and error that never stop a command: what cannot be written is lost and told.

A terminal goes away, a pipe's reader has seen enough, a disk is full, a descriptor was closed by
whoever started us: none of that is a reason to end a run halfway, or for an exit code that speaks
of the kernel.  Needs nothing but the standard library: it comes before everything else.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from typing import IO, TextIO

from harness.report.outcome import ExitCode

PLAIN = "snptest.plain"
"""Handler of characters that an encoding lacks: ours are simplified, others are escaped."""
_SIMPLE = {"·": ".", "…": "..."}


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError):
        simple = _SIMPLE.get(error.object[error.start])
        if simple is not None:
            return simple, error.start + 1
        error = UnicodeEncodeError(
            error.encoding, error.object, error.start, error.start + 1, error.reason
        )
    return codecs.backslashreplace_errors(error)


codecs.register_error(PLAIN, _plain)


class Outlet(io.FileIO):
    """A descriptor for output; after the first error it takes everything and writes nothing."""

    def __init__(self, number: int, *, closed: bool = False) -> None:
        super().__init__(number, "w", closefd=False)
        self.error: OSError | None = None
        """Why output was lost."""
        self._closed = closed

    def write(self, data: object) -> int:
        """Write all of it, or lose it; return its size."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        size = view.nbytes
        try:
            if self._closed:
                raise OSError(errno.EBADF, "it is closed")
            while view and self.error is None:
                written = super().write(view)
                if written is None:  # somebody who shares it made it non-blocking
                    select.select([], [self], [])
                view = view[written or 0 :]
        except OSError as error:
            self.error = error
        return size


def guard() -> None:
    """Put outlets in the place of standard output and error; open descriptors that are closed.

    One that stays closed would be taken by the next file that is opened, and written to by every
    child process.
    """
    was_closed = [_reopen(number) for number in range(3)]
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  the process's own
    sys.stdout = _text(1, sys.stdout, closed=was_closed[1])
    sys.stderr = _text(2, sys.stderr, closed=was_closed[2])


def _reopen(number: int) -> bool:
    """Open a closed descriptor on /dev/null; return whether it was closed."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
        return True
    return False


def _text(number: int, before: TextIO | None, *, closed: bool) -> TextIO:
    """Return a stream as Python made it, on an outlet; what an encoding lacks is escaped."""
    return io.TextIOWrapper(
        io.BufferedWriter(Outlet(number, closed=closed)),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors=PLAIN,
        line_buffering=number == 2 or bool(getattr(before, "line_buffering", False)),
        write_through=bool(getattr(before, "write_through", False)),
    )


def lost(stream: IO[str] | None = None) -> OSError | None:
    """Flush a stream (standard output); return why it lost output, None where it did not.

    A pipe whose reader left lost nothing that anybody wanted.
    """
    stream = stream or sys.stdout
    stream.flush()
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    error = raw.error if isinstance(raw, Outlet) else None
    return None if error is None or error.errno == errno.EPIPE else error


def document(text: str) -> None:
    """Write a report to standard output; OSError where it did not get there."""
    sys.stdout.write(text)
    error = lost()
    if error is not None:
        raise OSError(error.errno, error.strerror, "standard output")


def code_after(code: int) -> int:
    """Return the code to exit with: BROKEN where output was lost, and say so."""
    error = lost()
    if error is not None and code < 128:
        print(f"snptest: cannot write to standard output: {error.strerror}", file=sys.stderr)
        code = ExitCode.BROKEN
    lost(sys.stderr)
    return code
