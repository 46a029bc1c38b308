# SPDX-License-Identifier: GPL-2.0-only
"""A run's results.jsonl, read as far as it is written.  Who wrote it is not trusted."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.report import sanitize
from harness.report.events import LONGEST_LINE, Line, Lines, decode
from harness.target import Target

FILE = "results.jsonl"
_STAMP = re.compile(r"\d{8}-\d{6}")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel's identity, as far as it is known; "" where it is not."""

    name: str = ""
    release: str = ""
    base: str = ""
    tree: str = ""
    commit: str = ""
    series: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    compiler: str = ""
    build_id: str = ""
    base_commit: str = ""
    base_url: str = ""
    patchset: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """What the first line of a run's results says."""

    key: str
    started: float
    target: Target
    """Its interface may be several; the host of backend local is this machine's name."""
    firmware: str
    harness: str
    label: str
    workers: int | None
    command: tuple[str, ...]
    kernel: Kernel


class Followed:
    """A results.jsonl that may still be written, read as far as it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self._lines = Lines()

    def new(self) -> Iterator[Line]:
        """Yield the lines that have come since the last time."""
        while chunk := self._file.read(1 << 20):
            for line in self._lines.feed(chunk):
                if self._lines.endless:
                    found = f"line {line.number} is huge"
                    raise UserError(f"{self.path} is no file of results: {found}")
                yield line

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def find(path: Path) -> Path:
    """Return the file of results that a folder or a file is; UserError where it is none."""
    found = path / FILE if path.is_dir() else path
    if not found.is_file():
        raise UserError(
            f"{path} holds no results", f"a run's folder has a {FILE}; so does `run --json FILE`"
        )
    return found


def is_written(path: Path) -> bool:
    """Whether a run still writes a file: it holds a lock on it as long as it lives."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def header(path: Path) -> Header:
    """Read the first line; UserError where the file is none of results."""
    try:
        with path.open("rb") as file:
            line = file.readline(LONGEST_LINE)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    event = _start(line)
    if event is None:
        raise UserError(f"{path} is no file of results: its first line does not say what ran")
    own = str(event.get("run", ""))
    # The host of the local backend is the machine that snptest itself runs on.
    here = event.get("node") if event.get("backend") == "local" else None
    built = event.get("built")
    return Header(
        # Files of an older snptest have no key; they are whole, and their content is one.
        key=own if re.fullmatch(r"[0-9a-f]{32}", own) else _digest(path),
        started=_number(event.get("started")) or _began(path),
        target=Target.of_header(_said(event | {"host": event.get("host") or here})),
        firmware=_text(event.get("firmware")),
        harness=_text(event.get("harness")),
        label=_text(event.get("label")),
        workers=int(workers) if (workers := _number(event.get("workers"))) is not None else None,
        command=_texts(event.get("command")),
        kernel=_kernel(_text(event.get("kernel")), built if isinstance(built, dict) else {}),
    )


def _start(line: bytes) -> dict[str, Any] | None:
    """Return what a first line says; None where it is none."""
    with contextlib.suppress(ValueError):
        event = decode(line) if line.endswith(b"\n") else None
        return event.fields if event is not None and event.kind == "start" else None
    return None


def _said(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event's fields as those of a target can be."""
    texts = {name: _text(value) for name, value in event.items()}
    return texts | {"seed": int(_number(event.get("seed")) or 0)}


def _kernel(name: str, built: dict[str, Any]) -> Kernel:
    return Kernel(
        name=name,
        release=_text(built.get("release")),
        base=_text(built.get("base")),
        tree=_text(built.get("tree")),
        commit=_text(built.get("commit")),
        series=_texts(built.get("series")),
        config=_texts(built.get("config")),
        compiler=_text(built.get("compiler")),
        build_id=_text(built.get("build_id")),
        base_commit=_text(built.get("base_commit")),
        base_url=_text(built.get("base_url")),
        patchset=_text(built.get("patchset")),
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _began(path: Path) -> float:
    """Tell from a folder's name when its run began, or from the file when it ended."""
    if match := _STAMP.match(path.parent.name):
        with contextlib.suppress(ValueError, OverflowError):  # digits that are no date
            return time.mktime(time.strptime(match[0], "%Y%m%d-%H%M%S"))
    return path.stat().st_mtime


def _text(value: object) -> str:
    return "" if value is None else sanitize.line(str(value), 300)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_text(each) for each in value[:500]) if isinstance(value, list) else ()


def _number(value: object) -> float | None:
    """Return a number that the tables can hold; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 2**53 else None
