# SPDX-License-Identifier: GPL-2.0-only
"""What the subject of a patch mail says: "[PATCH RFC v3 02/10] KVM: one" and its relatives."""

from __future__ import annotations

import re
from dataclasses import dataclass

_REPLY = re.compile(r"(?i)^(?:re|aw|antw|sv|vs|fwd?|回复|答复)\s*(?:\[\d+\])?\s*:|^\w{2,4}:\s*\[")
_BRACKETS = re.compile(r"^\s*\[([^\]]*)\]\s*")
_GLUED = re.compile(r"(?i)^(.*[a-z])(v\d+(?:\.\d+)?)$")
_VERSION = re.compile(r"(?i)v(\d{1,4})(?:\.(\d{1,4}))?")
_COUNT = re.compile(r"(\d{1,4})/(\d{1,4})")

Version = tuple[int, int]
"""Of a series: v3 is (3, 0), the odd v3.1 is (3, 1)."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject taken apart."""

    text: str
    """What stands behind the brackets."""
    reply: bool = False
    rfc: bool = False
    resend: bool = False
    version: Version = (1, 0)
    number: int | None = None
    """n of n/m; None where the patch is not numbered."""
    total: int | None = None
    """m of n/m."""
    dated: bool = False
    """Whether the version stands there; v1 is what is meant otherwise."""

    @property
    def label(self) -> str:
        """The version as people write it: "v3", "RFC v1", "v1 RESEND"."""
        major, minor = self.version
        name = f"v{major}.{minor}" if minor else f"v{major}"
        return f"{'RFC ' * self.rfc}{name}{' RESEND' * self.resend}"


def parse(raw: str) -> Subject:
    """Take a subject apart; what is in no brackets at its beginning says nothing."""
    reply = _REPLY.match(raw) is not None
    rest = raw[raw.index("[") :] if reply and "[" in raw else raw
    rfc = resend = dated = False
    version: Version = (1, 0)
    number = total = None
    while match := _BRACKETS.match(rest):
        for word in _words(match[1]):
            lower = word.lower()
            if count := _COUNT.fullmatch(word):
                number, total = int(count[1]), int(count[2])
            elif found := _VERSION.fullmatch(word):
                version, dated = (int(found[1]), int(found[2] or 0)), True
            elif lower.startswith("rfc"):
                rfc = True
            elif lower.startswith(("resend", "repost")):
                resend = True
        rest = rest[match.end() :]
    return Subject(rest.strip(), reply, rfc, resend, version, number, total, dated)


def _words(bracketed: str) -> list[str]:
    """Split what is in brackets; "PATCHv3" and "PATCH-v3" are two words."""
    found: list[str] = []
    for word in re.split(r"[\s,;:]+", bracketed):
        glued = _GLUED.match(word.replace("-", "").replace("_", ""))
        found += [glued[1], glued[2]] if glued else [word]
    return found
