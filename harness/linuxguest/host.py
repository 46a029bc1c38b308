# SPDX-License-Identifier: GPL-2.0-only
"""The host's part: its QEMU, and guests started from parts that lie here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.kernel import Kernel
from harness.linuxguest.definition import LinuxGuest
from harness.linuxguest.parts import Parts
from harness.linuxguest.placement import place
from harness.linuxguest.running import LIFETIME, RunningGuest
from harness.machine import installed
from harness.vng.sharedpaths import OWN

QUIET = "console=ttyS0 panic=-1 loglevel=6"
"""A guest's command line where nothing else is asked for: a panic is a reset.

Each byte of the console is two exits to QEMU, a millisecond where the host is emulated; the
kernel's information (dmesg has it) would take as long as the rest of its boot.
"""
ON_PATH = "qemu-system-x86_64"


def given_qemu(path: Path, option: str) -> Path:
    """Return the whole path of a QEMU that kernels booted here can run; UsageError: they cannot."""
    path = path.expanduser().absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        found = "no program" if path.is_file() else "no such file"
        raise UsageError(f"{option} {path}: {found}", "want a qemu-system-x86_64")
    for folder in OWN:
        if path.is_relative_to(folder) or path.resolve().is_relative_to(folder):
            raise UsageError(
                f"{option} {path}: the kernel under test has a {folder} of its own",
                "copy it, with its firmware, to another folder",
            )
    return path


def qemu(kernel: Kernel, given: Path | None = None) -> tuple[str, ...]:
    """Return the QEMU that runs guests on a host, with options of its own.

    That is the one given, a path on the host; on a machine that was booted here the SNP
    machine's own, which the host sees; elsewhere the host's.
    """
    if given is not None:
        return (str(given),)
    built = installed.find() if "snp" in kernel.environment else None
    if built is not None:
        return (str(built.qemu), "-L", str(built.firmware))
    return (ON_PATH,)


@dataclass(frozen=True, slots=True)
class Starter:
    """What starts guests on one host, from the same parts unless a guest has others."""

    kernel: Kernel
    qemu: tuple[str, ...]
    parts: Parts

    def guest(self, command_line: str = "", **changes: Any) -> LinuxGuest:
        """Return a guest of these parts, with changes; the command line's are added to QUIET.

        There are kernel hashes where the firmware takes them, unless the changes say otherwise.
        """
        files: dict[str, Any] = {
            "firmware": self.parts.firmware.file,
            "kernel": self.parts.kernel.image,
            "initrd": self.parts.initrd,
            "kernel_hashes": self.parts.firmware.kernel_hashes,
            **changes,
        }
        placed: dict[str, Any] = {
            name: place(self.kernel, value) if isinstance(value, Path) else value
            for name, value in files.items()
        }
        return LinuxGuest(command_line=f"{QUIET} {command_line}".strip(), **placed)

    def start(self, guest: LinuxGuest, lifetime: float = LIFETIME) -> RunningGuest:
        """Start a guest; the caller closes it."""
        return RunningGuest(self.kernel, guest, self.qemu, lifetime)
