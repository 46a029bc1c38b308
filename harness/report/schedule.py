# SPDX-License-Identifier: GPL-2.0-only
"""How tests are spread over workers: a module's tests of one interface stay together."""

from __future__ import annotations

import re
from typing import Any

from xdist.scheduler import LoadScopeScheduling

_ID = re.compile(r"^(?P<module>.+?)::.*?(?:\[(?P<interface>[^\]-]+).*\])?$", re.DOTALL)


def scope(nodeid: str) -> str:
    """Name the group of a node id: its file and, where there is one, its first parameter."""
    match = _ID.match(nodeid)
    if not match:
        return nodeid
    return f"{match['module']}[{match['interface'] or ''}]"


class ModuleInterfaceScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """xdist's loadscope, with finer scopes than a module."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)

    def _reschedule(self, node: Any) -> None:
        # Of two workers that replace dead ones, the first to be ready makes loadscope (3.8)
        # schedule both, and fail for the one that has not collected.  It is served when it has.
        if node in self.registered_collections:
            super()._reschedule(node)

    def remove_node(self, node: Any) -> str | None:
        """Take a worker's tests back; the one that killed it is not run again.

        loadscope (3.8) hands the whole scope to the next worker, and with it the test that
        kills workers, until it gives up and the rest of the scope is lost.
        """
        units = self.assigned_work[node]
        pending = ((unit, test) for unit in units.values() for test in unit if not unit[test])
        killer: str | None = None
        for unit, test in pending:
            unit[test], killer = True, test
            break
        for name in [name for name, unit in units.items() if all(unit.values())]:
            del units[name]
        super().remove_node(node)
        return killer
