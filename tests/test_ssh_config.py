# SPDX-License-Identifier: GPL-2.0-only
"""One ssh configuration for ssh itself and for us: both have to do the same, as the sshd saw it.

Each case is logged in to twice, by `ssh -v` and by a Connection.  Compared are the hops (host,
port and user) and what each sshd says of the login: user, key or certificate.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import host_packages
from harness.errors import HostError, UsageError
from harness.ssh import connection, hosts, openssh
from harness.ssh.config import hops
from harness.ssh.connection import Connection
from harness.ssh.hosts import Host
from harness.ssh.problems import Unreachable
from tests.sshd import Sshd, descendants

ME = getpass.getuser()
OTHER = "nobody" if os.geteuid() == 0 else ME
"""Who can log in besides; only root's sshd lets somebody else in."""

RELAY = """\
import os, socket, sys, threading
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def send():
    while data := os.read(0, 65536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := sock.recv(65536):
    os.write(1, data)
"""
PASSER = """\
import socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
with socket.socket(fileno=1) as out:
    socket.send_fds(out, [b"x"], [sock.fileno()])
"""


@dataclass
class Seen:
    """What a login was like."""

    hops: list[tuple[str, int, str]]
    logins: list[str]
    """What the sshds say, hop by hop."""
    said: str = ""

    @property
    def entered(self) -> bool:
        """Whether the box itself was reached: it is in the folder above the gate's."""
        return bool(self.logins) and " gate " not in self.logins[-1]


