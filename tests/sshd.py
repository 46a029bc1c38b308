# SPDX-License-Identifier: GPL-2.0-only
"""A real sshd on this machine for tests: own port, own keys, nothing of the user's touched."""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import host_packages

START_TIMEOUT = 20.0


class Sshd:
    """One sshd, what it is configured by, and a home for its clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        self.host_key = self.make_key("host_key")
        self.key = self.make_key("user_key")
        (folder / "authorized").write_text((folder / "user_key.pub").read_text())
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.options: list[str] = []
        """Lines added to its configuration."""

    @property
    def known_hosts(self) -> Path:
        """The client's known_hosts."""
        return self.home / ".ssh" / "known_hosts"

    def configure(self, text: str = "") -> Path:
        """Write the client's ssh configuration: these lines, and nothing of the user's own."""
        path = self.home / ".ssh" / "config"
        path.write_text(
            f'{text}\nMatch all\n  UserKnownHostsFile "{self.known_hosts}"\n'
            "  GlobalKnownHostsFile none\n  IdentityFile none\n"
        )
        return path

    @property
    def log(self) -> str:
        """What sshd said."""
        return (self.folder / "sshd.log").read_text(errors="replace")

    def make_key(self, name: str, kind: str = "ed25519", passphrase: str = "") -> Path:
        """Make a key pair; return the private one."""
        path = self.folder / name
        command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", name, "-f", str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=60)
        return path

    def public(self, key: Path | None = None) -> str:
        """Type and public part of a key, as known_hosts has them."""
        text = Path(f"{key or self.host_key}.pub").read_text()
        return " ".join(text.split()[:2])

    def trust(self, key: Path | None = None) -> None:
        """Write the client's known_hosts."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.public(key)}\n")

    def start(self) -> None:
        """Start it; it answers when this returns."""
        # The first value of an option holds.
        config = [
            *self.options,
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.host_key}",
            f"AuthorizedKeysFile {self.folder / 'authorized'}",
            "StrictModes no",
            "UsePAM no",
            "PidFile none",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PrintMotd no",
            "Subsystem sftp internal-sftp",
            "LogLevel VERBOSE",
        ]
        (self.folder / "sshd_config").write_text("\n".join(config) + "\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as its service does
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
        assert sshd is not None
        self.process = subprocess.Popen(
            [sshd, "-D", "-f", str(self.folder / "sshd_config"), "-E", self.folder / "sshd.log"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + START_TIMEOUT
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", self.port), 5.0) as sock:
                    if sock.recv(4) == b"SSH-":
                        return
            time.sleep(0.05)
        pytest.fail(f"sshd did not start: {self.log}")

    def sessions(self) -> list[int]:
        """Return the processes that serve connections, forks of forks included."""
        assert self.process is not None
        return descendants(self.process.pid)

    def signal(self, number: signal.Signals, *, connections: bool = False) -> None:
        """Send a signal to what serves connections, with `connections` to the sshd of each only.

        One may end because of what the one before it got: that is no error.
        """
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if not connections or b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, number)

    def freeze(self) -> None:
        """Stop it and all that it serves, as a host that no longer answers."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        self.signal(signal.SIGSTOP)

    def stop(self) -> None:
        """End it, its connections and what they run."""
        if self.process is None:
            return
        self.freeze()  # what starts a process meanwhile would leave it behind
        self.signal(signal.SIGKILL)
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def write_hosts(self, **values: str) -> Path:
        """Write a hosts file that has `box`; values are TOML, `_` in a key stands for `-`."""
        table = {
            "address": '"127.0.0.1"',
            "port": str(self.port),
            "user": f'"{getpass.getuser()}"',
            "key": f'"{self.key}"',
            "lock": f'"{self.folder / "lock"}"',
        } | {key.replace("_", "-"): value for key, value in values.items()}
        path = self.folder / "hosts.toml"
        lines = [f"{key} = {value}" for key, value in table.items() if value]
        path.write_text("[hosts.box]\n" + "\n".join(lines) + "\n")
        return path


def descendants(pid: int) -> list[int]:
    """Return the processes below one, the nearest first."""
    found: list[int] = []
    queue = [pid]
    while queue:
        parent = queue.pop(0)
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            found += map(int, children)
            queue += map(int, children)
    return found


def kill_below(pid: int) -> None:
    """Kill the processes below one; some may end meanwhile, by themselves or with another."""
    for each in descendants(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def _free_port() -> int:
    """Return a port below those that outgoing connections are given: it is free again later."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """An sshd that runs and is known to a client whose home is empty otherwise."""
    host_packages.ensure_packages(["openssh-server", "openssh-client"], "for tests of ssh")
    daemon = Sshd(tmp_path)
    monkeypatch.setenv("HOME", str(daemon.home))
    # ssh takes the home that the user database has, whatever HOME says.
    monkeypatch.setenv("SNPTEST_SSH_CONFIG", str(daemon.configure()))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("SNPTEST_HOSTS", str(daemon.write_hosts()))
    daemon.trust()
    daemon.start()
    yield daemon
    daemon.stop()
