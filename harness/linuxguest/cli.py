# SPDX-License-Identifier: GPL-2.0-only
"""What `snptest guest build` and `snptest guest list` print."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from harness.kbuild.progress import ConsoleProgress, sayer
from harness.linuxguest import catalogue, store
from harness.linuxguest.catalogue import Wanted
from harness.linuxguest.choice import OWN, Chooser
from harness.linuxguest.host import ON_PATH
from harness.linuxguest.parts import Parts, parts
from harness.machine import installed
from harness.report.outcome import ExitCode
from harness.report.words import counted


def build(firmware: str | None, kernel: str | None, *, refresh: bool) -> int:
    """Fetch and make the parts of a guest; say what they are, and from where."""
    console = Console(stderr=True)
    with ConsoleProgress(console) as progress:
        made = parts(firmware, kernel, refresh=refresh, progress=progress, say=sayer(console))
    for line in described(made):
        print(line)
    return ExitCode.PASSED


def prepare(firmware: str | None = None, kernel: str | None = None) -> Parts:
    """Fetch and make what the suite needs where it is not kept, and say so.

    That is a guest's parts, and all firmware of the catalogue: the suite measures each.
    """
    console = Console(stderr=True)
    with ConsoleProgress(console) as progress:
        made = parts(firmware, kernel, progress=progress, say=sayer(console))
        chooser = Chooser(progress=progress, say=sayer(console))
        for name in chooser.catalogue.firmware:
            chooser.firmware(name)
    return made


def named(made: Parts, qemu: Path | None, *, snp: bool) -> dict[str, str]:
    """Name the parts of guests in a few words each, for the header of results.

    `qemu` is the one given, a path on the host; `snp` whether the host is the SNP machine.
    """
    bios, kernel = made.firmware, made.kernel
    machine = installed.find() if snp else None
    own = f"the SNP machine's, {machine.version}" if machine else f"the host's {ON_PATH}"
    origin = kernel.origin[0] if kernel.origin[0] != OWN else kernel.release
    return {
        "firmware": f"{bios.name} ({bios.origin})" if bios.origin != OWN else str(bios.file),
        "kernel": f"{kernel.word} ({origin})",
        "qemu": str(qemu) if qemu is not None else own,
    }


def described(made: Parts) -> list[str]:
    """Describe the parts of a guest, a line each, files and what they lack below."""
    bios, kernel, selection = made.firmware, made.kernel, made.selection
    hashes = "a place for kernel hashes" if bios.kernel_hashes else "no kernel hashes"
    if bios.kernel_hashes and bios.checks_hashes is not None:
        hashes += ", which it checks" if bios.checks_hashes else ", which it does not check"
    megabytes = made.initrd.stat().st_size / 1e6
    lines = [
        f"firmware: {bios.name}, {bios.origin}; {hashes}",
        f"          {bios.file}",
        f"kernel:   {kernel.name}, {kernel.release}",
        *(f"          {origin}" for origin in kernel.origin),
        f"          {kernel.image}",
        f"initrd:   {counted(len(selection.files), 'module')}, {megabytes:.1f} MB",
        f"          {made.initrd}",
    ]
    if selection.missing:
        lines.append(f"the kernel has no {', '.join(selection.missing)}")
    if kernel.lacks:
        lines.append(f"the kernel was built without {', '.join(kernel.lacks)}")
    return lines


def listing() -> int:
    """List what can be chosen, and what of it is kept."""
    known = catalogue.load()
    for title, group, default in (
        ("firmware", known.firmware, known.default_firmware),
        ("kernels", known.kernels, known.default_kernel),
    ):
        print(f"{title}:")
        width = max(map(len, group))
        for wanted in group.values():
            chosen = "; the default" if wanted.name == default else ""
            print(f"  {wanted.name:{width}}  {wanted.about}{chosen} ({_state(wanted)})")
    return ExitCode.PASSED


def _state(wanted: Wanted) -> str:
    kept = store.known(wanted)
    return kept.packages[0] if kept else "not fetched yet"
