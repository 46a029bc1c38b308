# SPDX-License-Identifier: GPL-2.0-only
"""What whole guests of a run are made of: --firmware, --guest-kernel, --guest-qemu."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.cli.run import RunOptions

SUITE = "linux"
"""The suite that has such guests."""
MEMORY = "6G"
"""Of the machine that they run on, where nothing else is asked for."""


def given(options: RunOptions) -> dict[str, str | Path]:
    """Return the options that are given, and their values."""
    all_of_them = {
        "--firmware": options.firmware,
        "--guest-kernel": options.guest_kernel,
        "--guest-qemu": options.guest_qemu,
    }
    return {name: value for name, value in all_of_them.items() if value is not None}


def check(options: RunOptions, used: bool) -> None:
    """Raise UsageError for a guest's part where no suite uses it."""
    for name in given(options) if not used else ():
        raise UsageError(
            f"{name} is for the suite {SUITE}, which is not among those that run",
            f"snptest run {SUITE} {name} ...",
        )


def prepared(options: RunOptions) -> tuple[RunOptions, dict[str, str] | None]:
    """Fetch what whole guests are made of, with progress; give them memory to run in.

    The second is what they are made of, for the header of the results; None where none can run.
    """
    from harness.linuxguest import cli
    from harness.linuxguest.host import given_qemu

    if options.backend == "emulator":
        return options, None
    qemu = options.guest_qemu
    if qemu is not None and options.backend == "vng":
        qemu = given_qemu(qemu, "--guest-qemu")
    elif qemu is not None and options.backend == "local":
        qemu = qemu.expanduser().absolute()
    made = cli.prepare(options.firmware, options.guest_kernel)
    memory = MEMORY if options.backend == "vng" else None
    # The tests run in another folder than this process: files by their whole paths.
    found = replace(
        options,
        memory=options.memory or memory,
        firmware=options.firmware and made.firmware.word,
        guest_kernel=options.guest_kernel and made.kernel.word,
        guest_qemu=qemu,
    )
    return found, cli.named(made, qemu, snp=options.machine == "snp")
