# SPDX-License-Identifier: GPL-2.0-only
"""How tests are spread over workers: a module's tests of one revision stay together."""

from __future__ import annotations

import re

from xdist.scheduler import LoadScopeScheduling

_ID = re.compile(r"^(?P<module>.+?)::.*?(?:\[(?P<revision>[^\]-]+).*\])?$", re.DOTALL)


def scope(nodeid: str) -> str:
    """Name the group of a node id: its file and, where there is one, its first parameter."""
    match = _ID.match(nodeid)
    if not match:
        return nodeid
    return f"{match['module']}[{match['revision'] or ''}]"


class ModuleRevisionScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """xdist's loadscope, with finer scopes than a module."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)
