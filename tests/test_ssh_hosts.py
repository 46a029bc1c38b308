# SPDX-License-Identifier: GPL-2.0-only
"""Hosts as data, and connections to them: a real sshd, keys right, wrong, changed and revoked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from harness import host_packages
from harness.errors import HostError, UsageError
from harness.ssh import connection, hosts
from harness.ssh.config import hops
from harness.ssh.connection import Connection
from harness.ssh.problems import NotLetIn, Unreachable
from tests.sshagent import real_agent
from tests.sshd import Sshd, kill_below, sshd

__all__ = ["sshd"]


def hosts_file(folder: Path, text: str) -> Path:
    path = folder / "hosts.toml"
    path.write_text(text)
    return path


def example() -> str:
    """Return what ci/hosts.toml has in comments: a file that shows every key."""
    lines = [line[2:] for line in hosts.FILE.read_text().splitlines() if line.startswith("# ")]
    return "\n".join(lines[next(i for i, line in enumerate(lines) if line.startswith("[")) :])


def test_the_example_shows_every_key() -> None:
    assert hosts.load(hosts.FILE) == {}
    for key in (*hosts._KEYS, *hosts._BOOT_KEYS):
        assert f"{key} = " in example() or f".{key}]" in example(), key


def test_every_key_of_the_example_is_taken(tmp_path: Path) -> None:
    read = hosts.load(hosts_file(tmp_path, example()))
    milan = read["milan1"]
    assert milan.jump == "gate"
    assert milan.sudo
    assert (milan.boot.how, milan.boot.command) == ("one-shot", "grub-reboot snptest")
    assert milan.folder == hosts.FOLDER
    assert milan.has == {"snp", "genoa", "2-socket"}
    assert milan.boot_timeout == 600
    assert read["gate"].address == "gate.lab.example.org"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[hosts.a]\nadress = 'x'",
            r"hosts.a.adress is no key that is known; want one of.*\(did you mean address",
        ),
        ("[host.a]", r"host is no key that is known; want one of hosts \(did you mean hosts"),
        ("[hosts]\na = 1", "hosts.a is 1; want a table"),
        ("[hosts.a]\nport = 0", "hosts.a.port is 0; want a whole number from 1 to 65535"),
        ("[hosts.a]\nport = true", "hosts.a.port is true; want a whole number"),
        ("[hosts.a]\nuser = ''", 'hosts.a.user is ""; want a text that is not empty'),
        ("[hosts.a]\nsudo = 'yes'", 'hosts.a.sudo is "yes"; want true or false'),
        ("[hosts.a]\nhas = 'snp'", 'hosts.a.has is "snp"; want a list of words'),
        ("[hosts.a]\nsilence = 0", "hosts.a.silence is 0; want a number of seconds"),
        ("[hosts.a.boot]\nhow = 'magic'", 'how is "magic"; want one of none, kexec, one-shot'),
        ("[hosts.a.boot]\nhow = 'one-shot'", "command is missing; want what makes the next boot"),
        ("[hosts.a", "is no TOML: line 1, its end: Expected"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        hosts.load(hosts_file(tmp_path, text))


def test_a_mistake_shows_no_value(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        hosts.load(hosts_file(tmp_path, "[hosts.a]\npower-cycle = ['-P', 'geheim']"))
    assert "geheim" not in str(caught.value)


def test_hosts_that_are_not_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNPTEST_HOSTS", str(hosts_file(tmp_path, "[hosts.milan1]")))
    assert hosts.get("milan1").address == "milan1"
    with pytest.raises(UsageError, match=r"no host is called 'milan'.*has milan1"):
        hosts.get("milan")
    with pytest.raises(UsageError, match="needs --host"):
        hosts.get(None)
    direct = hosts.get("lab@box.example.org:2222")
    assert (direct.user, direct.address, direct.port) == ("lab", "box.example.org", 2222)
    six = hosts.get("root@[fe80::1]:22")
    assert (six.address, six.port) == ("fe80::1", 22)
    assert hosts.get("fe80::1").address == "fe80::1"
    for wrong in ("a@-oProxyCommand=x", "root@", "box:port", "box:99999", "a b@c"):
        with pytest.raises(UsageError):
            hosts.get(wrong)
    monkeypatch.setenv("SNPTEST_HOSTS", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="does not exist"):
        hosts.load()


def connect() -> Connection:
    return Connection(hosts.get("box"))


def output(opened: Connection, command: str) -> bytes:
    channel = opened.session()
    channel.settimeout(10)
    channel.exec_command(command)
    data = b"".join(iter(lambda: channel.recv(1000), b""))
    opened.close()
    return data


def test_a_command_runs_where_the_key_is_known(sshd: Sshd) -> None:
    assert output(connect(), "echo hello") == b"hello\n"


def test_an_unknown_key_is_refused_and_not_learnt(sshd: Sshd) -> None:
    sshd.known_hosts.write_text("")
    # What ssh users set to be rid of the question does not open this door.
    sshd.configure("Host *\n  StrictHostKeyChecking no\n")
    with pytest.raises(HostError, match="is not known") as caught:
        connect()
    assert sshd.known_hosts.read_text() == ""
    fingerprint = subprocess.run(
        ["ssh-keygen", "-l", "-f", f"{sshd.host_key}.pub"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[1]
    assert fingerprint in str(caught.value)
    assert "Accepted" not in sshd.log


def test_a_changed_key_is_refused(sshd: Sshd) -> None:
    sshd.trust(sshd.make_key("other"))
    with pytest.raises(HostError, match=r"its host key has changed.*known_hosts:1"):
        connect()
    assert "Accepted" not in sshd.log


@pytest.mark.parametrize("host", ["*", "[127.0.0.1]:{port}"])
def test_a_revoked_key_is_refused_though_it_is_known(sshd: Sshd, host: str) -> None:
    with sshd.known_hosts.open("a") as file:
        file.write(f"@revoked {host.format(port=sshd.port)} {sshd.public()}\n")
    with pytest.raises(HostError, match=r"is revoked.*known_hosts:2"):
        connect()
    assert "Accepted" not in sshd.log


def test_revoked_host_keys_of_the_configuration(sshd: Sshd) -> None:
    listed = sshd.folder / "revoked"
    sshd.configure(f"RevokedHostKeys {listed}\n")
    with pytest.raises(HostError, match="cannot be read"):
        connect()
    listed.write_text(sshd.public() + " comment\n")
    with pytest.raises(HostError, match="is revoked"):
        connect()
    listed.write_bytes(b"SSHKRL\n\0" + bytes(40))
    with pytest.raises(HostError, match="is not understood: Invalid KRL"):
        connect()
    make_list = ["ssh-keygen", "-q", "-k", "-f", str(listed)]
    subprocess.run([*make_list, f"{sshd.host_key}.pub"], check=True, timeout=30)
    assert listed.read_bytes().startswith(b"SSHKRL")
    with pytest.raises(HostError, match="is revoked"):
        connect()
    subprocess.run([*make_list, f"{sshd.key}.pub"], check=True, timeout=30)
    connect().close()
    listed.write_text("")
    connect().close()


@pytest.mark.parametrize(
    "line",
    [
        "[127.0.0.*]:* {key}",
        "other,[127.0.0.1]:{port} {key} a comment  # and more",
        "  [127.0.0.1]:{port}\t{key}",
        "127.0.0.1 {key}",  # ssh takes a key that is known without the port
        "# comment\n\nbroken line\nbox ssh-ed25519 %%%\n[127.0.0.1]:{port} {key}",
    ],
)
def test_known_hosts_patterns(sshd: Sshd, line: str) -> None:
    sshd.known_hosts.write_text(line.format(port=sshd.port, key=sshd.public()) + "\n")
    connect().close()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[127.0.0.1]:22 {key}", "is not known"),
        ("[127.0.0.1]:{port} {other}\n127.0.0.1 {key}", "has changed"),
        ("[127.0.0.1]:{port} {key}\n@revoked 127.0.0.1 {key}", "is revoked"),
        ("[127.0.0.*]:*,![127.0.0.1]:{port} {key}", "is not known"),
        ("@cert-authority * {key}", "by a certificate authority only"),
    ],
)
def test_known_hosts_lines_that_do_not_count(sshd: Sshd, line: str, said: str) -> None:
    keys = {"key": sshd.public(), "other": sshd.public(sshd.make_key("other"))}
    sshd.known_hosts.write_text(line.format(port=sshd.port, **keys) + "\n")
    with pytest.raises(HostError, match=said):
        connect()


def test_hashed_known_hosts(sshd: Sshd) -> None:
    command = ["ssh-keygen", "-q", "-H", "-f", str(sshd.known_hosts)]
    subprocess.run(command, check=True, timeout=30, stderr=subprocess.DEVNULL)
    assert "127.0.0.1" not in sshd.known_hosts.read_text()
    connect().close()


def test_the_key_type_that_is_known_is_asked_for(sshd: Sshd) -> None:
    """A host has several keys: known by its RSA key only, it is asked for that one."""
    sshd.stop()
    rsa = sshd.make_key("host_rsa", "rsa")
    sshd.options = [f"HostKey {rsa}"]
    sshd.start()
    sshd.trust(rsa)
    connect().close()


def test_jumps_that_lead_in_a_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host_packages.ensure_packages(["openssh-client"], "for tests of ssh")
    monkeypatch.setenv("SNPTEST_SSH_CONFIG", os.devnull)
    text = "[hosts.a]\njump = 'b'\n[hosts.b]\njump = 'a'\n"
    monkeypatch.setenv("SNPTEST_HOSTS", str(hosts_file(tmp_path, text)))
    with pytest.raises(UsageError, match="a through b through a leads nowhere"):
        hops(hosts.get("a"))


def test_a_user_who_is_not_let_in(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    sshd.write_hosts(user='"nobody-at-all"')
    with pytest.raises(NotLetIn, match="user nobody-at-all is not let in"):
        connect()
    sshd.write_hosts(key=f'"{sshd.make_key("stranger")}"')
    with pytest.raises(NotLetIn, match="stranger"):
        connect()
    sshd.write_hosts(key=f'"{sshd.make_key("locked", passphrase="geheim")}"')
    with pytest.raises(NotLetIn, match="passphrase") as caught:
        connect()
    assert "geheim" not in str(caught.value)
    sshd.write_hosts(key='"/no/such/key"')
    with pytest.raises(UsageError, match="/no/such/key does not exist"):
        connect()


def test_keys_of_the_agent_are_used(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    sshd.write_hosts(key="")
    with pytest.raises(NotLetIn):
        connect()
    with real_agent(sshd.folder, sshd.key) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        connect().close()


def test_what_does_not_answer(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 1.0)
    assert sshd.process is not None
    os.kill(sshd.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="no ssh connection") as caught:
        connect()
    assert not caught.value.refused
    os.kill(sshd.process.pid, signal.SIGCONT)
    sshd.stop()
    with pytest.raises(Unreachable, match="connection refused") as caught:
        connect()
    assert caught.value.refused
    sshd.write_hosts(address='"no-such-host.invalid"')
    with pytest.raises(Unreachable, match="is no known name"):
        connect()
    assert time.monotonic() - began < 20


def test_what_answers_is_no_sshd(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says is shown as one safe line, if at all."""
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 2.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        sshd.write_hosts(port=str(server.getsockname()[1]))
        pid = os.fork()
        if not pid:
            peer, _ = server.accept()
            peer.sendall(b"220 \x1b[31mmail\r\n" * 200)
            time.sleep(5)
            os._exit(0)
        try:
            with pytest.raises(Unreachable) as caught:
                connect()
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        assert "\x1b" not in str(caught.value)


def test_a_host_that_comes_back_is_connected_again(sshd: Sshd) -> None:
    sshd.stop()
    pid = os.fork()
    if not pid:
        time.sleep(1.5)
        sshd.start()
        assert sshd.process is not None
        sshd.process.wait()
        os._exit(0)
    try:
        opened = connection.connect_again(hosts.get("box"), time.monotonic() + 30)
        opened.close()
        # A wrong key is told at once.
        sshd.known_hosts.write_text("")
        began = time.monotonic()
        with pytest.raises(HostError, match="is not known"):
            connection.connect_again(hosts.get("box"), time.monotonic() + 30)
        assert time.monotonic() - began < 10
    finally:
        kill_below(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
