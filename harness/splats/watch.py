# SPDX-License-Identifier: GPL-2.0-only
"""A running kernel's log, followed: what came since a mark, each splat told once."""

from __future__ import annotations

import re

from harness.kernel import Kernel
from harness.operations import TargetError
from harness.splats.extract import Splat, find_splats

_ANCHOR_LINES = 30
_RELEASE = re.compile(r"Linux version ([\w.+~-]{1,100}) ")
_FIRMWARE = re.compile(r"ccp \S+: SEV-SNP API:([\d.]{1,20} build:\d{1,10})")


class LogWatch:
    """Follows the log of one kernel.

    A mark is the end of what was read last, not the log's end at that moment: what is logged
    between two tests belongs to the second one and is not lost.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.release = ""
        """uname -r, from the log's first lines; empty where they do not say."""
        self.firmware = ""
        """API version and build of the PSP's SEV-SNP, as the ccp driver logs them at boot."""
        self._start = 0
        self._read = ""
        self._told = 0
        self._last = ""

    @property
    def last(self) -> str:
        """What `read` gave last: asking a kernel that hangs again costs its whole deadline."""
        return self._last

    def mark(self) -> None:
        """Begin anew behind what was read last."""
        self._start = len(self._read)
        self._told = 0
        self._last = ""

    def read(self) -> str:
        """Return what was logged since the mark."""
        try:
            log = self.kernel.log()
        except TargetError as error:
            self._last = f"[the kernel log could not be read: {error}]\n"
            return self._last
        if not self.release and (match := _RELEASE.search(log, 0, 4096)):
            self.release = match[1]
            if found := _FIRMWARE.search(log):
                self.firmware = found[1]
        self._start = self._continuation(log)
        self._read = log
        self._last = log[self._start :]
        return self._last

    def new_splats(self) -> list[Splat]:
        """Return the splats since the mark that were not told yet."""
        found = find_splats(self.read())
        new = found[self._told :]
        self._told = max(self._told, len(found))
        return new

    def _continuation(self, log: str) -> int:
        """Find in the log as it is now where the mark is.

        The log's buffer forgets its beginning when it is full, and that of a dead kernel comes
        from its console, where every line ends otherwise and some are missing.
        """
        before = self._read[: self._start]
        if log.startswith(before):
            return self._start
        for line in reversed(before.splitlines()[-_ANCHOR_LINES:]):
            line = line.strip()
            at = log.rfind(line) if len(line) > 20 else -1
            if at >= 0:
                newline = log.find("\n", at)
                return newline + 1 if newline >= 0 else len(log)
        return 0
