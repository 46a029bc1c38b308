# SPDX-License-Identifier: GPL-2.0-only
"""Keys of agents and files: those that ssh takes, and a word about those that cannot be used."""

from __future__ import annotations

import base64
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import HostError, UsageError
from harness.ssh import hosts
from harness.ssh.connection import Connection
from harness.ssh.hosts import Host
from harness.ssh.problems import NotLetIn
from tests.sshagent import FIDO, FidoAgent, real_agent
from tests.sshd import Sshd
from tests.test_ssh_config import BOX, Lab, built, lab

__all__ = ["built", "lab"]

NO_KEYS = "Host box\n HostName 127.0.0.1\n Port {box}\n"


@pytest.fixture
def strangers(lab: Lab) -> list[Path]:
    """Keys that nobody lets in."""
    return [made(lab.box, f"stranger{number}") for number in range(8)]


def made(box: Sshd, name: str, **options: str) -> Path:
    return box.folder / name if (box.folder / name).exists() else box.make_key(name, **options)


AGENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a key of the agent alone": (NO_KEYS, ("user_key",)),
    "a key that the agent has and a file": (BOX, ("user_key",)),
    "the key named, of several": (BOX, ("rsa", "ecdsa", "user_key")),
    "keys in the agent's order": (NO_KEYS, ("rsa", "ecdsa")),
    "IdentitiesOnly, and not the key": (NO_KEYS + " IdentitiesOnly yes", ("user_key",)),
    "IdentitiesOnly, and another key of the agent": (
        BOX + " IdentitiesOnly yes",
        ("rsa", "user_key"),
    ),
    "IdentitiesOnly with a public key only": (
        NO_KEYS + " IdentitiesOnly yes\n IdentityFile {folder}/elsewhere_rsa.pub",
        ("ecdsa", "rsa"),
    ),
    "IdentitiesOnly with the name of a public key": (
        NO_KEYS + " IdentitiesOnly yes\n IdentityFile {folder}/elsewhere_rsa",
        ("ecdsa", "rsa"),
    ),
    "a key with a passphrase": (NO_KEYS + " IdentityFile {folder}/locked", ("locked",)),
    "a key with a passphrase, IdentitiesOnly": (
        NO_KEYS + " IdentitiesOnly yes\n IdentityFile {folder}/locked",
        ("ecdsa", "locked"),
    ),
    "a certificate of the agent": (NO_KEYS, ("certified",)),
    "an RSA certificate of the agent": (NO_KEYS, ("certified_rsa",)),
    "a certificate of the agent, its key named": (
        NO_KEYS + " IdentitiesOnly yes\n IdentityFile {folder}/certified",
        ("ecdsa", "certified"),
    ),
    "a certificate in a file, its key in the agent": (
        NO_KEYS + " IdentitiesOnly yes\n CertificateFile {folder}/elsewhere.pub\n"
        " IdentityFile {folder}/certified2",
        ("ecdsa", "certified2"),
    ),
    "IdentityAgent none": (BOX + " IdentityAgent none", ("rsa",)),
}


