# SPDX-License-Identifier: GPL-2.0-only
"""Speaking ssh over a socket: the host's key is checked, then the user's keys are offered."""

from __future__ import annotations

import logging
from typing import Any

import paramiko

from harness.errors import HostError
from harness.report import sanitize
from harness.ssh.config import Way
from harness.ssh.keys import Candidate, Keys
from harness.ssh.knownhosts import KnownHosts
from harness.ssh.problems import NotLetIn

AUTH_TIMEOUT = 30.0
"""Seconds for one key."""
_RSA = frozenset({"rsa-sha2-512", "rsa-sha2-256"})
"""What signatures of an RSA key are called; certificates have a suffix besides."""
_NAMED = 4
"""Keys that a message names; an agent may have dozens."""

# paramiko tells the log what it raises, too; unheard, Python would print that.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def log_in(way: Way, sock: Any, timeout: float) -> tuple[paramiko.Transport, str]:
    """Return a connection that is logged in, and by which key.

    Raises HostError for the host's key, NotLetIn for the user's, and what paramiko raises where
    nobody speaks ssh at the other end.
    """
    known = way.known_hosts()
    transport = paramiko.Transport(sock)
    try:
        _prefer(transport, way, known)
        transport.banner_timeout = timeout
        transport.auth_timeout = AUTH_TIMEOUT
        transport.start_client(timeout=timeout)
        if not transport.initial_kex_done:
            raise paramiko.SSHException(f"no answer to the greeting within {timeout:g} s")
        known.check(transport.get_remote_server_key())
        return transport, _authenticate(transport, way)
    except BaseException:
        transport.close()
        raise


def _prefer(transport: paramiko.Transport, way: Way, known: KnownHosts) -> None:
    """Ask for a key of a type that is known, if there is one, and for none that ssh would not."""
    known_types: list[str] = []
    for kind in known.types():
        # The key's type; the signature of it is by SHA-2 only.
        known_types += ["rsa-sha2-512", "rsa-sha2-256"] if kind == "ssh-rsa" else [kind]
    security = transport.get_security_options()
    can = [kind for kind in way.host_key_algorithms if kind in security.key_types]
    can = [kind for kind in can if kind != "ssh-rsa"]
    if not can:
        raise HostError(
            f"{way.shown}: none of the HostKeyAlgorithms of the ssh configuration can be used here",
            f"one of {', '.join(kind for kind in security.key_types if kind != 'ssh-rsa')} can",
        )
    first = [kind for kind in dict.fromkeys(known_types) if kind in can]
    security.key_types = tuple(first + [kind for kind in can if kind not in first])


def _authenticate(transport: paramiko.Transport, way: Way) -> str:
    """Offer the keys until one is taken; return which."""
    try:
        transport.auth_none(way.user)
        return "none"  # a host may let in whoever comes
    except paramiko.BadAuthenticationType as error:
        methods = [sanitize.line(each, 40) for each in error.allowed_types]
    if "publickey" not in methods:
        takes = ", ".join(methods) or "nothing"
        raise _refused(way, f"the host takes {takes}, and no keys")
    if not way.public_key:
        raise _refused(way, "PubkeyAuthentication is off in the ssh configuration")
    keys = Keys(way)
    tried: list[str] = []
    try:
        for candidate in keys.candidates():
            if why := _unsuitable(transport, way, candidate):
                keys.skipped.append(f"{candidate.shown}: {why}")
                continue
            tried.append(candidate.shown)
            if _offer(transport, way, candidate, len(tried)):
                return candidate.shown
    finally:
        keys.close()
    if "PKCS11Provider" in way.unused:
        keys.skipped.append("PKCS11Provider: not used here: ssh-add -s it to an agent")
    said = [f"tried {_list(tried)}"] if tried else []
    said += [f"not usable: {_list(keys.skipped)}"] if keys.skipped else []
    raise _refused(way, "; ".join(said) or "there is no key to try: no agent and no key file")


def _offer(transport: paramiko.Transport, way: Way, candidate: Candidate, number: int) -> bool:
    """Whether the host takes a key."""
    try:
        further = transport.auth_publickey(way.user, candidate.key)
    except paramiko.AuthenticationException as error:
        if not transport.is_active():
            raise _refused(
                way,
                f"the host closed the connection at key {number}, {candidate.shown}",
                "has it had too many? name the right one: IdentityFile with IdentitiesOnly yes, "
                "or key in ci/hosts.toml",
            ) from None
        if "timeout" in str(error).lower():
            raise paramiko.SSHException(f"no answer to key {candidate.shown}") from None
        return False
    if further:
        wanted = ", ".join(sanitize.line(each, 40) for each in further)
        raise _refused(way, f"the host takes {candidate.shown}, and wants {wanted} besides")
    return True


def _unsuitable(transport: paramiko.Transport, way: Way, candidate: Candidate) -> str:
    """Say why a key is not offered: ssh would not, or it would end the connection."""
    certificate = candidate.key.public_blob
    kind = certificate.key_type if certificate is not None else candidate.key.get_name()
    names = {kind} | {kind.replace("ssh-rsa", name) for name in _RSA}
    if any(way.key_algorithms) and names.isdisjoint(way.key_algorithms):
        return f"PubkeyAcceptedAlgorithms of the ssh configuration leaves out {kind}"
    if "rsa" not in kind:
        return ""
    extensions = transport.server_extensions  # type: ignore[attr-defined]  # not in the stubs
    listed = extensions.get("server-sig-algs", b"").decode(errors="replace")
    if listed and _RSA.isdisjoint(listed.split(",")):
        return "the host takes no RSA keys"  # where RSA is not agreed on, paramiko gives up
    return ""


def _refused(way: Way, why: str, hint: str = "") -> NotLetIn:
    return NotLetIn(
        f"{way.shown}: user {way.user} is not let in: {why}",
        hint or f"does `ssh {way.user}@{way.address}` work without a password?",
    )


def _list(names: list[str]) -> str:
    more = len(names) - _NAMED
    return "; ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
