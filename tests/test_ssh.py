# SPDX-License-Identifier: GPL-2.0-only
"""The ssh backend against a real sshd on this machine, and everything that can break it."""

from __future__ import annotations

import dataclasses
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import backends
from harness.backends.base import Unconfigurable
from harness.errors import HostError, UsageError
from harness.kbuild import buildid
from harness.operations import Open, ReadFile, TargetError, TargetTimeoutError
from harness.places import ROOT
from harness.report.outcome import Outcome, Result
from harness.runner import Run
from harness.ssh import connection, fate, hosts, link, remote
from harness.ssh import kernel as ssh_kernel
from harness.ssh.kernel import SshKernel
from harness.ssh.session import Session
from harness.target import Target
from harness.uapi.interfaces import MERGED
from harness.vm.host import Host
from harness.vng.autopsy import Kind
from tests.sshd import Sshd, descendants, kill_below, sshd

__all__ = ["sshd"]

PYENV = Path("~/.pyenv/versions").expanduser()
"""Where some machines have several Pythons."""

needs_kvm = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="this machine has no /dev/kvm to lend"
)


@pytest.fixture
def opened(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A session with the box: 3 s without a sign of life are too many, 5 s make a reboot."""
    sshd.write_hosts(silence="3", boot_timeout="5")
    monkeypatch.setattr(Session, "_unfit", staticmethod(lambda facts: None))
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 2.0)
    made = Session(hosts.get("box"))
    yield made
    made.close()


@pytest.fixture
def kernel(opened: Session) -> Iterator[SshKernel]:
    with opened.open() as kernel:
        yield kernel


def lost(kernel: SshKernel, timeout: float = 20.0) -> float:
    """Wait until the kernel is lost; return the seconds that took."""
    began = time.monotonic()
    while time.monotonic() - began < timeout:
        try:
            kernel.call(ReadFile("/proc/uptime"), timeout=timeout)
        except TargetTimeoutError:
            continue
        except TargetError:
            return time.monotonic() - began
        time.sleep(0.05)
    pytest.fail("the kernel was not lost")


def agent_of(kernel: SshKernel) -> int:
    pid = kernel.hello["pid"]
    assert isinstance(pid, int)
    return pid


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def gone(pid: int, timeout: float = 10.0) -> bool:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_the_running_kernel_is_driven(kernel: SshKernel, opened: Session) -> None:
    assert kernel.release == os.uname().release
    assert kernel.hello["release"] == os.uname().release
    notes = Path("/sys/kernel/notes").read_bytes()
    assert opened.boot is not None
    assert opened.boot.build_id == buildid.of_notes(notes)
    address = kernel.mmap(8 << 20)
    data = os.urandom(6 << 20)
    kernel.write(address, data)
    assert kernel.read(address, len(data)) == data
    done = kernel.run_program(["sh", "-c", "echo out; exit 3"])
    assert (done.status, done.output) == (3, b"out\n")
    tickets = [kernel.start([Open("/dev/null")], thread=number) for number in range(8)]
    assert all(kernel.wait(ticket)[0].ok for ticket in tickets)


def test_shutdown_ends_the_agent_and_frees_the_host(opened: Session) -> None:
    first = opened.open()
    pid = agent_of(first)
    first.shutdown()
    assert gone(pid)
    with opened.open() as second:
        assert agent_of(second) != pid


GARBAGE = """\
printf 'Welcome to \\033[31mbox\\377\\0 ready\\n{"error": "no"}'
head -c 100000 /dev/zero | tr '\\0' x
echo 'and on stderr' >&2
eval "$SSH_ORIGINAL_COMMAND"
"""


def test_what_login_scripts_print_does_not_matter(sshd: Sshd, opened: Session) -> None:
    login_script(sshd, GARBAGE)
    with opened.open() as kernel:
        assert kernel.read_file("/proc/uptime")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'This account is \\033[1mnot available.'; exit 1", r"status 1; it said: This acc"),
        ("exec sh -c 'PATH=/nowhere; python3' ", r"status 127.*needs python3"),
        ("yes", "prints without end"),
        ("sleep 60", "no word within 2 s.*login scripts"),
        ('head -c 10 >/dev/null; eval "$SSH_ORIGINAL_COMMAND"', "no word within 2 s"),
        ("kill -9 $PPID", "connection was closed|connection broke"),
    ],
)
def test_hosts_that_do_not_start_the_agent(
    sshd: Sshd, opened: Session, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    """Each is told in one line, none hangs, and no control character gets through."""
    monkeypatch.setattr(remote, "GREETING_TIMEOUT", 2.0)
    login_script(sshd, script)
    began = time.monotonic()
    with pytest.raises(HostError, match=said) as caught:
        opened.open()
    assert "\x1b" not in str(caught.value)
    assert time.monotonic() - began < 25


def login_script(sshd: Sshd, text: str) -> None:
    """Have the box run a script in place of what it is asked for."""
    (sshd.folder / "login.sh").write_text(text)
    sshd.stop()
    sshd.options = [f"ForceCommand sh {sshd.folder / 'login.sh'}"]
    sshd.start()


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_the_agent_is_started_by_sudo(sshd: Sshd, opened: Session) -> None:
    """Sudo itself is replaced by a program that notes how it was called."""
    called = sshd.folder / "called"
    bin_folder = sshd.folder / "bin"
    program(bin_folder / "sudo", f'#!/bin/sh\necho "$1 $2" > {called}\nshift\nexec "$@"\n')
    login_script(sshd, f'PATH={bin_folder}:$PATH; eval "$SSH_ORIGINAL_COMMAND"')
    sshd.write_hosts(sudo="true")
    mine = Session(hosts.get("box"))
    with mine.open() as kernel:
        assert kernel.read_file("/proc/uptime")
    mine.close()
    assert called.read_text() == "-n python3\n"
    program(bin_folder / "sudo", "#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    with pytest.raises(HostError, match=r"a password is required.*does `sudo -n python3"):
        Session(hosts.get("box")).open()


def test_an_old_python_on_the_host_is_enough(sshd: Sshd, opened: Session) -> None:
    """What is sent runs with Python 3.9: Debian 11 has it."""
    old = next(map(str, PYENV.glob("3.9.*/bin/python3.9")), None) or shutil.which("python3.9")
    if old is None:
        pytest.skip("there is no Python 3.9 here")
    program(sshd.folder / "bin/python3", f'#!/bin/sh\nexec {old} "$@"\n')
    login_script(sshd, f'PATH={sshd.folder}/bin:$PATH; eval "$SSH_ORIGINAL_COMMAND"')
    with opened.open() as kernel:
        assert str(kernel.hello["python"]).startswith("3.9.")
        assert kernel.run_program(["true"]).status == 0


def test_tests_are_noted_in_the_hosts_log(kernel: SshKernel) -> None:
    note = f"suites/psc/test_x.py::test_{os.getpid()}\x1b[31m"
    kernel.mark(note)
    kernel.mark("another")
    assert kernel.read_file("/proc/uptime")
    log = kernel.log()
    if "may not read" in log or not os.access("/dev/kmsg", os.W_OK):
        pytest.skip("the kernel log is not ours here")
    assert f"snptest: suites/psc/test_x.py::test_{os.getpid()}" in log
    assert "\x1b[31m" not in log


def test_a_host_that_is_away_when_the_run_goes_on_is_waited_for(
    sshd: Sshd, opened: Session
) -> None:
    sshd.write_hosts(boot_timeout="30")
    mine = Session(hosts.get("box"))
    mine.open().shutdown()
    sshd.stop()
    late = threading.Timer(2.0, sshd.start)
    late.start()
    with mine.open() as kernel:
        assert kernel.read_file("/proc/uptime")
    late.join()
    mine.close()


def test_two_runs_are_kept_apart_and_the_holder_is_named(
    kernel: SshKernel, opened: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PATIENCE", 0.5)
    other = Session(hosts.get("box"))
    with pytest.raises(HostError) as caught:
        other.open()
    other.close()
    me = rf"in use by \w+@{re.escape(socket.gethostname())}, process {os.getpid()} since 20"
    assert re.search(me, caught.value.message)
    assert f"process {parent(agent_of(kernel))} there" in caught.value.message
    assert kernel.read_file("/proc/uptime"), "the first run goes on"


def test_a_run_waits_for_one_that_ends(kernel: SshKernel) -> None:
    other = Session(hosts.get("box"))
    threading.Timer(0.7, kernel.shutdown).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "_unfit", staticmethod(lambda facts: None))
        with other.open() as second:
            assert second.read_file("/proc/uptime")
    other.close()


CONTROLLER = """
import sys, time
from harness.ssh import hosts, session
session.Session._unfit = staticmethod(lambda facts: None)
kernel = session.Session(hosts.get("box")).open()
print(kernel.hello["pid"], flush=True)
time.sleep(60)
"""


def test_a_killed_controller_leaves_the_host_free(sshd: Sshd, opened: Session) -> None:
    controller = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert controller.stdout is not None
    pid = int(controller.stdout.readline())
    controller.kill()
    controller.wait(10)
    controller.stdout.close()
    with opened.open() as kernel:
        assert agent_of(kernel) != pid
    assert gone(pid)


def test_a_killed_agent_is_told_with_its_signal(kernel: SshKernel, opened: Session) -> None:
    os.kill(agent_of(kernel), signal.SIGKILL)
    assert lost(kernel) < 5
    death = kernel.autopsy()
    assert death.kind == Kind.AGENT_KILLED
    assert "killed by signal 9" in death.summary
    assert not death.blameless
    kernel.shutdown()
    opened.open().shutdown()


def test_a_killed_keeper_takes_the_agent_with_it(kernel: SshKernel, opened: Session) -> None:
    pid = agent_of(kernel)
    os.kill(parent(pid), signal.SIGKILL)
    assert lost(kernel) < 5
    assert gone(pid)
    assert kernel.autopsy().kind == Kind.AGENT_KILLED
    kernel.shutdown()
    opened.open().shutdown()


def test_a_killed_connection_is_blameless_and_the_run_goes_on(
    sshd: Sshd, kernel: SshKernel, opened: Session
) -> None:
    pid = agent_of(kernel)
    sshd.signal(signal.SIGKILL, connections=True)
    assert lost(kernel) < 5
    death = kernel.autopsy()
    assert death.kind == fate.CONNECTION_LOST
    assert death.blameless
    assert "the host runs on" in death.summary
    kernel.shutdown()
    with opened.open() as again:
        assert again.read_file("/proc/uptime")
    assert gone(pid)


def test_a_frozen_connection_is_noticed_and_replaced(
    sshd: Sshd, kernel: SshKernel, opened: Session
) -> None:
    """Nothing closes it, and the agent behind it has the lock: it is one of this run's own."""
    pid = agent_of(kernel)
    sshd.signal(signal.SIGSTOP, connections=True)
    seconds = lost(kernel)
    assert 1 < seconds < 10
    death = kernel.autopsy()
    assert death.kind == fate.CONNECTION_LOST
    assert "no sign of life from box for" in death.summary
    assert death.blameless
    kernel.shutdown()
    with opened.open() as again:
        assert again.read_file("/proc/uptime")
        assert gone(pid)


def test_a_connection_that_freezes_under_load_hangs_nobody(
    sshd: Sshd, kernel: SshKernel, opened: Session
) -> None:
    """Every buffer on the way is full: what sends, and what ends the kernel, does so in time."""
    address = kernel.mmap(64 << 20)
    sshd.signal(signal.SIGSTOP, connections=True)
    began = time.monotonic()
    with pytest.raises(TargetError):
        for _ in range(20):
            kernel.write(address, bytes(16 << 20))
    kernel.shutdown()
    assert time.monotonic() - began < 45
    with opened.open() as again:
        assert again.read_file("/proc/uptime")


def test_a_frozen_agent_is_not_taken_for_a_lost_connection(
    sshd: Sshd, kernel: SshKernel, opened: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_kernel, "ANSWER_TIMEOUT", 1.0)
    os.kill(agent_of(kernel), signal.SIGSTOP)
    with pytest.raises(TargetTimeoutError):
        kernel.call(ReadFile("/proc/uptime"), timeout=0.5)
    assert kernel.autopsy().kind == fate.AGENT_HANGS
    kernel.shutdown()
    with opened.open() as again:
        assert again.read_file("/proc/uptime")


def test_a_call_that_does_not_end_is_stuck(kernel: SshKernel, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ticket = kernel.start([Open(str(tmp_path / "fifo"), os.O_RDONLY)])
    with pytest.raises(TargetTimeoutError):
        kernel.wait(ticket, 0.5)
    assert kernel.autopsy().kind == Kind.STUCK


def test_a_host_where_sshd_is_gone_is_lost_blameless(sshd: Sshd, kernel: SshKernel) -> None:
    sshd.stop()
    assert lost(kernel) < 5
    death = kernel.autopsy()
    assert death.kind == fate.HOST_LOST
    assert "connection refused" in death.summary
    assert death.blameless


def test_a_host_that_stays_silent_is_power_cycled(sshd: Sshd, opened: Session) -> None:
    """It may have panicked: that is held against the kernel, and the power switch is used."""
    proof = sshd.folder / "cycled"
    sshd.write_hosts(silence="3", boot_timeout="2", power_cycle=f"\"echo geheim | tee '{proof}'\"")
    mine = Session(hosts.get("box"))
    kernel = mine.open()
    sshd.freeze()
    lost(kernel)
    death = kernel.autopsy()
    assert death.kind == fate.HOST_SILENT
    assert not death.blameless
    assert death.summary.endswith("; power-cycled")
    assert proof.read_text() == "geheim\n"
    assert "geheim" not in death.summary
    kernel.shutdown()


def rebooted(opened: Session) -> None:
    """Have the session believe that it met the host before its last boot."""
    assert opened.boot is not None
    opened.boot = dataclasses.replace(opened.boot, id="before")


PANIC = """\
Panic#1 Part1
<6>[  100.0] snptest: a line before
<4>[  100.1] BUG: kernel NULL pointer dereference, address: 0000000000000008
<4>[  100.1] Oops: Oops: 0002 [#1] SMP
<0>[  100.2] Kernel panic - not syncing: Fatal exception
"""


def test_a_reboot_is_a_crash_told_by_pstore(
    sshd: Sshd, kernel: SshKernel, opened: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = sshd.folder / "pstore"
    kept.mkdir()
    (kept / "dmesg-ramoops-0").write_text("Kernel panic - not syncing: of last year\n")
    os.utime(kept / "dmesg-ramoops-0", (1e9, 1e9))
    (kept / "dmesg-ramoops-1").write_text(PANIC)
    program = sshd.folder / "bootstrap.py"
    source = remote.BOOTSTRAP.read_text()
    program.write_text(source.replace('"/sys/fs/pstore"', repr(str(kept))))
    monkeypatch.setattr(remote, "BOOTSTRAP", program)
    rebooted(opened)
    sshd.signal(signal.SIGKILL)
    lost(kernel)
    death = kernel.autopsy()
    assert death.kind == Kind.OOPS
    assert "NULL pointer dereference" in death.summary
    assert "booted anew" in death.summary
    assert not death.blameless
    assert "Fatal exception" in kernel.log()
    kernel.shutdown()
    opened.open().shutdown()


def test_a_reboot_without_a_word(sshd: Sshd, kernel: SshKernel, opened: Session) -> None:
    rebooted(opened)
    sshd.signal(signal.SIGKILL)
    lost(kernel)
    death = kernel.autopsy()
    assert death.kind == Kind.RESET
    assert "neither pstore nor console says why" in death.summary


def printer(sshd: Sshd) -> tuple[str, Path]:
    """Return a console command, in TOML, and the file that it prints."""
    path = sshd.folder / "console"
    path.write_text("[    1.0] Kernel panic - not syncing: before the run\n")
    return f"\"echo geheim >&2; exec tail -n +1 -f '{path}'\"", path


def wait_until(true: Callable[[], bool], timeout: float = 10.0) -> None:
    until = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.05)


def test_a_panic_without_reboot_is_told_by_the_console(sshd: Sshd, opened: Session) -> None:
    command, path = printer(sshd)
    sshd.write_hosts(silence="3", boot_timeout="2", console=command)
    mine = Session(hosts.get("box"))
    mine.open().shutdown()
    wait_until(lambda: "before the run" in mine.console.tail())
    kernel = mine.open()
    sshd.freeze()
    with path.open("a") as file:
        file.write("[   99.0] Kernel panic - not syncing: \x1b[31mhung_task: blocked tasks\r\n")
    lost(kernel)
    death = kernel.autopsy()
    assert death.kind == Kind.HUNG_TASK
    assert "did not come back" in death.summary
    assert not death.blameless
    assert "hung_task" in kernel.log()
    assert "before the run" not in kernel.log()
    kernel.shutdown()
    mine.close()


def test_last_words_end_where_the_next_boot_begins(sshd: Sshd, opened: Session) -> None:
    command, path = printer(sshd)
    sshd.write_hosts(console=command)
    mine = Session(hosts.get("box"))
    mine.open().shutdown()
    wait_until(lambda: "before the run" in mine.console.tail())
    kernel = mine.open()
    rebooted(mine)
    with path.open("a") as file:
        file.write("[   99.0] kernel BUG at mm/slub.c:1!\n")
        file.write("[   99.0] Kernel panic - not syncing: Fatal exception\n")
        file.write("\x1b[2JBIOS\r\n[    0.000000] Linux version 6.1.0 (of the host) #1\r\n")
        file.write("[    9.0] Kernel panic - not syncing: of the next boot\r\n")
    sshd.signal(signal.SIGKILL)
    lost(kernel)
    death = kernel.autopsy()
    assert death.kind == Kind.OOPS
    assert "kernel BUG at mm/slub.c" in death.summary
    assert "Fatal exception" in kernel.log()
    assert "Linux version" not in kernel.log()
    kernel.shutdown()
    mine.close()


def test_a_console_is_ended_and_started_again(sshd: Sshd, opened: Session) -> None:
    command, _ = printer(sshd)
    sshd.write_hosts(console=command)
    mine = Session(hosts.get("box"))
    mine.open().shutdown()
    process = mine.console._process
    assert process is not None
    wait_until(lambda: "before the run" in mine.console.tail())
    kill_below(process.pid)
    process.wait(10)
    with mine.open() as kernel:
        wait_until(lambda: "before the run" in mine.console.tail())
        assert kernel.read_file("/proc/uptime")
    process = mine.console._process
    assert process is not None
    below = descendants(process.pid)
    mine.close()
    assert all(gone(pid) for pid in below)


def test_a_console_command_that_fails_does_not_matter(sshd: Sshd, opened: Session) -> None:
    sshd.write_hosts(console='"exit 3"')
    mine = Session(hosts.get("box"))
    with mine.open() as kernel:
        assert kernel.read_file("/proc/uptime")
    mine.close()


@pytest.mark.parametrize(("number", "said"), [(0, "#2 another"), (1, "build id feed")])
def test_another_kernel_after_a_reboot_ends_the_run(
    opened: Session, number: int, said: str
) -> None:
    opened.open().shutdown()
    assert opened.boot is not None
    other: dict[str, Any] = {"version": "#2 another"} if number == 0 else {"build_id": "feed"}
    opened.boot = dataclasses.replace(opened.boot, id="before", **other)
    with pytest.raises(HostError, match=rf"came back with another kernel: .* not .*{said}"):
        opened.open()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without room for a byte or a file."""
    folder = tmp_path / "full"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=8", "none", str(folder)]
    if subprocess.run(command, capture_output=True, timeout=30, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(OSError):
            for number in range(8):
                (folder / str(number)).write_bytes(bytes(16384))
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=30)


def test_a_full_disk_on_the_host(sshd: Sshd, opened: Session, full_disk: Path) -> None:
    """A lock that is there is enough; one that cannot be made is told."""
    lock = next(full_disk.iterdir())
    sshd.write_hosts(lock=f'"{lock}"')
    mine = Session(hosts.get("box"))
    with mine.open() as kernel:
        assert kernel.read_file("/proc/uptime")
    mine.close()
    with pytest.raises(OSError):
        for number in range(20):
            (full_disk / f"more{number}").touch()
    sshd.write_hosts(lock=f'"{full_disk}/lock"')
    with pytest.raises(HostError, match=r"lock.*cannot be opened: No space left on device"):
        Session(hosts.get("box")).open()


def test_a_host_without_kvm_is_not_fit(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    program = sshd.folder / "bootstrap.py"
    source = remote.BOOTSTRAP.read_text()
    program.write_text(source.replace('"/dev/kvm"', '"/dev/kvm-not-there"'))
    monkeypatch.setattr(remote, "BOOTSTRAP", program)
    with pytest.raises(HostError, match=r"there is no /dev/kvm.*doctor --host box"):
        Session(hosts.get("box")).open()


def test_what_the_backend_cannot_do(sshd: Sshd) -> None:
    backend = backends.get("ssh")
    assert backend.reusable
    assert backend.side_by_side == 1
    with backend.open(Target("ssh", host="box")) as kernel:
        with pytest.raises(Unconfigurable, match="taken as it runs"):
            backend.configure(Host(kernel, MERGED), {"sev_snp": False})
    with pytest.raises(UsageError, match="is not said to boot kernels"):
        backend.check(Target("ssh", host="box", kernel="mine"))
    with pytest.raises(UsageError, match="needs --host"):
        backend.check(Target("ssh"))
    sshd.known_hosts.write_text("")
    with pytest.raises(HostError, match="is not known"):
        backend.check(Target("ssh", host="box"))


SUITE = """
import os, time
import pytest

def test_before(kernel):
    assert kernel.read_file("/proc/sys/kernel/ostype") == "Linux\\n"

def test_during(kernel):
    open({mark!r}, "w").close()
    while True:
        kernel.read_file("/proc/uptime")
        time.sleep(0.05)

def test_after(kernel, boot):
    assert kernel.read_file("/proc/sys/kernel/ostype") == "Linux\\n"

def test_other_parameters(boot):
    boot(sev_snp=False)
"""


def suite(sshd: Sshd, then: Callable[[], None], *more: str) -> tuple[dict[str, Result], Run]:
    """Run a small suite on the box; do something while its second test runs."""
    mark = sshd.folder / "mark"
    path = sshd.folder / "test_small.py"
    path.write_text(textwrap.dedent(SUITE).format(mark=str(mark)))
    (sshd.folder / "conftest.py").write_text("pytest_plugins = ('harness.plugin',)\n")
    (sshd.folder / "pytest.ini").write_text("[pytest]\n")
    where = [f"--rootdir={sshd.folder}", f"--config-file={sshd.folder / 'pytest.ini'}", str(path)]
    options = ["-p", "no:cacheprovider", "--backend=ssh", "--host=box", "-n1", "--dist=loadscope"]
    run = Run([*where, *options, *more], sshd.folder / "run", silence=60)
    stop = threading.Event()

    def disturb() -> None:
        while not mark.exists() and not stop.wait(0.05):
            pass
        then()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        run.execute(lambda event: None)
    finally:
        stop.set()
        thread.join()
    return {result.id.rpartition("::")[2].partition("[")[0]: result for result in run.results}, run


@needs_kvm
def test_a_run_over_a_lost_connection_loses_one_test(sshd: Sshd) -> None:
    def cut() -> None:
        sshd.signal(signal.SIGKILL)

    results, run = suite(sshd, cut)
    assert not run.broken
    assert results["test_before"].outcome is Outcome.PASS
    assert results["test_during"].outcome is Outcome.ERROR
    assert "connection lost" in results["test_during"].reason
    assert results["test_after"].outcome is Outcome.PASS
    assert results["test_other_parameters"].outcome is Outcome.SKIP


@needs_kvm
def test_a_run_over_a_dead_agent_has_a_crash(sshd: Sshd) -> None:
    def kill() -> None:
        for each in descendants(sshd.process.pid if sshd.process else 0)[-1:]:
            os.kill(each, signal.SIGKILL)

    results, run = suite(sshd, kill)
    assert not run.broken
    assert results["test_during"].outcome is Outcome.CRASH
    assert "agent killed: " in results["test_during"].reason
    assert results["test_after"].outcome is Outcome.PASS


@needs_kvm
def test_a_run_whose_host_goes_away_ends_with_what_it_has(sshd: Sshd) -> None:
    sshd.write_hosts(boot_timeout="2")
    results, run = suite(sshd, sshd.stop)
    assert results["test_before"].outcome is Outcome.PASS
    assert results["test_during"].outcome is Outcome.ERROR
    assert "host lost" in results["test_during"].reason
    assert any("connection refused" in reason for reason in run.broken)
    assert "test_other_parameters" not in results


def snptest(*words: str) -> tuple[int, str]:
    """Run the command; return its status and all that it said."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_host_that_lets_nobody_in_is_told_before_any_test(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNPTEST_RESULTS", str(sshd.folder / "results"))
    sshd.write_hosts(user='"nobody-at-all"')
    code, said = snptest("run", "gmem", "--backend", "ssh", "--host", "box")
    assert code == 3
    assert said.startswith("snptest: box: user nobody-at-all is not let in")
    assert "\n  hint: does `ssh nobody-at-all@127.0.0.1` work" in said
    assert len(said.splitlines()) == 2
    assert not (sshd.folder / "results").exists()


@needs_kvm
def test_the_second_of_two_runs_ends_with_the_name_of_the_first(
    sshd: Sshd, kernel: SshKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNPTEST_RESULTS", str(sshd.folder / "results"))
    code, said = snptest("run", "gmem", "-k", "hole", "--backend", "ssh", "--host", "box")
    assert code == 3
    assert (
        f"in use by {getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}"
        in " ".join(said.split())
    )
    assert kernel.read_file("/proc/uptime")


def test_a_host_that_cannot_be_used_is_tried_once(sshd: Sshd) -> None:
    sshd.known_hosts.write_text("")
    _, run = suite(sshd, lambda: None)
    assert any("is not known" in reason for reason in run.broken)
    assert not any("3 boots failed" in reason for reason in run.broken)
    assert len(run.results) == 1
