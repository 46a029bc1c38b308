# SPDX-License-Identifier: GPL-2.0-only
"""The one place where text from a target is made safe for every report.

A kernel log holds whatever the kernel wrote: escape sequences, NULs, half UTF-8.  XML has no
way to hold most control characters, a terminal obeys them, KTAP is made of lines.
"""

from __future__ import annotations

import re
import unicodedata

# ECMA-48 control sequences, operating system commands, and two-character escapes.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]",
    re.DOTALL | re.MULTILINE,
)
# Left over after that: C0 but tab and newline, DEL, C1, surrogates, and what XML 1.0 (section
# 2.2) excludes; also line and paragraph separators and the direction overrides that can make a
# line read as another (Unicode TR 36).
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
    "|["
    + "".join(chr(plane << 16 | low) for plane in range(1, 17) for low in (0xFFFE, 0xFFFF))
    + "]"
)


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def text(raw: str | bytes) -> str:
    """Make text safe everywhere: escape sequences go, control characters become visible."""
    if isinstance(raw, bytes):
        raw = raw.decode("utf-8", errors="backslashreplace")
    raw = raw.replace("\r\n", "\n")
    return _UNSAFE.sub(_visible, _ESCAPES.sub("", raw))


def line(raw: str | bytes, width: int = 0) -> str:
    """Return the text as one safe line, cut to `width` columns where that is not 0."""
    flat = " ".join(text(raw).split())
    if width and len(flat) > width:
        flat = flat[: width - 1].rstrip() + "…"
    return flat


def address(url: str) -> str:
    """Return an address, or text with some, without passwords: nobody else's business.

    Of http addresses the user goes, too: it may be a token.
    """
    url = re.sub(r"(https?://)[^/@\s]+@", r"\1", url)
    return re.sub(r"(\w://[^/@:\s]+):[^/@\s]*@", r"\1@", url)


def tail(raw: str | bytes, limit: int = 64 * 1024) -> str:
    """Return the safe text's last `limit` characters, saying how much was left out."""
    safe = text(raw)
    if len(safe) <= limit:
        return safe
    return f"[{len(safe) - limit} characters before this left out]\n{safe[-limit:]}"


def width(safe: str) -> int:
    """Columns that a safe line takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in safe)
