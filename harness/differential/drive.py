# SPDX-License-Identifier: GPL-2.0-only
"""Runs a script on a kernel and writes down what is seen."""

from __future__ import annotations

from harness.differential import guest_ops, host_ops
from harness.differential.operations import Operation, Script, Start
from harness.differential.trace import END, Observation, Trace
from harness.differential.world import Fields, World, errno_name
from harness.errors import UsageError
from harness.operations import OperationError
from harness.vm import layout
from harness.vm.errors import GuestError
from harness.vm.host import Host

OPERATIONS = host_ops.OPERATIONS | guest_ops.OPERATIONS

PLACES = (
    *(layout.IMAGE_GPA, layout.CPU_GPA, layout.PAGE_TABLES_GPA, layout.SECRETS_GPA),
    *(layout.MAILBOX_GPA, layout.ghcb(0), layout.SHARED_FREE_GPA),
    *(layout.FREE_GPA + number * layout.PAGE_SIZE for number in range(8)),
    *(0x600000, 0x601000, 0x7FF000, 0x800000, 0xFFF000),
)
"""Pages whose RMP entries are looked at when a script has ended."""


def drive(host: Host, script: Script) -> Trace:
    """Run a script in a VM of its own; TargetError where the kernel does not survive it."""
    unknown = {each.name for each in script.operations} - OPERATIONS.keys()
    if unknown:
        raise UsageError(f"unknown operations: {', '.join(sorted(unknown))}")
    world = World(host, script)
    try:
        seen = [Observation(each, _observe(world, each)) for each in script.operations]
        last = world.rmp(PLACES)
        if script.start is Start.GUEST:
            # Where the kernel is wrong it may be the memory that is: a digest of one word each.
            last |= {f"content {gpa:#x}": world.content(gpa) for gpa in PLACES[7:11]}
    except BaseException:
        world.close()
        raise
    seen.append(Observation(END, last | world.close()))
    return Trace(tuple(seen))


def _observe(world: World, operation: Operation) -> Fields:
    world.begin()
    try:
        return OPERATIONS[operation.name](world, operation)
    except GuestError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    except OperationError as error:
        return {"error": f"{type(error.op).__name__}: {errno_name(error.errno or 0)}"}
