# SPDX-License-Identifier: GPL-2.0-only
"""How a command ends other than with success."""

from __future__ import annotations

from harness.uapi.errors import SevFwError


class Refused(Exception):
    """The firmware refuses a command with a status; `why` is for the log.

    `answer` goes into the command buffer all the same.
    """

    def __init__(self, status: SevFwError, why: str, answer: bytes | None = None) -> None:
        super().__init__(f"{status.name}: {why}")
        self.status, self.why, self.answer = status, why, answer


def require(condition: bool, status: SevFwError, why: str) -> None:
    """Refuse the command unless the condition holds."""
    if not condition:
        raise Refused(status, why)
