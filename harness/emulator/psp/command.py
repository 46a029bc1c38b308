# SPDX-License-Identifier: GPL-2.0-only
"""How the firmware's dispatcher runs a command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """How a command is run: what it returns replaces the start of its buffer."""

    run: Callable[[bytes], bytes | None]
    length: int = 0
    snp: bool = False
    """Whether SNP has to be initialised."""
    writes: bool = False
    """Whether the buffer is written, and so has to be a Firmware page under SNP."""
