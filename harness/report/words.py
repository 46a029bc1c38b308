# SPDX-License-Identifier: GPL-2.0-only
"""Numbers of things, in English."""

from __future__ import annotations


def counted(number: int, thing: str, things: str = "") -> str:
    """Return "1 test", "2 tests"; `things` is a plural that takes more than an s."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"