class Lab:
    """Two sshds with one client: `gate` listens on IPv6, too, where there is any."""

    def __init__(self, box: Sshd, gate: Sshd) -> None:
        self.box, self.gate = box, gate
        self.folder = box.folder
        self.stranger = box.make_key("stranger")
        (self.folder / "relay.py").write_text(RELAY)
        (self.folder / "passer.py").write_text(PASSER)
        self.trust()
        self._read = {box.folder: len(box.log), gate.folder: len(gate.log)}

    def trust(self, *names: str) -> None:
        """Make both known: by address, and the box by other names as well."""
        lines = [f"{name} {self.box.public()}" for name in names]
        for daemon in (self.box, self.gate):
            of = ",".join(f"[{each}]:{daemon.port}" for each in ("127.0.0.1", "localhost", "::1"))
            lines.append(f"{of} {daemon.public()}")
        self.box.known_hosts.write_text("\n".join(lines) + "\n")

    def configure(self, text: str) -> Path:
        """Write a configuration: {box} and {gate} are ports, {python} and others what they say."""
        values = {
            "box": self.box.port,
            "gate": self.gate.port,
            "key": self.box.key,
            "stranger": self.stranger,
            "folder": self.folder,
            "python": sys.executable,
            "me": ME,
            "other": OTHER,
            "home": self.box.home,
        }
        return self.box.configure(re.sub(r"\{([a-z]+)\}", lambda m: str(values[m[1]]), text))

    def by_ssh(self, name: str = "box", *options: str) -> Seen:
        """Log in by ssh."""
        done = subprocess.run(
            ["ssh", "-v", "-F", os.environ[openssh.VARIABLE], "-o", "BatchMode=yes", *options]
            + [name, "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        found = re.findall(r"Authenticating to (\S+):(\d+) as '(.*)'", done.stderr)
        way = [(host, int(port), user) for host, port, user in found]
        return Seen(way, self._logins(), done.stderr)

    def by_us(self, name: str = "box", host: Host | None = None) -> Seen:
        """Log in as a run does."""
        host = host or Host(name, name)
        way = [(each.address, each.port, each.user) for each in hops(host)]
        opened = Connection(host)
        try:
            logins = self._logins()
        finally:
            opened.close()
        return Seen(way, logins, str(opened.keys))

    def _logins(self) -> list[str]:
        """Return the logins since the last time, those at the gate first."""
        lines = []
        for daemon in (self.gate, self.box):
            log = daemon.log
            for line in log[self._read[daemon.folder] :].splitlines():
                if line.startswith("Accepted publickey"):
                    lines.append(re.sub(r"from \S+ port \d+ ", f"{daemon.folder.name} ", line))
            self._read[daemon.folder] = len(log)
        return lines


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    host_packages.ensure_packages(["openssh-server", "openssh-client"], "for tests of ssh")
    folder = tmp_path_factory.mktemp("box")
    (folder / "gate").mkdir()
    box, gate = Sshd(folder), Sshd(folder / "gate")
    # Whoever logs in: a file of theirs would have to be readable by them.
    source = f"AuthorizedKeysCommand /bin/cat {folder / 'authorized'}"
    options = [source, f"AuthorizedKeysCommandUser {ME}"] if os.geteuid() == 0 else []
    (gate.folder / "authorized").unlink()
    (gate.folder / "authorized").symlink_to(folder / "authorized")
    box.options = list(options)
    gate.options = [*options, "ListenAddress ::1"] if has_ipv6() else list(options)
    box.start()
    gate.start()
    yield make_keys(Lab(box, gate))
    gate.stop()
    box.stop()


@pytest.fixture
def lab(built: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Two sshds, and a client that has keys of every kind and no agent."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("HOME", str(built.box.home))
    monkeypatch.setenv("SNPTEST_HOSTS", str(built.box.write_hosts()))
    monkeypatch.setenv(openssh.VARIABLE, str(built.box.configure()))
    monkeypatch.setenv("SHELL", "/bin/sh")  # which runs a ProxyCommand
    monkeypatch.setenv("LAB", str(built.folder))
    built.trust("alias", "ali", "snp")
    return built


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


BOX = """
Host box
  HostName 127.0.0.1
  Port {box}
  IdentityFile {key}
"""
GATE = """
Host gate
  HostName 127.0.0.1
  Port {gate}
  IdentityFile {key}
"""
TOKENS = "Host box\n HostName 127.0.0.1\n Port {box}\n HostKeyAlias ali\n"
WRONG = "  User wrong\n  Port 1\n"

CASES = {
    "an alias": BOX + "User {other}",
    "equals signs and quotes": 'Host=box\n HostName="127.0.0.1"\n PORT = {box}\n'
    ' IdentityFile="{key}"',
    "comments behind values": "Host box # the box\n HostName 127.0.0.1 # here\n Port {box} # so\n"
    ' User {me} # me\n IdentityFile "{key}" # mine',
    "the first value holds": "Host box\n User {other}\n" + BOX + "Host *\n" + WRONG,
    "denied patterns": "Host * !box\n" + WRONG + BOX,
    "a block of another host": "Host *.box box2\n" + WRONG + BOX,
    "HostName with %h": "Host 0.1\n HostName 127.0.%h\nHost box\n HostName 127.0.0.1\n" + BOX,
    "an included file": 'Include "{folder}/in*.conf"\nHost other\n Port 1',
    "Match host": "Match host 127.0.0.1\n User {other}\n" + BOX,
    "Match host, behind": BOX + "Match host 127.0.0.1\n User {other}",
    "Match originalhost": BOX + "Match originalhost box\n User {other}",
    "Match user": "Match user root\n IdentityFile {stranger}\n" + BOX,
    "Match localuser": BOX + "Match localuser {me}\n User {other}",
    "Match exec that succeeds": "Match originalhost box exec true\n User {other}\n" + BOX,
    "Match exec that fails": "Match exec false\n" + WRONG + BOX,
    "Match exec with quotes, pipes and tokens": (
        "Match exec \"echo %h:%n | grep -q :box$ && test -d '{folder}' 2>/dev/null\"\n"
        " User {other}\n" + BOX
    ),
    "Match !exec": "Match !exec false\n User {other}\n" + BOX,
    "Match final all": BOX + "Match final all\n  ForwardX11 no\n",
    "Match final with a user": BOX + "Match final host 127.0.0.1\n  User {other}\n",
    "Match final !originalhost": BOX + "Match final !originalhost box\n" + WRONG,
    "Match canonical": "CanonicalizeHostname yes\n" + BOX + "Match canonical all\n  User {other}\n",
    "Match localnetwork": BOX + "Match localnetwork 127.0.0.0/8\n User {other}",
    "Match another localnetwork": "Match localnetwork 203.0.113.0/24\n" + WRONG + BOX,
    "Match !localnetwork": "Match !localnetwork 127.0.0.0/8\n" + WRONG + BOX,
    "Match tagged": "Match tagged lab\n" + WRONG + BOX,
    "Match tagged, with the tag": "Host box\n Tag lab\nMatch tagged lab\n User {other}\n" + BOX,
    "Match sessiontype exec": BOX + "Match sessiontype exec\n User {other}",
    "Match sessiontype shell": "Match sessiontype shell\n" + WRONG + BOX,
    "Match version": BOX + "Match version OpenSSH_*\n User {other}",
    "Match command": BOX + "Match command true\n User {other}",
    "Match nonsense": BOX + "Match sparkle yes\n" + WRONG,
    "an option that does not exist": BOX + "Sparkle yes\n",
    "an option that does not exist, ignored": "IgnoreUnknown Sparkle\nSparkle yes\n" + BOX,
    "RemoteCommand": BOX + "RemoteCommand none\n",
    "ProxyCommand none": BOX + "ProxyCommand none\n",
    "ProxyCommand none before another": BOX + "ProxyCommand none\nHost *\n ProxyCommand false",
    "a ProxyCommand": BOX + "ProxyCommand {python} {folder}/relay.py %h %p",
    "a ProxyCommand for the shell": BOX
    + 'ProxyCommand sh -c \'exec "{python}" {folder}/relay.py "%h" %p\' 2>/dev/null # %%',
    "a ProxyCommand with pipes": BOX
    + "ProxyCommand cat | {python} {folder}/relay.py $(echo %h) ${PORT:-%p} | cat",
    "a ProxyCommand with %n, %r, %k": BOX
    + "HostKeyAlias alias\nProxyCommand sh -c 'test %n-%r-%k = box-{me}-alias && "
    "exec {python} {folder}/relay.py %h %p'",
    "a ProxyCommand that exec ends": BOX
    + "ProxyCommand {python} -c pass && {python} {folder}/relay.py %h %p",
    "a ProxyCommand that speaks first": BOX
    + "ProxyCommand sh -c 'echo welcome; exec {python} {folder}/relay.py %h %p'",
    "ProxyUseFdpass": BOX + "ProxyUseFdpass yes\nProxyCommand {python} {folder}/passer.py %h %p",
    "a ProxyCommand of ssh": BOX
    + "ProxyCommand ssh -F {home}/.ssh/config -W [%h]:%p gate\n"
    + GATE,
    "ProxyJump": BOX + "ProxyJump gate\n" + GATE,
    "ProxyJump with user and port": BOX
    + "ProxyJump {other}@127.0.0.1:{gate}\nHost *\n IdentityFile {key}",
    "ProxyJump by a URI": BOX
    + "ProxyJump ssh://{other}@127.0.0.1:{gate}\nHost *\n IdentityFile {key}",
    "ProxyJump by a chain": BOX + "ProxyJump gate,{other}@127.0.0.1:{gate}\n" + GATE + "Host *\n"
    " IdentityFile {key}",
    "a chain of URIs": BOX
    + "ProxyJump ssh://gate,ssh://{other}@localhost:{gate}\n"
    + GATE
    + "Host *\n IdentityFile {key}",
    "ProxyJump with a user of the jump host's own": BOX
    + "ProxyJump gate\n"
    + GATE
    + "User {other}",
    "ProxyJump over a ProxyJump": BOX
    + "ProxyJump gate\n"
    + GATE
    + "ProxyJump second\nHost second\n HostName localhost\n Port {gate}\n IdentityFile {key}",
    "a chain overrules the ProxyJump of its second": BOX
    + "ProxyJump second,gate\n"
    + GATE
    + "ProxyJump nowhere\nHost second\n HostName localhost\n Port {gate}\n IdentityFile {key}",
    "ProxyJump over a ProxyCommand": BOX
    + "ProxyJump gate\n"
    + GATE
    + "ProxyCommand {python} {folder}/relay.py %h %p | cat",
    "ProxyJump none": BOX + "ProxyJump none\nHost *\n ProxyJump gate\n",
    "ProxyJump before ProxyCommand": BOX + "ProxyJump gate\nProxyCommand false\n" + GATE,
    "ProxyCommand before ProxyJump": BOX
    + "ProxyCommand {python} {folder}/relay.py %h %p\nProxyJump nowhere\n",
    "AddressFamily and BindAddress": BOX.replace("127.0.0.1", "localhost")
    + "AddressFamily inet\nBindAddress 127.0.0.2",
    "keys in order": BOX + "IdentityFile {stranger}",
    "keys with tokens": TOKENS + " IdentityFile {folder}/%n-%h-%p-%r-%u-%i-%k-%%-%C-%l-%L",
    "keys with variables": "Host box\n HostName 127.0.0.1\n Port {box}\n"
    ' IdentityFile "${LAB}/a key"',
    "a variable that is not set": BOX + "IdentityFile ${NO_SUCH_THING}/key",
    "a token that does not exist": BOX + "IdentityFile /%Q",
    "a key of PKCS 8": BOX.replace("{key}", "{folder}/pkcs8"),
    "a key that others may read": BOX.replace("{key}", "{folder}/open") + " IdentityFile {key}",
    "a key file that is none": BOX.replace("{key}", "{folder}/relay.py") + " IdentityFile {key}",
    "a key that needs a passphrase": BOX.replace("{key}", "{folder}/locked")
    + " IdentityFile {key}",
    "an RSA key": BOX.replace("{key}", "{folder}/rsa"),
    "an ECDSA key": BOX.replace("{key}", "{folder}/ecdsa"),
    "a certificate beside its key": BOX.replace("{key}", "{folder}/certified"),
    "CertificateFile": BOX.replace("{key}", "{folder}/certified2")
    + " CertificateFile {folder}/elsewhere.pub",
    "an RSA certificate": BOX.replace("{key}", "{folder}/certified_rsa"),
    "known_hosts with variables and spaces": BOX
    + 'UserKnownHostsFile "${LAB}/no such" "${LAB}/known hosts" {folder}/none\n',
    "known_hosts with tokens": BOX + 'UserKnownHostsFile "{folder}/known %k %p" ~/no-such\n',
    "known_hosts for everybody": BOX + "UserKnownHostsFile none\n"
    'GlobalKnownHostsFile {folder}/none "{folder}/known hosts"\n',
    "a user with tokens": BOX + "User %u\n",
    "several lists of revoked keys": BOX + "RevokedHostKeys {folder}/rsa.pub {folder}/none\n",
    "HostKeyAlias": BOX + "HostKeyAlias SNP\n",
    "HostKeyAlgorithms": BOX + "HostKeyAlgorithms ssh-ed25519,rsa-sha2-512\n",
    "a name in capitals": "Host BOX*\n HostName LOCALHOST\n Port {box}\n IdentityFile {key}\n"
    + BOX,
    "PubkeyAcceptedAlgorithms": BOX.replace("{key}", "{folder}/rsa")
    + " IdentityFile {folder}/ecdsa\nPubkeyAcceptedAlgorithms ecdsa-sha2-nistp256\n",
    "PubkeyAcceptedAlgorithms without RSA": BOX.replace("{key}", "{folder}/rsa")
    + " IdentityFile {key}\nPubkeyAcceptedAlgorithms -*rsa*\n",
    "PubkeyAcceptedAlgorithms without certificates": BOX.replace("{key}", "{folder}/certified")
    + " IdentityFile {key}\nPubkeyAcceptedAlgorithms -*cert*\n",
    "PubkeyAcceptedAlgorithms with RSA": BOX.replace("{key}", "{folder}/rsa")
    + " IdentityFile {key}\nPubkeyAcceptedAlgorithms rsa-sha2-512,ssh-ed25519\n",
    "many algorithms": BOX + "Ciphers aes256-ctr\nMACs hmac-sha2-256\nKexAlgorithms "
    "curve25519-sha256\nPubkeyAcceptedAlgorithms ssh-ed25519\nLogLevel DEBUG3\n",
}


def make_keys(lab: Lab) -> Lab:
    """Make keys of every kind, and files that configurations name."""
    folder, box = lab.folder, lab.box
    allowed = folder / "authorized"
    made = [box.make_key("rsa", "rsa"), box.make_key("ecdsa", "ecdsa"), box.make_key("open")]
    made.append(box.make_key("locked", passphrase="geheim"))
    with allowed.open("a") as file:
        file.writelines(f"{box.public(key)}\n" for key in made)
    (folder / "open").chmod(0o644)
    (folder / "pkcs8").write_bytes((folder / "rsa").read_bytes())
    (folder / "pkcs8").chmod(0o600)
    convert = ["ssh-keygen", "-q", "-p", "-m", "PKCS8", "-N", "", "-f", str(folder / "pkcs8")]
    subprocess.run(convert, check=True, timeout=60, stdout=subprocess.DEVNULL)
    authority = box.make_key("authority")
    with allowed.open("a") as file:
        file.write(f"cert-authority {box.public(authority)}\n")
    for name, kind in (
        ("certified", "ed25519"),
        ("certified2", "ed25519"),
        ("certified_rsa", "rsa"),
    ):
        key = box.make_key(name, kind)
        sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", name, "-n", f"{ME},{OTHER}"]
        subprocess.run([*sign, f"{key}.pub"], check=True, timeout=60)
    (folder / "certified2-cert.pub").rename(folder / "elsewhere.pub")
    (folder / "a key").symlink_to(box.key)
    (folder / "known hosts").write_bytes(box.known_hosts.read_bytes())
    (folder / f"known box {box.port}").symlink_to("known hosts")
    (folder / "in1.conf").write_text("Include more.conf\n")
    (folder / "in2.conf").write_text(f"Host box\n HostName 127.0.0.1\n Port {box.port}\n")
    text = f"Match host 127.0.0.1\n IdentityFile {box.key}\n User {OTHER}\n"
    (folder / "in3.conf").write_text(f"Include {folder}/deep.conf\n")
    (folder / "deep.conf").write_text(text)
    hashed = (
        subprocess.run(
            ["ssh", "-G", "-F", str(box.configure(TOKENS.format(box=box.port))), "-l", ME, "box"]
            + ["-o", "ControlPath=/%C"],
            capture_output=True,
            text=True,
            check=True,
        )
        .stdout.partition("controlpath /")[2]
        .split()[0]
    )
    node = socket.gethostname()
    name = f"box-127.0.0.1-{box.port}-{ME}-{ME}-{os.getuid()}-ali-%-{hashed}"
    (folder / f"{name}-{node}-{node.partition('.')[0]}").symlink_to(box.key)
    return lab


@pytest.mark.parametrize("case", CASES)
def test_the_same_as_ssh(lab: Lab, case: str) -> None:
    """Where ssh refuses, so do we: by its own reason, in one line."""
    lab.configure(CASES[case])
    theirs = lab.by_ssh()
    if theirs.entered:
        ours = lab.by_us()
        assert ours.logins == theirs.logins, theirs.said
        if case != "a ProxyCommand of ssh":  # whose way we do not see
            assert ours.hops == theirs.hops
        return
    with pytest.raises((HostError, UsageError)) as caught:
        lab.by_us()
    assert "\n" not in str(caught.value)
    if "terminating, " in theirs.said:
        assert type(caught.value) is UsageError
        reasons = caught.value.message.partition("for box: ")[2].split("; ")
        assert any(re.search(r"line \d+", reason) for reason in reasons)
        assert all(reason in theirs.said for reason in reasons)


def test_jumps_of_a_configuration_that_lead_in_a_circle(lab: Lab) -> None:
    """Where ssh itself starts one process after the other."""
    lab.configure(BOX + "Host box gate\n ProxyJump gate\n" + GATE)
    with pytest.raises(UsageError, match="box through gate through gate leads nowhere"):
        hops(Host("box", "box"))
    lab.configure("Host gate\n  ProxyJump gate\n")
    with pytest.raises(UsageError, match="its configuration for gate: jumphost loop via gate"):
        hops(Host("gate", "gate"))


def test_the_hosts_file_comes_before_the_configuration(lab: Lab) -> None:
    """As options on ssh's command line would; a jump host of hosts.toml is hosts.toml's."""
    lab.configure(BOX + "User {other}\nProxyJump nowhere\n" + GATE)
    path = Path(os.environ[hosts.VARIABLE])
    path.write_text(
        f"[hosts.mine]\naddress = 'box'\nuser = '{ME}'\njump = 'door'\n"
        f"[hosts.door]\naddress = 'gate'\nuser = '{OTHER}'\n"
    )
    ours = lab.by_us(host=hosts.get("mine"))
    theirs = lab.by_ssh("box", "-l", ME, "-J", f"{OTHER}@gate")
    assert ours.logins == theirs.logins
    assert ours.hops == theirs.hops
    # What ssh is configured with means ssh's hosts, not those of hosts.toml.
    lab.configure(BOX + "ProxyJump gate\n" + GATE)
    path.write_text("[hosts.box]\n[hosts.gate]\naddress = '127.0.0.9'\nport = 1\n")
    ours = lab.by_us(host=hosts.get("box"))
    assert ours.logins == lab.by_ssh().logins


@pytest.mark.parametrize(
    ("text", "user", "address", "port"),
    [
        ("ssh://root@box.example.org:2222", "root", "box.example.org", 2222),
        ("ssh://box.example.org/", None, "box.example.org", None),
        ("ssh://a%40b@[fe80::1]:22", "a@b", "fe80::1", 22),
    ],
)
def test_hosts_as_uris(text: str, user: str | None, address: str, port: int | None) -> None:
    found = hosts.parse(text)
    assert (found.user, found.address, found.port) == (user, address, port)


PROXIES = {
    "no such program": ("no-such-program %h", "status 127: .*no-such-program.*not found"),
    "a program that fails": (
        "sh -c 'echo first >&2; printf \"no \\033[31mroute\\n\" >&2; exit 3'",
        r"ended with status 3: no .*route$",
    ),
    "garbage": ("sh -c 'echo hello; echo hello; sleep 30'", "gives no ssh connection"),
    "endless garbage": ("yes", "gives no ssh connection"),
    "silence": ("sleep 30", "gives no ssh connection"),
}


@pytest.mark.parametrize("name", PROXIES)
def test_proxy_commands_that_fail(lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each is one line, none hangs, and nothing is left running."""
    command, said = PROXIES[name]
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 3.0)
    lab.configure(BOX + f"ProxyCommand {command}\n")
    started = descendants(os.getpid())
    with pytest.raises(HostError, match=said) as caught:
        lab.by_us()
    assert isinstance(caught.value, Unreachable) is (name != "no such program")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert set(descendants(os.getpid())) <= set(started)


def test_a_proxy_that_hands_no_socket_over(lab: Lab) -> None:
    lab.configure(BOX + "ProxyUseFdpass yes\nProxyCommand echo no route >&2; true\n")
    with pytest.raises(Unreachable, match=r"ProxyCommand fails: it ended with status 0"):
        lab.by_us()


def test_configurations_that_ssh_does_not_answer_for(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.configure('Match exec "sleep 60"\n' + BOX)
    monkeypatch.setattr(openssh, "TIMEOUT", 1.0)
    with pytest.raises(UsageError, match=r"`ssh -G box` has not ended in 1 s.*Match exec"):
        lab.by_us()
    monkeypatch.setattr(openssh, "TIMEOUT", 60.0)
    monkeypatch.setenv(openssh.VARIABLE, str(lab.folder / "nowhere"))
    with pytest.raises(UsageError, match="nowhere: No such file"):
        lab.by_us()
    lab.configure(BOX)
    bin_folder = lab.folder / "bin"
    bin_folder.mkdir()
    other = bin_folder / "ssh"
    other.write_text("#!/bin/sh\necho Dropbear v2022.83\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_folder))
    with pytest.raises(UsageError, match=r"bin/ssh is not OpenSSH's.*openssh"):
        lab.by_us()
    other.unlink()
    with pytest.raises(UsageError, match=r"there is no program ssh, .*openssh"):
        lab.by_us()


def test_a_name_that_ssh_does_not_find(lab: Lab) -> None:
    """It may be there when the host has booted: no reason to end a run."""
    lab.configure(
        "CanonicalizeHostname yes\nCanonicalizeFallbackLocal no\nCanonicalDomains lab.invalid\n"
    )
    with pytest.raises(Unreachable, match=r"box: ssh finds no such host: .*Could not resolve"):
        lab.by_us()


def test_half_of_a_name_is_no_known_hosts_file(lab: Lab) -> None:
    """`ssh -G` prints names without quotes: the file before the space was not named."""
    (lab.folder / "half").write_bytes(lab.box.known_hosts.read_bytes())
    lab.configure(BOX + f'UserKnownHostsFile "{lab.folder}/half of it"\n')
    assert not lab.by_ssh("box", "-o", "StrictHostKeyChecking=yes").entered
    with pytest.raises(HostError, match=r"is not known \(no known_hosts file is there"):
        lab.by_us()


def test_a_daemon_of_match_exec_is_not_waited_for(lab: Lab) -> None:
    """It keeps the streams of ssh open for as long as it runs."""
    note = lab.folder / "daemon"
    lab.configure(f'Match exec "sleep 100 & echo $! > {note}"\n' + BOX)
    try:
        began = time.monotonic()
        assert [way.address for way in hops(Host("box", "box"))] == ["127.0.0.1"]
        assert time.monotonic() - began < 50
    finally:
        os.kill(int(note.read_text()), signal.SIGKILL)
