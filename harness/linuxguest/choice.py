# SPDX-License-Identifier: GPL-2.0-only
"""Firmware and kernel of a guest: by name from the catalogue, a kernel of ours, or a file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sevsnpmeasure.ovmf import OVMF

from harness import kbuild
from harness.errors import UsageError
from harness.kbuild.config import find_fragments, read_config, wanted_symbols
from harness.kbuild.kernel import KernelBuild, list_kernels
from harness.kbuild.progress import Progress
from harness.linuxguest import catalogue, store
from harness.linuxguest.catalogue import Wanted
from harness.linuxguest.store import Kept
from harness.linuxguest.unpack import CONFIG, IMAGE, MODULES
from harness.report import sanitize
from harness.tables import close_to

FRAGMENT = "guest"
"""The fragment of kernels/ that says what a kernel should have as a guest."""
NEEDED = frozenset(
    f"CONFIG_{name}"
    for name in (
        *("EFI_STUB", "BLK_DEV_INITRD", "RD_GZIP", "AMD_MEM_ENCRYPT", "SERIAL_8250_CONSOLE"),
        *("PRINTK", "BINFMT_ELF", "BINFMT_SCRIPT", "DEVTMPFS", "PROC_FS", "SYSFS", "TMPFS"),
    )
)
"""Without any of these no guest gets as far as to say so; the rest is for single tests."""
OWN = "a file of yours"
"""Where a part comes from that was named by its path."""
_SETUP_HEADER = b"HdrS"
_SIGNATURE_AT, _VERSION_AT = 0x202, 0x20E
_VERSION_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Firmware:
    """What -bios takes."""

    name: str
    file: Path
    origin: str
    """What it was taken from: ovmf-amdsev=2026.08+ds-2, or "a file of yours"."""
    checks_hashes: bool | None = None
    """Whether it boots nothing that differs from its hash; None where only trying could tell."""

    @property
    def word(self) -> str:
        """What names it on any command line: its name, or its whole path."""
        return str(self.file) if self.origin == OWN else self.name

    @property
    def kernel_hashes(self) -> bool:
        """Whether hashes of -kernel, -initrd and -append have a place in it (kernel-hashes=on).

        They are measured then; whether they are checked is another question (checks_hashes).
        """
        return bool(OVMF(str(self.file)).is_sev_hashes_table_supported())


@dataclass(frozen=True, slots=True)
class GuestKernel:
    """What -kernel takes, and its modules."""

    name: str
    image: Path
    release: str
    """What uname -r says."""
    origin: tuple[str, ...]
    """The packages that it was taken from, or what it is otherwise."""
    config: Path | None = None
    kept: Kept | None = None
    """Where it has modules: these are in lib/modules/RELEASE of its folder."""
    lacks: tuple[str, ...] = ()
    """Symbols of kernels/guest.config that it was built without, where it is one of ours."""

    @property
    def word(self) -> str:
        """What names it on any command line: its name, or its whole path."""
        return str(self.image) if self.origin == (OWN,) else self.name

    @property
    def modules(self) -> Path | None:
        """The folder of its modules; None where it brings none."""
        return self.kept.folder / MODULES / self.release if self.kept else None


class Chooser:
    """Finds parts; fetches those of the catalogue where they are not kept yet."""

    def __init__(
        self,
        *,
        refresh: bool = False,
        progress: Progress | None = None,
        say: Callable[[str], None] = print,
        file: Path = catalogue.FILE,
    ) -> None:
        self.catalogue = catalogue.load(file)
        self._refresh = refresh
        self._progress = progress or Progress()
        self._say = say

    def firmware(self, name: str | None = None) -> Firmware:
        """Return the firmware of that name or path, or the default; UsageError: no such."""
        name = name or self.catalogue.default_firmware
        wanted = self.catalogue.firmware.get(name)
        if wanted is not None:
            kept = self.take(wanted)
            file = kept.path(Path(wanted.file).name)
            return Firmware(name, file, kept.packages[0], wanted.checks_hashes)
        path = _file("firmware", name, list(self.catalogue.firmware))
        firmware = Firmware(name, path, OWN)
        try:
            sections = OVMF(str(path)).metadata_items()
        except (RuntimeError, ValueError, OSError) as error:
            raise UsageError(f"firmware {name} is no OVMF that can be read: {error}") from None
        if not sections:
            raise UsageError(
                f"firmware {name} has no SEV metadata: it cannot start an SNP guest",
                "want OVMF built from OvmfPkgX64.dsc or AmdSevX64.dsc, code and variables in one",
            )
        return firmware

    def kernel(self, name: str | None = None) -> GuestKernel:
        """Return the kernel of that name or path, or the default; UsageError: no such."""
        ours = [each.name for each in list_kernels()]
        if name in ours and name in self.catalogue.kernels:
            self._say(f"kernel {name} is Debian's here, not yours: that would need another name")
        name = name or self.catalogue.default_kernel
        wanted = self.catalogue.kernels.get(name)
        if wanted is not None:
            kept = self.take(wanted)
            image, config = kept.path(IMAGE), kept.path(CONFIG)
            return GuestKernel(name, image, kept.release, kept.packages, config, kept)
        if name in ours:
            return _built(kbuild.get(name))
        path = _file("kernel", name, [*self.catalogue.kernels, *ours])
        return GuestKernel(name, path, release_of(path), (OWN,))

    def busybox(self) -> Kept:
        """Return the package with busybox."""
        return self.take(self.catalogue.busybox)

    def take(self, wanted: Wanted) -> Kept:
        """Return a part of the catalogue."""
        return store.take(
            wanted,
            refresh=self._refresh,
            progress=self._progress,
            say=self._say,
            catalogue=self.catalogue.path,
        )


def lacking(build: KernelBuild) -> list[str]:
    """Return the symbols of kernels/guest.config that a kernel of ours was built without."""
    has = read_config(build.config.read_text())
    wanted = wanted_symbols(find_fragments([FRAGMENT])[1:], build.version)
    return [each.name for each in wanted if has.get(each.name, "n") != each.value]


def release_of(image: Path) -> str:
    """Return the release that a bzImage names in its header; UsageError where it is none.

    Documentation/arch/x86/boot.rst: offset 0x20e points to the text, 0x200 before it.
    """
    with image.open("rb") as file:
        head = file.read(0x10000)
    if head[_SIGNATURE_AT : _SIGNATURE_AT + 4] != _SETUP_HEADER:
        raise UsageError(f"kernel {image} is no bzImage: it has no setup header")
    (offset,) = struct.unpack_from("<H", head, _VERSION_AT)
    text = head[offset + 0x200 :][:_VERSION_LENGTH] if offset else b""
    return sanitize.line(text.split(b"\0")[0].split(b" ")[0])


def _built(build: KernelBuild) -> GuestKernel:
    """Take a kernel of ours, which has to come up as a guest; it loads no modules."""
    lacks = lacking(build)
    if missing := [each for each in lacks if each in NEEDED]:
        raise UsageError(
            f"kernel {build.name} cannot be a guest: it was built without {', '.join(missing)}",
            f"build it with what a guest needs: snptest build NAME --config {FRAGMENT} ...",
        )
    return GuestKernel(
        build.name,
        build.bzimage,
        build.release,
        (f"built from {build.base}",),
        build.config,
        lacks=tuple(lacks),
    )


def _file(kind: str, name: str, known: list[str]) -> Path:
    """Return a file that was named; UsageError where it is not there."""
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    names = ", ".join(known)
    hint = close_to(name, known) or f"name one of {names}, or a file"
    raise UsageError(f"no {kind} is called {name}, and there is no such file", hint)
