# SPDX-License-Identifier: GPL-2.0-only
"""What a guest gets from us: init, agent, modules, a command; and the folder they are in."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import agent
from harness.errors import BootError
from harness.host_packages import ensure_packages
from harness.hostcpu import need_x86_64
from harness.kbuild import KernelBuild
from harness.vng import init
from harness.vng.kinds import STOCK, Machine
from harness.vng.machine import Paths
from harness.vng.sharedpaths import shared

_PLAIN = re.compile(r"[A-Za-z0-9/._+@-]+")
MAX_TMPDIR = 107 - len("/snptest-vng-12345678/psp.sock.ctl")


def need_qemu(machine: Machine) -> None:
    """Install QEMU where it is missing; UserError on a machine whose programs are not x86-64's."""
    need_x86_64("booting kernels, which use this machine's programs,")
    if machine is STOCK and shutil.which(machine.qemu) is None:
        ensure_packages(["qemu-system-x86"], "for booting kernels")


def make_paths(console: Path) -> Paths:
    """Make the folder that goes when QEMU does, with a link to where the console is kept."""
    paths = Paths(make_scratch(), console)
    paths.kept.symlink_to(console.parent.absolute())
    return paths


def make_scratch() -> Path:
    """Make the folder that goes when QEMU does.

    It has sockets, whose paths may have 107 bytes (sun_path), and stands in QEMU's options and
    in the kernel's command line, where commas, spaces and quotes mean something: a TMPDIR that
    is too deep, or has such letters, is not used.
    """
    place = tempfile.gettempdir()
    try:
        odd = len(os.fsencode(place)) > MAX_TMPDIR or not _PLAIN.fullmatch(place)
        return Path(tempfile.mkdtemp(prefix="snptest-vng-", dir="/tmp" if odd else place))
    except OSError as error:
        raise BootError(
            f"no scratch folder for a boot: {error.strerror}", "TMPDIR names another place"
        ) from None


def fill(
    folder: Path,
    kernel: KernelBuild,
    extra: Sequence[str] = (),
    command: Sequence[str] = (),
) -> None:
    """Put in what the guest needs: see harness/vng/init.py."""
    modules = (*kernel.modules, *extra)
    try:
        folder.mkdir()
        for module in modules:
            shutil.copy(kernel.directory / module, folder / module)
        for program in (agent, init):
            assert program.__file__ is not None
            shutil.copy(program.__file__, folder)
        (folder / "modules").write_text("".join(f"{each}\n" for each in modules))
        if command:
            folder_of_command = Path.cwd()
            what = {
                "argv": list(command),
                "cwd": str(folder_of_command),
                "shared": shared(command, folder_of_command),
            }
            (folder / "command").write_text(json.dumps(what))
    except OSError as error:
        raise BootError(
            f"what the guest needs cannot be put into {folder}: {error.strerror}",
            "TMPDIR names another place",
        ) from None
