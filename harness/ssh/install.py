# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that was built here, put on a host: its image and modules, by content and checked."""

from __future__ import annotations

import hashlib
import posixpath
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from harness.errors import HostError
from harness.kbuild import KernelBuild
from harness.kernel import Kernel
from harness.operations import Completed
from harness.report import sanitize
from harness.ssh.connection import Connection

COPY_TIMEOUT = 120.0
"""Seconds in which something of a file has to get through."""
COMMAND_TIMEOUT = 120.0
KEEP = 4
"""Kernels that stay on a host."""
_PREFIX = "kernel-"
_SPARE = 4 << 20


@dataclass(frozen=True, slots=True)
class Installed:
    """Where a kernel's files are on a host."""

    folder: str
    image: str
    initrd: str
    """Where boot.prepare may put one; nothing is there otherwise."""
    modules: tuple[str, ...]
    """In the order in which they are loaded."""

    @property
    def kvm_amd(self) -> str:
        """The file of that module; "" where it is built in."""
        return next((path for path in self.modules if path.endswith("/kvm-amd.ko")), "")


def command(kernel: Kernel, argv: Sequence[str], timeout: float = COMMAND_TIMEOUT) -> Completed:
    """Run a program on the host, sbin in its path, as the agent's user."""
    line = f"PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; exec {shlex.join(argv)}"
    return kernel.run_program(["sh", "-c", line], timeout, 1 << 16)


def said(done: Completed) -> str:
    """Say how a program on the host failed, as one safe line."""
    output = sanitize.line(done.output[-300:])
    return done.failure or f"status {done.status}" + (f": {output}" if output else "")


def install(connection: Connection, kernel: Kernel, build: KernelBuild) -> Installed:
    """Copy what is not there yet; HostError where there is no room, or it arrives damaged."""
    host = connection.host
    folder = posixpath.join(host.folder, f"{_PREFIX}{build.key[:32]}")
    done = command(kernel, ["mkdir", "-p", folder])
    if done.status != 0:
        raise HostError(f"{host.name}: {folder} cannot be made: {said(done)}")
    files = {build.bzimage: posixpath.join(folder, "bzImage")}
    files |= {build.directory / name: posixpath.join(folder, name) for name in build.modules}
    present = _digests(kernel, files.values())
    lacking = {
        local: remote for local, remote in files.items() if present.get(remote) != _digest(local)
    }
    if lacking:
        _prune(kernel, host.folder, folder)
        _need_room(kernel, host.name, folder, sum(path.stat().st_size for path in lacking))
        _copy(connection, lacking)
        arrived = _digests(kernel, lacking.values())
        for local, remote in lacking.items():
            if arrived.get(remote) != _digest(local):
                raise HostError(f"{host.name}: {remote} arrived damaged")
    command(kernel, ["touch", folder])
    command(kernel, ["sync", "-f", folder])  # a boot loader reads the disk itself
    names = tuple(posixpath.join(folder, name) for name in build.modules)
    image, initrd = (posixpath.join(folder, name) for name in ("bzImage", "initrd"))
    return Installed(folder, image, initrd, names)


def _copy(connection: Connection, files: dict[Path, str]) -> None:
    name = connection.host.name
    try:
        client = paramiko.SFTPClient.from_transport(connection.transport)
        assert client is not None
        with client:
            channel = client.get_channel()
            assert channel is not None
            channel.settimeout(COPY_TIMEOUT)
            for local, remote in files.items():
                # Never half a file under the name of a whole one.
                client.put(str(local), f"{remote}.part")
                client.posix_rename(f"{remote}.part", remote)
    except (OSError, EOFError, paramiko.SSHException) as error:
        text = sanitize.line(str(error) or type(error).__name__, 200)
        raise HostError(
            f"{name}: the kernel could not be copied to {connection.host.folder}: {text}",
            "may its user write there, and is the disk full? see folder in ci/hosts.toml",
        ) from None


def _need_room(kernel: Kernel, host: str, folder: str, size: int) -> None:
    done = command(kernel, ["df", "-Pk", folder])
    words = done.output.decode(errors="replace").splitlines()[-1:]
    fields = words[0].split() if words else []
    if done.status == 0 and len(fields) > 3 and fields[3].isdigit():
        free = int(fields[3]) << 10
        if free < size + _SPARE:
            raise HostError(
                f"{host}: no room in {folder}: {free >> 20} MiB are free, "
                f"{(size + _SPARE) >> 20} are needed"
            )


def _prune(kernel: Kernel, place: str, own: str) -> None:
    """Remove the oldest kernels: what is not ours has another name."""
    done = command(kernel, ["ls", "-1t", place])
    names = done.output.decode(errors="replace").splitlines() if done.status == 0 else []
    ours = [name for name in names if name.startswith(_PREFIX) and name[7:].isalnum()]
    for name in [name for name in ours if name != posixpath.basename(own)][KEEP - 1 :]:
        command(kernel, ["rm", "-rf", posixpath.join(place, name)])


def _digests(kernel: Kernel, paths: Iterable[str]) -> dict[str, str]:
    done = command(kernel, ["sha256sum", *paths])  # of those that are there, whatever its status
    lines = (line.partition("  ") for line in done.output.decode(errors="replace").splitlines())
    return {path: digest for digest, _, path in lines}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
