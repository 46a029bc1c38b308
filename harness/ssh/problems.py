# SPDX-License-Identifier: GPL-2.0-only
"""What keeps us from a host, and may pass: a host that boots is tried again."""

from __future__ import annotations

from harness.errors import HostError


class Unreachable(HostError):
    """There is no connection to the host now; there may be one later."""

    def __init__(self, message: str, hint: str = "", *, refused: bool = False) -> None:
        super().__init__(message, hint)
        self.refused = refused
        """Whether the host's kernel answers, and says that nobody listens."""


class NotLetIn(HostError):
    """The host knows neither the user nor any of the keys; while it boots, it may not yet."""
