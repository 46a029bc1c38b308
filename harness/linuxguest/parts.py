# SPDX-License-Identifier: GPL-2.0-only
"""All that a Linux guest is started from, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.kbuild.progress import Progress
from harness.linuxguest import initrd as initrds
from harness.linuxguest.choice import Chooser, Firmware, GuestKernel
from harness.linuxguest.modules import Selection


@dataclass(frozen=True, slots=True)
class Parts:
    """Firmware, kernel and initrd of a guest."""

    firmware: Firmware
    kernel: GuestKernel
    initrd: Path
    selection: Selection
    """The modules in the initrd; none where the initrd is the user's own."""


def parts(
    firmware: str | None = None,
    kernel: str | None = None,
    initrd: Path | None = None,
    *,
    modules: Sequence[str] = initrds.MODULES,
    init: Path = initrds.INIT,
    files: Mapping[str, bytes] | None = None,
    refresh: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> Parts:
    """Return the parts of a guest; what is not kept yet is fetched and made.

    Firmware and kernel are names of guests/linux/parts.toml, kernels that `snptest build` made,
    or files; without a name the file's default.  UsageError: there is no such thing.
    BuildError: it cannot be had.
    """
    progress = progress or Progress()
    chooser = Chooser(refresh=refresh, progress=progress, say=say)
    bios = chooser.firmware(firmware)
    image = chooser.kernel(kernel)
    if initrd is not None:
        if not initrd.is_file():
            raise UsageError(f"initrd {initrd}: no such file", "without it one is made")
        return Parts(bios, image, initrd.resolve(), Selection())
    busybox = chooser.busybox()
    progress.stage(f"making an initrd for kernel {image.name}")
    made = initrds.initrd(image, busybox, names=modules, init=init, files=files)
    return Parts(bios, image, made.file, made.selection)