@pytest.mark.parametrize("case", AGENTS)
def test_the_same_keys_as_ssh(lab: Lab, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    text, names = AGENTS[case]
    (lab.folder / "elsewhere_rsa.pub").write_bytes((lab.folder / "rsa.pub").read_bytes())
    lab.configure(text)
    with real_agent(lab.folder, *(lab.folder / name for name in names)) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        theirs = lab.by_ssh()
        if theirs.entered:
            assert lab.by_us().logins == theirs.logins, theirs.said
        else:
            with pytest.raises(NotLetIn):
                lab.by_us()
    assert theirs.entered is ("and not the key" not in case)


@pytest.mark.parametrize("named", ["{path}", "$OTHER_AGENT", "${OTHER_AGENT}", "SSH_AUTH_SOCK"])
def test_the_agent_that_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    with real_agent(lab.folder, lab.box.key) as agent:
        lab.configure(NO_KEYS + f" IdentityAgent {named.replace('{path}', str(agent))}\n")
        monkeypatch.setenv("OTHER_AGENT", str(agent))
        wanted = str(agent) if named == "SSH_AUTH_SOCK" else "/nonexistent"
        monkeypatch.setenv("SSH_AUTH_SOCK", wanted)
        theirs = lab.by_ssh()
        assert theirs.entered
        assert lab.by_us().logins == theirs.logins


def authorize_fido(lab: Lab, agent: FidoAgent) -> Callable[[], None]:
    allowed = lab.folder / "authorized"
    before = allowed.read_text()
    line = f"{FIDO.decode()} {base64.b64encode(agent.blob).decode()} yubi\n"
    allowed.write_text(before + line)
    return lambda: (allowed.write_text(before), None)[1]


def test_a_fido_key_of_the_agent(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used where nothing else lets the user in, for it may have to be touched."""
    agent = FidoAgent(lab.folder)
    undo = authorize_fido(lab, agent)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.path))
        lab.configure(NO_KEYS)
        theirs = lab.by_ssh()
        assert "ED25519-SK" in theirs.logins[-1]
        assert lab.by_us().logins == theirs.logins
        agent.asked = 0
        lab.configure(BOX)
        assert "ED25519 " in lab.by_us().logins[-1]
        assert not agent.asked
    finally:
        undo()
        agent.close()


def test_a_fido_key_that_nobody_touches(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = FidoAgent(lab.folder, touched=False)
    undo = authorize_fido(lab, agent)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.path))
        lab.configure(BOX)
        assert lab.by_us().entered
        lab.configure(NO_KEYS)
        with pytest.raises(NotLetIn, match=r"yubi of the agent: the agent refused to sign"):
            lab.by_us()
        assert agent.asked == 1
    finally:
        undo()
        agent.close()


def test_a_certificate_whose_key_the_agent_does_not_sign_with(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key's file lies elsewhere, and the agent's owner does not confirm (ssh-add -c)."""
    key = made(lab.box, "confirmed")
    sign = ["ssh-keygen", "-q", "-s", str(lab.folder / "authority"), "-I", "x", f"{key}.pub"]
    subprocess.run(sign, check=True, timeout=60)
    with real_agent(lab.folder) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        monkeypatch.setenv("SSH_ASKPASS", "/bin/false")
        key.with_name("confirmed-cert.pub").rename(lab.folder / "confirmed.crt")
        subprocess.run(["ssh-add", "-q", "-c", str(key)], check=True, timeout=60)
        lab.configure(NO_KEYS + f" CertificateFile {lab.folder / 'confirmed.crt'}\n")
        assert not lab.by_ssh().entered
        with pytest.raises(NotLetIn, match=r"confirmed.crt: the agent refused to sign"):
            lab.by_us()


def test_what_cannot_be_used_is_said(lab: Lab, strangers: list[Path]) -> None:
    """Nothing lets the user in: each key is named, with what is wrong with it."""
    putty = lab.folder / "putty"
    putty.write_text("PuTTY-User-Key-File-3: ssh-ed25519\n")
    putty.chmod(0o600)
    damaged = lab.folder / "damaged"
    damaged.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END-----\n")
    damaged.chmod(0o600)
    for name, said in (
        ("locked", "locked: it needs its passphrase: ssh-add it"),
        ("open", "open: others may read it, .*chmod 600"),
        ("putty", "putty: it is no private key in a format of OpenSSH"),
        ("rsa.pub", "rsa.pub: there is only its public part, and no agent has the other"),
        ("damaged", "damaged: it is not understood"),
        ("nothing", "there is no key to try: no agent and no key file"),
    ):
        lab.configure(NO_KEYS + f" IdentityFile {lab.folder / name}\n")
        with pytest.raises(NotLetIn, match=f"is not let in: .*{said}") as caught:
            lab.by_us()
        assert "geheim" not in str(caught.value)
    lab.configure(NO_KEYS + f" CertificateFile {lab.folder / 'elsewhere.pub'}\n")
    with pytest.raises(NotLetIn, match=r"elsewhere.pub: its private key is neither in the agent"):
        lab.by_us()
    lab.configure(NO_KEYS + f" CertificateFile {lab.folder / 'rsa.pub'}\n")
    with pytest.raises(NotLetIn, match=r"certificate .*rsa.pub: is none"):
        lab.by_us()
    lab.configure(NO_KEYS + f" PKCS11Provider /x.so\n IdentityFile {strangers[0]}\n")
    with pytest.raises(NotLetIn, match=r"tried .*stranger0; not usable: PKCS11Provider: not used"):
        lab.by_us()
    lab.configure(BOX + " PubkeyAuthentication no\n")
    with pytest.raises(NotLetIn, match="PubkeyAuthentication is off"):
        lab.by_us()


def test_an_agent_that_is_none(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that is dead, or says nothing that can be understood, is passed over."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(lab.folder / "gone"))
    lab.configure(BOX)
    assert lab.by_us().entered
    lab.configure(NO_KEYS)
    with pytest.raises(NotLetIn, match=r"the agent at .*gone: No such file"):
        lab.by_us()
    path = lab.folder / "odd"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(100)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        with pytest.raises(NotLetIn, match="odd: what answers is no SSH agent"):
            lab.by_us()
    path.unlink()


def test_too_many_keys(lab: Lab, strangers: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A host takes six; ssh is shut out, too, and we say what helps."""
    with real_agent(lab.folder, *strangers) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        lab.configure(BOX)
        assert not lab.by_ssh().entered
        with pytest.raises(NotLetIn, match=r"closed the connection at key 6, .*IdentitiesOnly"):
            lab.by_us()
        lab.configure(BOX + " IdentitiesOnly yes\n")
        assert lab.by_ssh().logins == lab.by_us().logins
        # A key of hosts.toml is the only one.
        lab.configure(NO_KEYS)
        assert lab.by_us(host=Host("box", "box", key=lab.box.key)).entered


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "AuthenticationMethods publickey,password",
            "takes .*user_key, and wants password besides",
        ),
        ("PubkeyAuthentication no", "the host takes password, and no keys"),
        ("PubkeyAcceptedAlgorithms ssh-ed25519", "is not let in: .*/rsa"),
    ],
)
def test_hosts_that_want_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, said: str
) -> None:
    box = Sshd(tmp_path)
    box.options = [option, "PasswordAuthentication yes"]
    key = box.make_key("rsa", "rsa") if "rsa" in said else box.key
    box.trust()
    box.start()
    monkeypatch.setenv("SNPTEST_SSH_CONFIG", str(box.configure()))
    try:
        with pytest.raises(NotLetIn, match=said):
            Connection(Host("box", "127.0.0.1", port=box.port, key=key))
    finally:
        box.stop()


def test_keys_of_known_hosts_by_ssh_keyscan(lab: Lab) -> None:
    """Older ssh-keyscan -H hashes the name without the port: ssh finds it nevertheless."""
    found = subprocess.run(
        ["ssh-keyscan", "-H", "-p", str(lab.box.port), "127.0.0.1"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    lab.configure(BOX)
    lab.box.known_hosts.write_text(found)
    assert lab.by_us().logins == lab.by_ssh().logins
    lab.box.known_hosts.write_text(f"127.0.0.1 {lab.box.public()}\n")
    subprocess.run(
        ["ssh-keygen", "-q", "-H", "-f", str(lab.box.known_hosts)],
        check=True,
        timeout=60,
        stderr=subprocess.DEVNULL,
    )
    assert lab.by_us().logins == lab.by_ssh().logins


def test_a_hashed_name_that_is_asked_for_in_capitals(lab: Lab) -> None:
    lab.box.known_hosts.write_text(f"localhost {lab.box.public()}\nsnp {lab.box.public()}\n")
    subprocess.run(
        ["ssh-keygen", "-q", "-H", "-f", str(lab.box.known_hosts)],
        check=True,
        timeout=60,
        stderr=subprocess.DEVNULL,
    )
    for text in (BOX.replace("127.0.0.1", "LocalHost"), BOX + " HostKeyAlias SNP\n"):
        lab.configure(text)
        theirs = lab.by_ssh()
        assert theirs.entered
        assert lab.by_us().logins == theirs.logins


def test_known_hosts_sources_that_are_not_used(lab: Lab) -> None:
    lab.box.known_hosts.write_text("")
    lab.configure(BOX + f" KnownHostsCommand /bin/echo 127.0.0.1 {lab.box.public()}\n")
    with pytest.raises(HostError, match=r"KnownHostsCommand is not used here: add the key"):
        lab.by_us()
    lab.configure(BOX + " HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com\n")
    with pytest.raises(HostError, match=r"none of the HostKeyAlgorithms .* can be used"):
        lab.by_us()
    lab.configure(BOX + " BindInterface lo\n")
    with pytest.raises(UsageError, match=r"BindInterface .* is not supported"):
        lab.by_us()


def test_the_user_of_the_hosts_file_is_a_token(lab: Lab) -> None:
    """%r of a ProxyCommand is who really logs in."""
    note = lab.folder / "who"
    lab.configure(
        BOX + " User wrong\n ProxyCommand sh -c 'echo %r > {folder}/who; "
        "exec {python} {folder}/relay.py %h %p'\n"
    )
    user = hosts.get("box").user
    assert lab.by_us(host=Host("mine", "box", user=user)).entered
    assert note.read_text() == f"{user}\n"
