# SPDX-License-Identifier: GPL-2.0-only
"""The guest's initrd: busybox, modules, programs and an init, kept by what is in it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.command import captured
from harness.errors import BuildError
from harness.linuxguest import cpio, helper, modules
from harness.linuxguest.choice import GuestKernel
from harness.linuxguest.cpio import Member
from harness.linuxguest.modules import Selection
from harness.linuxguest.store import Kept, home
from harness.linuxguest.unpack import MODULES as FOLDER

INIT = helper.SOURCES / "init"
SERVE = helper.SOURCES / "serve"
MODULES = (
    *("ctr?", "gcm?", "ghash_generic?", "sev_guest?", "configfs?", "msr?", "cpuid?"),
    *("virtio_blk?", "virtio_net?", "virtio_balloon?", "9pnet_virtio?", "9p?"),
    "pvpanic_pci?",
)
"""What a guest has where nothing else is asked for, as far as its kernel has it.

sev_guest asks for gcm(aes) without naming the modules that it is in: they are loaded before it.
"""
LIST_TIMEOUT = 30.0
_DIRECTORIES = ("dev", "proc", "run", "sys", "tmp")


@dataclass(frozen=True, slots=True)
class Initrd:
    """What -initrd takes."""

    file: Path
    selection: Selection
    """Its modules."""

    @property
    def size(self) -> int:
        """Bytes, compressed."""
        return self.file.stat().st_size


def initrd(
    kernel: GuestKernel,
    busybox: Kept,
    *,
    names: Sequence[str] = MODULES,
    init: Path = INIT,
    files: Mapping[str, bytes] | None = None,
) -> Initrd:
    """Return an initrd for a kernel, made where it is not kept: equal content is the same file.

    `names` are of modules (modules.select says how they may be written), `files` more files by
    their path in the guest ("bin/tool"), executable.  A kernel that brings no modules gets none,
    whatever the names.  UsageError: the kernel has no such module.  BuildError: a part is damaged.
    """
    selection, members = _modules(kernel, names)
    members += [cpio.directory(each) for each in _DIRECTORIES]
    members += [
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", init.read_bytes(), 0o755),
        cpio.file("bin/serve", SERVE.read_bytes(), 0o755),
        cpio.file("bin/guestreq", helper.program().read_bytes(), 0o755),
        *_busybox(busybox),
    ]
    members += [cpio.file(path, data, 0o755) for path, data in (files or {}).items()]
    return Initrd(_keep(cpio.compress(cpio.write(members))), selection)


def _modules(kernel: GuestKernel, names: Sequence[str]) -> tuple[Selection, list[Member]]:
    """Return the modules of a kernel, and modules/ with the order that they load in."""
    if kernel.kept is None or kernel.modules is None:
        return Selection(), [cpio.file("modules/order", b"")]
    selection = modules.select(kernel.modules, names)
    members = []
    order = []
    for name in selection.files:
        data = kernel.kept.read(f"{FOLDER}/{kernel.release}/{name}")
        plain = f"{modules.plain_name(name)}.ko"
        members.append(cpio.file(f"modules/{plain}", modules.content(Path(name), data)))
        order.append(f"{plain}\n")
    return selection, [*members, cpio.file("modules/order", "".join(order).encode())]


def _busybox(kept: Kept) -> list[Member]:
    """Return busybox, and the links of its applets."""
    (name,) = kept.hashes
    program = kept.read(name)
    command: list[str | Path] = [kept.folder / name, "--list"]
    try:
        done = captured(command, LIST_TIMEOUT, f"{command[0]} --list did not end")
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error}", "guests are of x86-64") from None
    applets = done.stdout.split()
    if done.returncode or "sh" not in applets:
        raise BuildError(f"{command[0]} --list names no applets: {done.stderr.strip()[:200]}")
    links = [cpio.link(f"bin/{each}", "busybox") for each in applets if each != "busybox"]
    return [cpio.file("bin/busybox", program, 0o755), *links]


def _keep(archive: bytes) -> Path:
    """Keep an archive under its hash."""
    folder = home() / "initrd"
    path = folder / f"{hashlib.sha256(archive).hexdigest()[:20]}.gz"
    if path.is_file() and path.read_bytes() == archive:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".new-", dir=folder, delete=False) as file:
        file.write(archive)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
    return path
