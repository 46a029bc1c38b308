# SPDX-License-Identifier: GPL-2.0-only
"""One command in a booted kernel, its streams and status apart from the console; or a shell."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.errors import BootError
from harness.kbuild import KernelBuild
from harness.vng.boot import BOOT_TIMEOUT, PARAMETERS
from harness.vng.consolelog import new_path
from harness.vng.machine import STATUS, WORK, Paths, Setup, script_command, shell_command
from harness.vng.qemu import Qemu
from harness.vng.scene import examine
from harness.vng.share import fill, make_paths, need_qemu
from harness.vng.sharedpaths import shared, unseen
from harness.vng.snp import Firmware

_USER_SPACE = " as init process"


def run_in(kernel: KernelBuild, setup: Setup, command: Sequence[str], timeout: float) -> int:
    """Boot a kernel, run a command in it as root, return its exit status.

    The root file system is this machine's, read-only; /tmp, /var/tmp and /run are the
    guest's own, with what the command names there put back (harness/vng/sharedpaths.py).
    UsageError where that cannot be; BootError where the kernel dies, or the command has not
    ended in time.
    """
    shared(command, Path.cwd())  # what cannot be seen there is told before the boot
    if left_out := unseen(command, Path.cwd()):
        os.write(2, f"{left_out}\n".encode())
    need_qemu(setup.machine)
    paths = make_paths(new_path(kernel.name))
    with contextlib.ExitStack() as undo:
        undo.enter_context(kernel.in_use())
        undo.callback(shutil.rmtree, paths.scratch, ignore_errors=True)
        fill(paths.share, kernel, command=command)
        line = script_command(replace(setup, parameters=(*PARAMETERS, *setup.parameters)), paths)
        sys.stdout.flush()
        undo.callback(paths.status.unlink, missing_ok=True)
        qemu = Qemu(paths, line, stdio=True, psp=setup.machine.psp)
        undo.callback(qemu.stop)
        overdue = _wait(qemu, timeout)
        if not overdue:
            qemu.drain()
        status = _status(paths)
        if not overdue and status is not None:
            return status
        death = examine(qemu, kernel.directory / "System.map", lost=not overdue)
        why = f"{overdue}; " if overdue else ""
        raise BootError(
            f"{why}{death.kind}: {death.summary}; the console ends:\n{qemu.console.tail()}",
            f"all of it: {paths.console}",
        )


_SHELL = """#!/bin/sh
{loads}
{enter}
{shell}
status=$?
for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name" 2>/dev/null)" = {port} ] && echo $status > "/dev/${{port##*/}}"
done
exit $status
"""


def explore(kernel: KernelBuild, setup: Setup) -> int:
    """Boot a kernel to a root shell on this terminal, its modules loaded; return its exit status.

    It begins in the working directory, also where the guest has a folder of its own in its
    place.  UsageError where it cannot be seen; BootError where the machine ended and the shell
    had not.
    """
    folder = Path.cwd()
    hidden = shared(["sh"], folder) != []
    need_qemu(setup.machine)
    paths = make_paths(new_path(kernel.name))
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, paths.scratch, ignore_errors=True)
        fill(paths.share, kernel)
        shell = paths.share / "shell"
        # udev may have loaded some of them already.
        loads = "".join(f"insmod /run/snptest/{each} 2>/dev/null || :\n" for each in kernel.modules)
        users = shlex.quote(os.environ.get("SHELL") or "/bin/sh")
        enter = enter_folder(folder, hidden=hidden)
        shell.write_text(_SHELL.format(loads=loads, enter=enter, shell=users, port=STATUS))
        shell.chmod(0o755)
        undo.enter_context(kernel.in_use())
        if setup.machine.psp:
            undo.callback(Firmware(paths.psp, paths.firmware).stop)
        undo.callback(paths.status.unlink, missing_ok=True)
        code = subprocess.call(shell_command(setup, paths, folder if hidden else None))
        status = _status(paths)
        if status is not None:
            return status
        ended = f" (QEMU ended with {code})" if code else ""
        raise BootError(f"the machine ended before its shell did{ended}")


def enter_folder(folder: Path, *, hidden: bool) -> str:
    """Return the shell's commands to go to a folder; where it is hidden, from WORK's place."""
    place = shlex.quote(str(folder))
    bring = f"mkdir -p {place} && mount --bind {WORK} {place} && " if hidden else ""
    return f"{bring}cd {place}"


def _status(paths: Paths) -> int | None:
    """Read what became of the command or shell; None where it has not ended."""
    said = paths.status.read_text(errors="replace").strip() if paths.status.exists() else ""
    return int(said) if said.isascii() and said.isdigit() else None


def _wait(qemu: Qemu, timeout: float) -> str:
    """Wait for the end; say what took too long."""
    began = time.monotonic()
    booted = False
    while qemu.ended(0.1) is None:
        elapsed = time.monotonic() - began
        booted = booted or _USER_SPACE in qemu.console.text()
        if not booted and elapsed > BOOT_TIMEOUT:
            return f"the kernel has not booted within {BOOT_TIMEOUT:g} s"
        if elapsed > timeout:
            return f"the command has not ended within {timeout:g} s"
    return ""
