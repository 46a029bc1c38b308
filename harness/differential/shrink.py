# SPDX-License-Identifier: GPL-2.0-only
"""Makes a script that shows a difference as short as it gets, by delta debugging (ddmin)."""

from __future__ import annotations

from collections.abc import Callable

from harness.differential.operations import Operation, Script


def shrink(script: Script, shows: Callable[[Script], bool], *, budget: int = 400) -> Script:
    """Leave operations out while the difference stays; `shows` runs a script and says so.

    No single operation can be left out of the result, unless the budget of runs is used up.
    """
    operations = script.operations
    parts, runs = 2, 0
    while len(operations) >= 2:
        size = -(-len(operations) // parts)
        for first in range(0, len(operations), size):
            if runs >= budget:
                return script.with_operations(operations)
            runs += 1
            rest = operations[:first] + operations[first + size :]
            if shows(script.with_operations(rest)):
                operations, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(operations))
    return _simpler(script.with_operations(operations), shows, budget - runs)


def _simpler(script: Script, shows: Callable[[Script], bool], budget: int) -> Script:
    """Leave arguments out, that is make them zero or what they are by default."""
    operations = list(script.operations)
    for index, operation in enumerate(operations):
        for name in tuple(operation.args):
            if budget <= 0:
                return script.with_operations(tuple(operations))
            budget -= 1
            left = {key: v for key, v in operations[index].args.items() if key != name}
            tried = [*operations]
            tried[index] = Operation(operation.name, left)
            if shows(script.with_operations(tuple(tried))):
                operations = tried
    return script.with_operations(tuple(operations))
