# SPDX-License-Identifier: GPL-2.0-only
"""Places in source code for the symbols of a trace, by the kernel's own decode_stacktrace.sh.

The script is not made for hostile input: it puts a symbol's name into an awk program and its
offset into shell arithmetic, both of which can run commands, and a trace is whatever the
target printed.  So it never sees the trace.  It gets symbols that match a strict grammar, one
a line and numbered, and its answers are put back where the symbols stood.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.host_packages import ensure_packages
from harness.report import sanitize

DEADLINE = 60.0
"""Seconds for one trace; a symbol costs an nm and an addr2line over vmlinux."""
MAX_SYMBOLS = 80
MAX_OUTPUT = 256 * 1024
PACKAGES = {"addr2line": "binutils", "awk": "mawk", "bash": "bash"}

# %pS and %pB in lib/vsprintf.c (6.12): name+0x1/0x2, and the module in brackets, which may
# have its build id behind it.  Names that a compiler suffixes have dots.
_SYMBOL = re.compile(
    r"(?<![\w.$])(?P<symbol>[A-Za-z_][\w.]{0,160}\+0x[0-9a-f]{1,8}/0x[0-9a-f]{1,8})(?![\w.])"
    r"(?: \[(?P<module>[A-Za-z0-9][\w-]{0,55})(?: [0-9a-f]{16,40})?\])?",
    re.ASCII,
)
# A symbol whose file is known tells where the source was.  The script's own way to find that
# out (base path "auto") fails where ccache gives objects of several build directories.
_LANDMARK = ("kernel_init+0x0/0x1", "")
_LANDMARK_FILE = "/init/main.c"
_ANSWER = re.compile(r"@(\d{1,4}) [^ ]+ \((.{1,2000})\)[^()]*$")


@dataclass(frozen=True, slots=True)
class Symbols:
    """Where a kernel's debug information is."""

    vmlinux: Path
    modules: Path | None
    """Folder with unstripped modules."""
    script: Path | None
    """scripts/decode_stacktrace.sh of the same tree."""


def decode(trace: str, symbols: Symbols, *, deadline: float = DEADLINE) -> str:
    """Return the trace with file:line behind its symbols; raw and saying why where that fails."""
    try:
        return _put_back(trace, _places(trace, symbols, deadline))
    except (UserError, OSError, subprocess.SubprocessError) as error:
        return f"{trace}\n[not symbolised: {sanitize.line(_why(error), 200)}]"


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"decode_stacktrace.sh did not end within {error.timeout:g} s"
    return str(error)


def _places(trace: str, symbols: Symbols, deadline: float) -> dict[tuple[str, str], str]:
    """Ask the script about every symbol of the trace, once."""
    wanted = list(dict.fromkeys(_key(match) for match in _SYMBOL.finditer(trace)))[:MAX_SYMBOLS]
    if not wanted:
        return {}
    if symbols.script is None or not symbols.script.is_file():
        raise UserError("the kernel's scripts/decode_stacktrace.sh is not there")
    if not symbols.vmlinux.is_file():
        raise UserError(f"{symbols.vmlinux} is not there")
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
    if missing:
        ensure_packages(missing, "for symbolising traces")
    asked = [*wanted, _LANDMARK]
    questions = "".join(
        f"@{number} {symbol}{f' [{module}]' if module else ''}\n"
        for number, (symbol, module) in enumerate(asked)
    )
    command = ["bash", str(symbols.script), str(symbols.vmlinux), "/"]
    if symbols.modules is not None:
        command.append(str(symbols.modules))
    answers: dict[tuple[str, str], str] = {}
    for line in _run(command, questions, deadline).splitlines():
        match = _ANSWER.match(line)
        if match and int(match[1]) < len(asked):
            answers[asked[int(match[1])]] = sanitize.line(match[2], 600)
    root = _root(answers.pop(_LANDMARK, ""))
    if not answers:
        raise UserError("decode_stacktrace.sh found none of the symbols in this vmlinux")
    return {key: _short(places, root) for key, places in answers.items()}


def _root(landmark: str) -> str:
    """Return where the source was, from the place of a symbol in a file that is known."""
    path, found, _ = landmark.partition(_LANDMARK_FILE)
    return posixpath.normpath(path) + "/" if found and path.startswith("/") else ""


def _short(places: str, root: str) -> str:
    """Name files from the source's root on; an inlined function has a place for each caller."""
    paths = (posixpath.normpath(word) if word.startswith("/") else word for word in places.split())
    return " ".join(path.removeprefix(root) for path in paths)


def _run(command: list[str], questions: str, deadline: float) -> str:
    """Run the script in a process group of its own, which ends with the deadline."""
    # LLVM= and CROSS_COMPILE= would change its tools, DEBUGINFOD_URLS= ask the network.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as sink:
        source.write(questions.encode())
        source.seek(0)
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=sink,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            process.wait(deadline)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        sink.seek(0)
        return sink.read(MAX_OUTPUT).decode(errors="replace")


def _put_back(trace: str, places: dict[tuple[str, str], str]) -> str:
    def with_place(match: re.Match[str]) -> str:
        place = places.get(_key(match))
        return f"{match.group()} ({place})" if place else match.group()

    return _SYMBOL.sub(with_place, trace) if places else trace


def _key(match: re.Match[str]) -> tuple[str, str]:
    return match["symbol"], match["module"] or ""
