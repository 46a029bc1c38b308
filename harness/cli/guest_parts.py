# SPDX-License-Identifier: GPL-2.0-only
"""What whole guests of a run are made of: --firmware, --guest-kernel, --guest-qemu."""

from __future__ import annotations

from dataclasses import replace

from harness.errors import UsageError
from harness.target import Target

SUITE = "linux"
"""The suite that has such guests."""
MEMORY = "6G"
"""Of the machine that they run on, where nothing else is asked for."""


def check(target: Target, used: bool) -> None:
    """Raise UsageError for a guest's part where no suite uses it."""
    for name in target.guest_parts() if not used else ():
        raise UsageError(
            f"{name} is for the suite {SUITE}, which is not among those that run",
            f"snptest run {SUITE} {name} ...",
        )


def prepared(target: Target) -> tuple[Target, dict[str, str] | None]:
    """Fetch what whole guests are made of, with progress; give them memory to run in.

    The second is what they are made of, for the header of the results; None where none can run.
    """
    from harness.linuxguest import cli
    from harness.linuxguest.host import given_qemu

    if target.backend == "emulator":
        return target, None
    qemu = target.guest_qemu
    if qemu is not None and target.backend == "vng":
        qemu = given_qemu(qemu, "--guest-qemu")
    elif qemu is not None and target.backend == "local":
        qemu = qemu.expanduser().absolute()
    made = cli.prepare(target.firmware, target.guest_kernel)
    memory = MEMORY if target.backend == "vng" else None
    # The tests run in another folder than this process: files by their whole paths.
    found = replace(
        target,
        memory=target.memory or memory,
        firmware=target.firmware and made.firmware.word,
        guest_kernel=target.guest_kernel and made.kernel.word,
        guest_qemu=qemu,
    )
    return found, cli.named(made, qemu, snp=target.machine == "snp")
