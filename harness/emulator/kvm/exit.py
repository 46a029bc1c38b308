# SPDX-License-Identifier: GPL-2.0-only
"""What the handler of an exit decides: run the guest on, or return to userspace."""

from __future__ import annotations

from typing import Final

RESUME: Final = True
LEAVE: Final = False
