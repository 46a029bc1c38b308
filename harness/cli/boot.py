# SPDX-License-Identifier: GPL-2.0-only
"""`snptest boot`: a built kernel, for one command or for a look around."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from harness import kbuild
from harness.cli.machine import need_machine
from harness.errors import UsageError
from harness.interrupts import by_sigterm
from harness.vng.accel import slowness
from harness.vng.kinds import STOCK
from harness.vng.machine import Setup
from harness.vng.shell import explore, run_in
from harness.vng.snp import choose


def boot(
    name: str,
    command: Sequence[str],
    machine: str | None,
    memory: str,
    cpus: int,
    parameters: tuple[str, ...],
    timeout: float,
) -> int:
    """Boot a kernel; return the exit status of the command, or of the shell."""
    if machine is not None:
        need_machine(machine)
    kernel = kbuild.get(name)
    kind = choose(machine, kernel)
    setup = Setup(kernel.bzimage, kind, memory, cpus, parameters)
    # Where standard error is no terminal it is the command's alone.
    if kind is STOCK and sys.stderr.isatty() and (slow := slowness()):
        print(slow, file=sys.stderr)
    if not command:
        if not sys.stdin.isatty() or not sys.stdout.isatty():
            raise UsageError(
                "a shell in the kernel needs a terminal", f"snptest boot {name} -- COMMAND"
            )
        return explore(kernel, setup)
    try:
        with by_sigterm():
            return run_in(kernel, setup, command, timeout)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
