# SPDX-License-Identifier: GPL-2.0-only
"""A kernel put on a host by SFTP, and the command line that it gets; no kernel is booted here."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import backends, kbuild
from harness.errors import HostError, UsageError
from harness.kbuild import KernelBuild
from harness.ssh import hosts
from harness.ssh.boot import PARAMETERS, TOKEN, command_line
from harness.ssh.connection import Connection
from harness.ssh.hosts import BootWay, Host
from harness.ssh.install import KEEP, install
from harness.ssh.kernel import SshKernel
from harness.ssh.session import Session
from harness.target import Target
from tests import fakekernel
from tests.sshd import Sshd, sshd

__all__ = ["sshd"]


def made(folder: Path, key: str = "0123456789abcdef" * 4) -> KernelBuild:
    """Make what has the files of a kernel."""
    directory = folder / key[:8]
    directory.mkdir(exist_ok=True)
    (directory / "bzImage").write_bytes(os.urandom(3 << 20))
    for name in ("kvm.ko", "kvm-amd.ko"):
        (directory / name).write_bytes(name.encode() * 1000)
    return fakekernel.kernel_build(
        directory,
        name="made",
        key=key,
        release="6.12.0-made",
        modules=("kvm.ko", "kvm-amd.ko"),
    )


@pytest.fixture
def place(sshd: Sshd) -> Path:
    return sshd.folder / "place"


@pytest.fixture
def there(
    sshd: Sshd, place: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Connection, SshKernel]]:
    """A connection, and the agent at its other end."""
    sshd.write_hosts(folder=f'"{place}"')
    monkeypatch.setattr(Session, "_unfit", staticmethod(lambda facts: None))
    session = Session(hosts.get("box"))
    with session.open() as kernel:
        assert session._connection is not None
        yield session._connection, kernel
    session.close()


def test_files_arrive_whole_and_are_copied_once(
    there: tuple[Connection, SshKernel], tmp_path: Path, place: Path
) -> None:
    build = made(tmp_path)
    installed = install(*there, build)
    assert Path(installed.image).read_bytes() == build.bzimage.read_bytes()
    assert [Path(name).name for name in installed.modules] == ["kvm.ko", "kvm-amd.ko"]
    assert Path(installed.modules[1]).read_bytes() == (build.directory / "kvm-amd.ko").read_bytes()
    before = os.stat(installed.image).st_ino
    assert install(*there, build) == installed
    assert os.stat(installed.image).st_ino == before, "it was there already"
    Path(installed.image).write_bytes(b"damaged")
    install(*there, build)
    assert Path(installed.image).read_bytes() == build.bzimage.read_bytes()
    assert not list(place.rglob("*.part"))


def test_old_kernels_make_room_and_nothing_else_does(
    there: tuple[Connection, SshKernel], tmp_path: Path, place: Path
) -> None:
    (place / "mine").mkdir(parents=True)
    for number in range(KEEP + 2):
        installed = install(*there, made(tmp_path, f"{number:064x}"[::-1]))
        os.utime(installed.folder, (number + 1e9, number + 1e9))
    names = {path.name for path in place.iterdir()}
    assert "mine" in names
    assert len(names) == KEEP + 1
    assert Path(installed.folder).name in names


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if subprocess.run(command, capture_output=True, timeout=30, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True, timeout=30)


def test_a_disk_without_room_is_told_before_anything_is_copied(
    sshd: Sshd, small_disk: Path, there: tuple[Connection, SshKernel], tmp_path: Path
) -> None:
    with pytest.raises(HostError, match=r"no room in .*: [12] MiB are free, 7 are needed"):
        install(*there, made(tmp_path))
    assert not list(small_disk.rglob("bzImage*"))


def test_a_disk_that_fills_up_while_it_is_copied(
    small_disk: Path,
    there: tuple[Connection, SshKernel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.ssh.install._need_room", lambda *arguments: None)
    with pytest.raises(HostError, match=r"could not be copied.*is the disk full"):
        install(*there, made(tmp_path))
    assert not list(small_disk.rglob("bzImage")), "no half of a kernel has its name"


TOKENED = f"{TOKEN}=1"


def test_the_command_line_is_the_old_one_with_ours() -> None:
    host = Host("a", "a", boot=BootWay("kexec", parameters="kvm_amd.sev_snp=1 console=ttyS1"))
    first = command_line(
        "BOOT_IMAGE=/vmlinuz root=UUID=1 ro panic=0 console=tty0 quiet\n", host, TOKENED
    )
    assert first == (
        f"root=UUID=1 ro console=tty0 quiet {TOKENED} {' '.join(PARAMETERS)} kvm_amd.sev_snp=1"
        " console=ttyS1"
    )
    assert command_line(first, host, TOKENED) == first, "it does not grow from boot to boot"
    assert command_line("ro -- -I x\n", host, TOKENED).endswith("console=ttyS1 -- -I x")
    plain = Host("a", "a", boot=BootWay("kexec"))
    without = f"root=UUID=1 ro console=tty0 quiet snptest.boot=2 {' '.join(PARAMETERS)}"
    assert command_line(first, plain, "snptest.boot=2") == without, "what is asked for no more"


def test_what_a_host_is_not_said_to_do(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backends.get("ssh")
    with pytest.raises(UsageError, match=r"host box is not said to boot kernels.*boot in ci/hosts"):
        backend.check(Target(backend="ssh", host="box", kernel="made"))
    sshd.write_hosts(boot='{ how = "kexec" }')
    with pytest.raises(UsageError, match="no kernel is called no-such-kernel"):
        backend.check(Target(backend="ssh", host="box", kernel="no-such-kernel"))
    build = dataclasses.replace(made(sshd.folder), name="without")
    monkeypatch.setattr(kbuild, "get", lambda name: build)
    with pytest.raises(UsageError, match="without has no build id"):
        backend.check(Target(backend="ssh", host="box", kernel="without"))
