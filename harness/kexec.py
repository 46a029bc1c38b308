# SPDX-License-Identifier: GPL-2.0-only
"""Loads a kernel and starts it, by the system calls: for targets that have no kexec-tools.

Runs on the target, standard library only, Python 3.9 or newer, x86-64:

    kexec.py load IMAGE COMMAND-LINE      for `go`
    kexec.py load-crash IMAGE COMMAND-LINE  for a panic: needs crashkernel= on the command line
    kexec.py go                           jumps to what is loaded
    kexec.py reset                        resets the machine

The exit status is 0, or 1 with a line that says why.  No file system is unmounted.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import NoReturn

_KEXEC_FILE_LOAD = 320
_ON_CRASH, _NO_INITRD = 2, 4
_GO, _RESET = 0x45584543, 0x01234567  # LINUX_REBOOT_CMD_KEXEC, LINUX_REBOOT_CMD_RESTART

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def load(image: str, command_line: str, flags: int) -> None:
    """Have the kernel load a bzImage; OSError where it refuses."""
    text = command_line.encode() + b"\0"
    file = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size, bits = ctypes.c_ulong(len(text)), ctypes.c_ulong(flags | _NO_INITRD)
        if _libc.syscall(_KEXEC_FILE_LOAD, file, -1, size, text, bits) < 0:
            _fail()
    finally:
        os.close(file)


def reboot(command: int) -> None:
    """reboot(2); OSError where it returns."""
    _libc.reboot(command)
    _fail()


def _fail() -> NoReturn:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code))


def main(arguments: list[str]) -> int:
    """Do what the first word says."""
    what, *rest = arguments
    try:
        if what in ("load", "load-crash"):
            image, command_line = rest
            load(image, command_line, _ON_CRASH if what == "load-crash" else 0)
        else:
            reboot({"go": _GO, "reset": _RESET}[what])
    except OSError as error:
        print(f"{what}: {error.strerror}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
