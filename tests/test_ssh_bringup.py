# SPDX-License-Identifier: GPL-2.0-only
"""Kernels booted on a host that only pretends: sshd is this machine's, a reset changes its names.

What it runs and since when is read from files (boot_id, notes); a reset kills every login and
exchanges them.  tests/test_ssh_box.py does the same with a machine that really boots.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import struct
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import BootError, HostError
from harness.kbuild import KernelBuild
from harness.operations import TargetError
from harness.ssh import bringup, connection, hosts, kexec, remote
from harness.ssh import install as ssh_install
from harness.ssh import session as ssh_session
from harness.ssh.session import Session
from harness.vng.autopsy import Kind
from tests.sshd import Sshd, sshd
from tests.test_ssh import lost, program
from tests.test_ssh_install import made

__all__ = ["sshd"]

OLD, NEW, OTHER = "0d" * 20, "ee" * 20, "0f" * 20
ONE_SHOT = 'how = "one-shot", command = "{command}", reboot = "reboot"'
KEXEC = 'how = "kexec", parameters = "mark=1"'


def notes(build_id: str) -> bytes:
    return struct.pack("<III", 4, 20, 3) + b"GNU\0" + bytes.fromhex(build_id)


class Pretender:
    """The host: what runs on it, and what a reset does."""

    def __init__(self, keys: Sshd) -> None:
        self.keys = keys
        self.state = keys.folder / "state"
        self.state.mkdir()
        self.console = keys.folder / "console"
        self.console.touch()
        self.stays_away = False
        self.own = OLD
        self.boots: list[str] = []
        self._stop = threading.Event()
        self._boot(self.own)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _boot(self, build_id: str, line: str = "ro quiet") -> None:
        self.boots.append(build_id)
        (self.state / "notes").write_bytes(notes(build_id))
        (self.state / "boot_id").write_text(f"{uuid.uuid4()}\n")
        (self.state / "cmdline").write_text(f"{line}\n")

    def _watch(self) -> None:
        reset, chosen = self.state / "reset", self.state / "next"
        while not self._stop.wait(0.05):
            if reset.exists():
                words = chosen.read_text().strip().split(maxsplit=1) if chosen.exists() else []
                self.reset(*words or [self.own])
                reset.unlink()
                chosen.unlink(missing_ok=True)

    def reset(self, build_id: str, line: str = "ro quiet") -> None:
        """Come up with that kernel, or not at all."""
        self.keys.stop()
        if not self.stays_away:
            self._boot(build_id, line)
            self.keys.start()

    def die(self, words: str) -> None:
        """Panic: the firmware boots what is always there."""
        with self.console.open("a") as file:
            file.write(words)
        self.reset(self.own)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def write_hosts(self, boot: str, **values: str) -> None:
        """Write the hosts file, with an inline table of how it boots."""
        self.keys.write_hosts(
            folder=f'"{self.keys.folder / "kernels"}"',
            console=f"\"tail -n +1 -F '{self.console}'\"",
            boot=f"{{ {boot} }}",
            **({"boot_timeout": "20", "silence": "5"} | values),
        )

    def one_shot(self, build_id: str) -> str:
        """Return a way to boot that makes the next boot that of a build."""
        return ONE_SHOT.format(
            command=f"test -s $SNPTEST_KERNEL && echo {build_id} > {self.state}/next"
        )


@pytest.fixture
def host(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretender]:
    """The host; insmod, kexec and reboot are ours."""
    pretender = Pretender(sshd)
    source = remote.BOOTSTRAP.read_text()
    changed = source.replace("/proc/sys/kernel/random/boot_id", f"{pretender.state}/boot_id")
    changed = changed.replace("/sys/kernel/notes", f"{pretender.state}/notes")
    changed = changed.replace("/sys/module/", f"{pretender.state}/module/")
    changed = changed.replace("/proc/cmdline", f"{pretender.state}/cmdline")
    (sshd.folder / "bootstrap.py").write_text(changed)
    monkeypatch.setattr(remote, "BOOTSTRAP", sshd.folder / "bootstrap.py")
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 3.0)
    monkeypatch.setattr(ssh_session, "_why_no_kvm", lambda kernel: None)
    monkeypatch.setattr(ssh_session, "_wrong_module", lambda kernel, build: None)
    bin_folder = sshd.folder / "bin"
    go = f"touch {pretender.state}/reset; sleep 30"
    program(bin_folder / "reboot", f"#!/bin/sh\n{go}\n")
    program(bin_folder / "insmod", f'#!/bin/sh\necho "$1" >> {pretender.state}/loaded\n')
    load = f'echo "$@" > {pretender.state}/kexec; echo {NEW} "$@" > {pretender.state}/next'
    script = f"#!/bin/sh\ncase $1 in --load) {load};; -e) {go};; esac\n"
    program(bin_folder / "kexec", script)
    program(bin_folder / "systemctl", f"#!/bin/sh\n{go}\n")
    sshd.stop()
    sshd.options = [f"SetEnv PATH={bin_folder}:/usr/sbin:/usr/bin:/sbin:/bin"]
    sshd.start()
    yield pretender
    pretender.stop()


@pytest.fixture
def build(tmp_path: Path) -> KernelBuild:
    """A kernel whose build id is NEW."""
    made_build = dataclasses.replace(made(tmp_path), release=os.uname().release)
    command = ["gcc", "-x", "c", "-", "-nostdlib", "-shared", f"-Wl,--build-id=0x{NEW}"]
    vmlinux = made_build.vmlinux
    subprocess.run([*command, "-o", str(vmlinux)], input=b"int x;", check=True, timeout=60)
    assert made_build.build_id == NEW
    return made_build


def test_a_kernel_is_installed_booted_and_verified(host: Pretender, build: KernelBuild) -> None:
    host.write_hosts(host.one_shot(NEW))
    session = Session(hosts.get("box"), build)
    with session.open() as kernel:
        assert kernel.read_file("/proc/uptime")
        assert kernel.release == build.release
        assert kernel.symbols is not None
    assert host.boots == [OLD, NEW]
    loaded = (host.state / "loaded").read_text().split()
    assert Path(loaded[-1]).name == "kvm-amd.ko"  # kvm.ko, only where it is not loaded yet
    with session.open():
        assert host.boots == [OLD, NEW], "it runs already"
    session.close()
    again = Session(hosts.get("box"), build)
    with again.open():
        assert host.boots == [OLD, NEW], "for another run, too"
    again.close()


def module(path: Path, build_id: str) -> None:
    """Make what has the build id of a module."""
    command = ["gcc", "-x", "c", "-", "-r", "-nostdlib", f"-Wl,--build-id=0x{build_id}"]
    subprocess.run([*command, "-o", str(path)], input=b"int x;", check=True, timeout=60)


def test_other_modules_make_it_another_kernel(host: Pretender, build: KernelBuild) -> None:
    """Two series that change KVM only have one vmlinux, and so one build id."""
    host.write_hosts(host.one_shot(NEW))
    module(build.directory / "kvm-amd.ko", OTHER)
    assert build.module_ids()["kvm_amd"] == OTHER
    session = Session(hosts.get("box"), build)
    session.open().shutdown()
    assert host.boots == [OLD, NEW]
    loaded = host.state / "module/kvm_amd/notes"
    loaded.mkdir(parents=True)
    (loaded / ".note.gnu.build-id").write_bytes(notes(OTHER))
    session.open().shutdown()
    assert host.boots == [OLD, NEW], "it is the build's own"
    (loaded / ".note.gnu.build-id").write_bytes(notes(OLD))
    session.open().shutdown()
    assert host.boots == [OLD, NEW, NEW], "it is another's, and not to be tested in its place"
    session.close()


def test_the_module_that_was_loaded_has_to_be_the_builds(
    host: Pretender, build: KernelBuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.write_hosts(host.one_shot(NEW))
    monkeypatch.undo()
    module(build.directory / "kvm-amd.ko", OTHER)

    class Reader:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def call(self, op: object) -> Reader:
            return self

    wrong = ssh_session._wrong_module
    assert wrong(Reader(notes(OTHER)), build) is None  # type: ignore[arg-type]
    said = wrong(Reader(notes(OLD)), build)  # type: ignore[arg-type]
    assert said == "module kvm_amd there is not the one of made"


def test_kexec_is_given_image_and_command_line(host: Pretender, build: KernelBuild) -> None:
    host.write_hosts(KEXEC + ', prepare = "echo initrd > $SNPTEST_INITRD"')
    session = Session(hosts.get("box"), build)
    session.open().shutdown()
    session.close()
    assert host.boots == [OLD, NEW]
    words = (host.state / "kexec").read_text()
    assert words.startswith(f"--load {host.keys.folder}/kernels/kernel-")
    assert "/bzImage --initrd=" in words
    assert "panic=10 oops=panic" in words
    assert "mark=1" in words


def test_kernels_run_with_the_parameters_of_the_host(host: Pretender, build: KernelBuild) -> None:
    """The same kernel without them, booted by somebody else, is booted again."""
    host.write_hosts(KEXEC)
    host.reset(NEW)
    session = Session(hosts.get("box"), build)
    session.open().shutdown()
    assert host.boots == [OLD, NEW, NEW]
    session.open().shutdown()
    session.close()
    again = Session(hosts.get("box"), build)
    again.open().shutdown()
    again.close()
    assert host.boots == [OLD, NEW, NEW], "it runs already, with them"
    host.write_hosts('how = "kexec"')
    less = Session(hosts.get("box"), build)
    less.open().shutdown()
    less.close()
    assert host.boots == [OLD, NEW, NEW, NEW], "with more than is asked for"


def test_the_hosts_own_kernel_may_be_of_the_same_build(host: Pretender, build: KernelBuild) -> None:
    """A kexec that never got there is no success, although the build id is the right one."""
    host.own = NEW
    host.reset(NEW)
    host.write_hosts(KEXEC)
    kexec = host.keys.folder / "bin/kexec"
    kexec.write_text(kexec.read_text().replace(f"{host.state}/next", "/dev/null"))
    session = Session(hosts.get("box"), build)
    with pytest.raises(BootError, match="kernel made did not boot on box, which came back with"):
        session.open()
    session.close()


def test_one_shot_commands_get_the_parameters(host: Pretender, build: KernelBuild) -> None:
    """A command that makes use of them is held to that."""
    entry = f"echo {NEW} $SNPTEST_PARAMETERS > {host.state}/next"
    host.write_hosts(ONE_SHOT.format(command=entry))
    session = Session(hosts.get("box"), build)
    session.open().shutdown()
    session.close()
    assert "panic=10" in (host.state / "cmdline").read_text()
    entry = f": $SNPTEST_PARAMETERS; echo {NEW} > {host.state}/next"
    host.reset(OTHER)
    host.write_hosts(ONE_SHOT.format(command=entry))
    session = Session(hosts.get("box"), build)
    with pytest.raises(BootError, match="a boot of made came up that nobody asked for"):
        session.open()
    session.close()


def test_a_kernel_that_died_is_booted_again(host: Pretender, build: KernelBuild) -> None:
    host.write_hosts(host.one_shot(NEW))
    session = Session(hosts.get("box"), build)
    kernel = session.open()
    host.die("[    9.0] Kernel panic - not syncing: sysrq triggered crash\n")
    lost(kernel)
    death = kernel.autopsy()
    assert death.kind == Kind.PANIC
    assert not death.blameless
    assert "sysrq triggered crash" in kernel.log()
    kernel.shutdown()
    assert host.boots == [OLD, NEW, OLD]
    with session.open() as kernel:
        assert kernel.read_file("/proc/uptime")
    assert host.boots == [OLD, NEW, OLD, NEW]
    session.close()


def test_a_lost_connection_is_no_reboot(host: Pretender, build: KernelBuild) -> None:
    host.write_hosts(host.one_shot(NEW))
    session = Session(hosts.get("box"), build)
    kernel = session.open()
    host.keys.signal(signal.SIGKILL)
    lost(kernel)
    assert kernel.autopsy().blameless
    kernel.shutdown()
    with session.open():
        assert host.boots == [OLD, NEW]
    session.close()


def test_what_comes_back_as_before_did_not_boot(host: Pretender, build: KernelBuild) -> None:
    host.write_hosts(host.one_shot(OLD))
    with host.console.open("a") as file:
        file.write("[ 1.0] Kernel panic - not syncing: of another day\n")
    session = Session(hosts.get("box"), build)
    with pytest.raises(
        BootError, match=r"kernel made did not boot on box, which came back"
    ) as caught:
        session.open()
    assert not caught.value.final
    session.close()


def test_the_wrong_kernel_is_told(host: Pretender, build: KernelBuild) -> None:
    host.write_hosts(host.one_shot(OTHER))
    session = Session(hosts.get("box"), build)
    with pytest.raises(BootError, match=r"the wrong kernel came up: .*build id 0f0f0f.*not made"):
        session.open()
    session.close()


def test_a_host_that_stays_away_is_power_cycled(host: Pretender, build: KernelBuild) -> None:
    host.stays_away = True
    cycled = host.keys.folder / "cycled"
    host.write_hosts(host.one_shot(NEW), boot_timeout="3", power_cycle=f"\"touch '{cycled}'\"")
    session = Session(hosts.get("box"), build)
    with pytest.raises(BootError, match=r"did not come up within \d+ s; power-cycled"):
        session.open()
    assert cycled.exists()
    # The next attempt waits for it, though it was never in the kernel asked for.
    host.stays_away = False
    threading.Timer(1.0, host.reset, [OLD]).start()
    host.write_hosts(host.one_shot(NEW), boot_timeout="20")
    session.host = hosts.get("box")
    with session.open():
        assert host.boots[-1] == NEW
    session.close()


@pytest.mark.parametrize(
    ("boot", "said"),
    [
        (
            'how = "one-shot", command = "echo no entry; exit 4"',
            "boot.command fails: status 4: no en",
        ),
        ('how = "kexec", prepare = "exit 5"', "boot.prepare fails: status 5"),
    ],
)
def test_commands_that_fail_are_told(
    host: Pretender, build: KernelBuild, boot: str, said: str
) -> None:
    host.write_hosts(boot)
    session = Session(hosts.get("box"), build)
    with pytest.raises(HostError, match=said):
        session.open()
    session.close()
    assert host.boots == [OLD]


def test_kexec_that_loads_nothing(host: Pretender, build: KernelBuild) -> None:
    host.write_hosts(KEXEC)
    program(
        host.keys.folder / "bin/kexec", "#!/bin/sh\necho 'syscall is not available' >&2\nexit 255\n"
    )
    session = Session(hosts.get("box"), build)
    why = r"kexec does not load made: its kernel has no kexec: status 255: syscall is not"
    with pytest.raises(HostError, match=why):
        session.open()
    session.close()


SEGMENTS = "".join(f"segment[{number}].buf   = 0x7f3b6ba35010\n" for number in range(40))
EPERM, EACCES = "Operation not permitted", "Permission denied"
LOCKED, OPEN = "none [integrity] confidentiality\n", "[none] integrity confidentiality\n"


@pytest.mark.parametrize(
    ("by_load", "by_file", "lockdown", "disabled", "said"),
    [
        (EPERM, EPERM, LOCKED, "0", r"its kernel is locked down \(integrity\).*Secure Boot"),
        (EPERM, "Required key not available", LOCKED, "0", r"is locked down \(integrity\)"),
        (EACCES, "Key was rejected by service", LOCKED, "0", r"is locked down \(integrity\)"),
        (EPERM, "", LOCKED, "0", r"is locked down .*kexec_load failed: Operation not permitted"),
        (EPERM, "Required key not available", OPEN, "0", "takes signed kernels only.*SIG_FORCE"),
        (EPERM, EPERM, OPEN, "1\n", "kernel.kexec_load_disabled is 1 there"),
        (EPERM, EPERM, "", "1\n", "kernel.kexec_load_disabled is 1 there"),
        ("Invalid argument", "Invalid argument", LOCKED, "0", "made: status 255: kexec_load"),
        ("Function not implemented", "", OPEN, "0", "its kernel has no kexec: .*CONFIG_KEXEC"),
    ],
)
def test_kexec_that_is_refused_is_told_with_its_cause(
    host: Pretender,
    build: KernelBuild,
    monkeypatch: pytest.MonkeyPatch,
    by_load: str,
    by_file: str,
    lockdown: str,
    disabled: str,
    said: str,
) -> None:
    """What is shut, and not only that a call failed; the reason comes before the segments."""
    files = {"LOCKDOWN": lockdown, "DISABLED": disabled}
    for name, text in files.items():
        (host.state / name).write_text(text)
        monkeypatch.setattr(kexec, name, str(host.state / name))
    (host.state / "segments").write_text(SEGMENTS)
    by_file = f"kexec_file_load failed: {by_file}" if by_file else "kexec_file_load not available."
    program(
        host.keys.folder / "bin/kexec",
        f"#!/bin/sh\ncase $* in *--kexec-file-syscall*) echo '{by_file}' >&2 ;;\n"
        f"*) echo 'kexec_load failed: {by_load}'; cat {host.state}/segments ;;\n"
        "esac\nexit 255\n",
    )
    host.write_hosts(KEXEC)
    session = Session(hosts.get("box"), build)
    with pytest.raises(HostError, match=said) as caught:
        session.open()
    session.close()
    assert "segment" not in str(caught.value)
    assert host.boots == [OLD]


def test_a_host_without_kexec(host: Pretender, build: KernelBuild) -> None:
    host.write_hosts(KEXEC)
    program(host.keys.folder / "bin/kexec", "#!/bin/sh\nexec no-such-program\n")
    session = Session(hosts.get("box"), build)
    with pytest.raises(HostError, match=r"there is no kexec \(install kexec-tools there"):
        session.open()
    session.close()


def test_a_module_that_does_not_load(host: Pretender, build: KernelBuild) -> None:
    host.write_hosts(host.one_shot(NEW))
    program(host.keys.folder / "bin/insmod", "#!/bin/sh\necho 'Unknown symbol'\nexit 1\n")
    session = Session(hosts.get("box"), build)
    with pytest.raises(HostError, match=r"module kvm\w* does not load: status 1: Unknown symbol"):
        session.open()
    session.close()


def test_a_host_lost_while_it_is_installed(
    host: Pretender, build: KernelBuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks in the middle of the copying: it is done again, and goes on."""
    host.write_hosts(host.one_shot(NEW))
    calls = []

    def install(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise TargetError("lost")
        return ssh_install.install(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bringup, "install", install)
    session = Session(hosts.get("box"), build)
    with session.open():
        assert host.boots == [OLD, NEW]
    session.close()
