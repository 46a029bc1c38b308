# SPDX-License-Identifier: GPL-2.0-only
"""The SNP machine under backend vng: which is chosen, QEMU's command, the firmware beside it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.kbuild import KernelBuild, cache
from harness.machine import installed
from harness.vng import snp
from harness.vng.autopsy import Evidence, Kind, judge
from harness.vng.kinds import STOCK, Machine
from harness.vng.machine import Paths, Setup, agent_command
from harness.vng.qemu import Qemu
from harness.vng.scene import examine
from harness.vng.share import make_paths
from harness.vng.snp import find_machine

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return installed.home()


def install(**changes: Any) -> None:
    """Put a machine into the cache that looks built."""
    record = {
        "format": installed.FORMAT,
        "version": "10.0.99",
        "source": "qemu",
        "checked": "",
        "patches": [["0001-x.patch", "x"]],
        "digest": "",
        "snp": True,
        "compiler": "gcc",
        "seconds": 1.0,
        "created": "",
    }
    cache.write_json(installed.home() / "key/machine.json", record | changes)
    cache.write_json(installed.home() / "snp.json", {"key": "key"})
    (installed.home() / "key" / installed.PROGRAM).touch()


@pytest.fixture
def kernel(tmp_path: Path) -> KernelBuild:
    """A kernel whose KVM has SNP."""
    (tmp_path / "kvm-amd.ko").write_bytes(b"\0parmtype=sev:bool\0parmtype=sev_snp:bool\0")
    names: dict[str, Any] = dict.fromkeys(KernelBuild.__dataclass_fields__, "")
    return KernelBuild(**(names | {"directory": tmp_path}))


def test_the_machine_is_the_default_where_kernel_and_machine_have_snp(kernel: KernelBuild) -> None:
    assert snp.choose(None, kernel) is STOCK
    install()
    chosen = snp.choose(None, kernel)
    assert (chosen.name, chosen.psp) == ("snp", True)
    assert chosen.qemu == str(installed.home() / "key" / installed.PROGRAM)
    assert snp.choose("stock", kernel) is STOCK
    (kernel.directory / "kvm-amd.ko").write_bytes(b"\0parmtype=sev:bool\0")
    assert snp.choose(None, kernel) is STOCK
    assert snp.choose("snp", kernel) == chosen


def test_a_machine_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match=r"not built yet \(snptest machine build\)"):
        find_machine("snp")


def test_plain_qemu_is_no_snp_machine(kernel: KernelBuild) -> None:
    install(snp=False, patches=[])
    with pytest.raises(UserError, match=r"without its patches: it is plain QEMU 10\.0\.99"):
        find_machine("snp")
    assert snp.choose(None, kernel) is STOCK


MACHINE = Machine("snp", "qemu", ("-L", "roms"), None, psp=True)


@pytest.mark.parametrize(
    ("cpus", "smp"), [(1, "1,threads=1"), (2, "2,threads=2"), (4, "4,threads=2")]
)
def test_options_follow_memory_and_cpus(cpus: int, smp: str) -> None:
    setup = Setup(Path("bzImage"), MACHINE, "3G", cpus)
    words = list(setup.qemu_options(Path("/x/psp.sock")))
    assert words[:2] == ["-L", "roms"]
    assert words[words.index("-smp") + 1] == smp
    assert "memory-backend-memfd,id=ram,size=3G,share=on" in words
    assert "socket,id=psp,path=/x/psp.sock" in words
    assert words.index("-chardev") < words.index("snp-psp,id=psp,chardev=psp")


@pytest.mark.parametrize("asids", [None, 3])
def test_as_many_asids_as_wanted(asids: int | None) -> None:
    setup = Setup(Path("bzImage"), MACHINE, asids=asids)
    words = list(setup.qemu_options(Path("/x/psp.sock")))
    found = re.findall(r"x-snp-asids=(\d+)", words[words.index("-cpu") + 1])
    assert found == ([] if asids is None else [str(asids)])


def test_it_is_never_accelerated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.vng.machine.accelerated", lambda image: True)
    assert Setup(Path("bzImage"), STOCK).accelerated
    assert not Setup(Path("bzImage"), MACHINE).accelerated


def test_no_other_qemu_is_needed(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """virtme-run composes the command for the machine's QEMU, with none of the distribution's."""
    qemu = tmp_path / "qemu-system-x86_64-snp"
    qemu.write_text("#!/bin/sh\necho QEMU emulator version 10.0.11\n")
    qemu.chmod(0o755)
    image = tmp_path / "bzImage"
    image.touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in os.listdir("/usr/bin"):
        if not name.startswith(("qemu-", "kvm")):
            (programs / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(programs))
    machine = Machine("snp", str(qemu), ("-L", "roms"), None, psp=True)
    command = agent_command(Setup(image, machine), paths)
    assert command[0] == str(qemu)
    assert command[command.index("-kernel") + 1] == str(image)


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    made = make_paths(tmp_path / "console.log")
    yield made
    shutil.rmtree(made.scratch, ignore_errors=True)


def firmware_of(qemu: Qemu) -> int:
    assert qemu._firmware is not None
    return qemu._firmware._process.pid


def gone(pid: int, timeout: float = 10.0) -> bool:
    """Whether a process ends in time."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_qemu_does_not_go_on_without_its_firmware(paths: Paths) -> None:
    qemu = Qemu(paths, SLEEPER, psp=True)
    try:
        assert paths.psp.is_socket()
        os.kill(firmware_of(qemu), signal.SIGKILL)
        assert qemu.ended(20) is not None
        death = examine(qemu, Path("/nonexistent"), lost=True)
        assert death.kind == Kind.FIRMWARE_DIED
        assert death.summary == "the PSP's firmware was killed by signal 9"
    finally:
        qemu.stop()


def test_the_firmware_goes_with_its_qemu(paths: Paths) -> None:
    qemu = Qemu(paths, SLEEPER, psp=True)
    pid = firmware_of(qemu)
    qemu.stop()
    assert gone(pid)
    assert qemu.firmware_death is None
    assert not paths.firmware.exists()  # there was nothing in it


def test_a_qemu_that_ends_first_has_no_dead_firmware(paths: Paths) -> None:
    """It hangs up in the middle of nothing, and the firmware ends of that."""
    hang_up = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(paths.psp)!r})"
    qemu = Qemu(paths, [sys.executable, "-c", hang_up], psp=True)
    try:
        assert qemu.ended(20) == 0
        assert gone_quietly(qemu)
    finally:
        qemu.stop()
    assert qemu.firmware_death is None


def gone_quietly(qemu: Qemu) -> bool:
    assert qemu._firmware is not None
    assert qemu._firmware._watcher is not None
    qemu._firmware._watcher.join(15)
    return not qemu._firmware._watcher.is_alive()


def test_the_firmwares_death_is_what_is_told() -> None:
    """A kernel whose PSP fails may panic of that; it is no fault of its own."""
    panic = "[    6.04] Kernel panic - not syncing: PSP"
    death = judge(Evidence(panic, exit_status=0, firmware_death="the PSP's firmware ended"))
    assert (death.kind, death.summary) == ("firmware died", "the PSP's firmware ended")
