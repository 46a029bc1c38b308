# SPDX-License-Identifier: GPL-2.0-only
"""Which kernel runs on a host, and what became of one that was lost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from harness.kbuild import buildid
from harness.kernel import Death
from harness.report import sanitize
from harness.vng.autopsy import Evidence, Kind, judge

CONNECTION_LOST = "connection lost"
HOST_LOST = "host lost"
HOST_SILENT = "host silent"
AGENT_HANGS = "agent hangs"
"""Kinds of death beside those of harness/vng/autopsy.py."""

_NEXT_BOOT = re.compile(r"^(?:\[ *0\.0+\] ?)?Linux version \d", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Boot:
    """Which kernel runs on a host, and since which boot."""

    id: str
    release: str
    version: str
    build_id: str
    """From /sys/kernel/notes; "" where they have none."""
    parameters: tuple[str, ...] = ()
    """The words of its command line."""

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Boot:
        """Read what the host said."""
        names = ("boot_id", "release", "version")
        try:
            notes = bytes.fromhex(str(facts.get("notes", "")))
        except ValueError:
            notes = b""
        boot, release, version = (sanitize.line(str(facts.get(name, "")), 200) for name in names)
        parameters = tuple(str(facts.get("cmdline", "")).split())
        return cls(boot, release, version, buildid.of_notes(notes), parameters)

    def same_kernel(self, other: Boot) -> bool:
        """Whether both are boots of the same build."""
        mine, theirs = (self.release, self.version), (other.release, other.version)
        return mine == theirs and self.build_id == other.build_id

    def __str__(self) -> str:
        return f"{self.release} {self.version} (build id {self.build_id[:12] or 'none'})"


def before_next_boot(console: str) -> str:
    """Return what a console shows up to the first line of the kernel that came next."""
    match = _NEXT_BOOT.search(console)
    return console[: match.start()] if match else console


def judged(words: str) -> Death | None:
    """Say what a kernel's last words tell of its death, None where nothing."""
    death = judge(Evidence(console=words, exit_status=0, shutdown_reason="guest-reset"))
    return death if death.kind != Kind.RESET else None
