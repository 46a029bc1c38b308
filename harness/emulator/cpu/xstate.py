# SPDX-License-Identifier: GPL-2.0-only
"""The XSAVE area: which component lies where (APM vol. 2, 11.5)."""

from __future__ import annotations

_XSAVE_LEGACY = 0x240
"""Legacy region and header of an XSAVE area (APM vol. 2, 11.5.2)."""

_XSAVE_COMPONENTS = {2: (0x240, 0x100), 5: (0x340, 0x40), 6: (0x380, 0x200), 7: (0x580, 0x400)}
_XSAVE_COMPONENTS |= {9: (0x980, 0x8), 11: (0, 0x10), 12: (0, 0x18)}
"""Offset (standard format) and size of what is behind the header (APM vol. 2, 11.5)."""


def xsave_size(features: int, *, compact: bool) -> int:
    """Bytes of an XSAVE area that holds these components."""
    size = _XSAVE_LEGACY
    for component, (offset, length) in _XSAVE_COMPONENTS.items():
        if features >> component & 1:
            size = size + length if compact else max(size, offset + length)
    return size
