# SPDX-License-Identifier: GPL-2.0-only
"""The ID block of LAUNCH_FINISH: accepted where digest, policy and signatures fit."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from harness.uapi import sev as sevapi
from harness.uapi.errors import SevFwError
from harness.vm import boot, launch_digest
from harness.vm.host import Host
from harness.vm.id_block import id_auth, id_block, owner_key
from harness.vm.results import OK, failed
from harness.vm.vm import DEFAULT_POLICY, Vm
from suites.launch.launching import BASE, NORMAL, PAGE, finish, id_fields, report_of
from suites.launch.launching import launch_guest as launch

pytestmark = [
    pytest.mark.patches(12),
    pytest.mark.areas("launch", "launch finish", "id block"),
    pytest.mark.needs("snp"),
]

CONTENT = b"\x3c" * PAGE
DIGEST = launch_digest.launch_digest([boot.LaunchPages(BASE, CONTENT, NORMAL)], [])
BLOCK: dict[str, Any] = {
    "family_id": b"family".ljust(16, b"."),
    "image_id": b"image".ljust(16, b"."),
    "guest_svn": 7,
}


@pytest.fixture
def loaded(started: Vm) -> Vm:
    """A VM whose launch has the digest DIGEST."""
    started.launch_update(BASE, CONTENT)
    return started


@pytest.mark.parametrize("author", [None, "author"])
def test_good_block(loaded: Vm, author: str | None) -> None:
    """A block that fits the launch is accepted, with and without an author key."""
    key = owner_key(author) if author else None
    assert finish(loaded, **id_fields(DIGEST, author=key, **BLOCK)) == OK


@pytest.mark.parametrize("author", [None, "author"])
def test_report_carries_the_block(host: Host, author: str | None) -> None:
    """The attestation report shows ids, SVN and the digests of the keys."""
    with launch(host) as plain:
        digest = plain.expected_digest()
    key = owner_key(author) if author else None
    with launch(host, finish=id_fields(digest, author=key, **BLOCK)) as guest:
        report = report_of(guest)
    assert report.measurement == digest
    assert report.family_id == BLOCK["family_id"]
    assert report.image_id == BLOCK["image_id"]
    assert report.guest_svn == 7
    assert report.id_key_digest == owner_key("owner").digest
    assert report.author_key_en == (author is not None)
    assert report.author_key_digest == (key.digest if key else bytes(48))


@pytest.mark.parametrize("byte", [0, 23, 47])
def test_wrong_digest(loaded: Vm, byte: int) -> None:
    """A block with a digest that differs in one bit is refused, and the right one still works."""
    wrong = bytearray(DIGEST)
    wrong[byte] ^= 1
    assert finish(loaded, **id_fields(bytes(wrong))) == failed(
        errno.EIO, SevFwError.BAD_MEASUREMENT
    )
    assert finish(loaded, **id_fields(DIGEST)) == OK


@pytest.mark.parametrize(
    "policy",
    [
        0,
        DEFAULT_POLICY | sevapi.SNP_POLICY_MASK_DEBUG,
        DEFAULT_POLICY | 1,
        DEFAULT_POLICY & ~sevapi.SNP_POLICY_MASK_SMT,
        DEFAULT_POLICY | 1 << 63,
    ],
    ids=hex,
)
def test_wrong_policy(loaded: Vm, policy: int) -> None:
    """A block for another policy than the guest's is refused."""
    outcome = finish(loaded, **id_fields(DIGEST, policy))
    assert outcome == failed(errno.EIO, SevFwError.POLICY_FAILURE)


@pytest.mark.parametrize("version", [0, 2, 0xFFFFFFFF])
def test_unknown_version(loaded: Vm, version: int) -> None:
    """A block of another version is refused."""
    outcome = finish(loaded, **id_fields(DIGEST, version=version))
    assert outcome == failed(errno.EIO, SevFwError.INVALID_PARAM)


def signed(tamper: str) -> dict[str, Any]:
    """Fields of LAUNCH_FINISH with something wrong about the signatures."""
    owner, author, stranger = (owner_key(name) for name in ("owner", "author", "stranger"))
    block = id_block(DIGEST, DEFAULT_POLICY)
    auth = id_auth(block, owner, author)
    match tamper:
        case "block changed":
            block.guest_svn = 1
        case "signature changed":
            auth.id_block_sig.r[0] ^= 1
        case "no signature":
            auth.id_block_sig = type(auth.id_block_sig)()
        case "signed by a stranger":
            auth.id_block_sig = stranger.sign(bytes(block))
        case "another key":
            auth.id_key = stranger.public
        case "no key":
            auth.id_key = type(auth.id_key)()
        case "author's signature changed":
            auth.id_key_sig.s[0] ^= 1
        case "key signed by a stranger":
            auth.id_key_sig = stranger.sign(bytes(owner.public))
        case "another author":
            auth.author_key = stranger.public
        case _:
            raise ValueError(tamper)
    return {"id_block_en": 1, "auth_key_en": 1, "id_block": bytes(block), "id_auth": bytes(auth)}


@pytest.mark.parametrize(
    "tamper",
    [
        "block changed",
        "signature changed",
        "no signature",
        "signed by a stranger",
        "another key",
        "no key",
        "author's signature changed",
        "key signed by a stranger",
        "another author",
    ],
)
def test_bad_signature(loaded: Vm, tamper: str) -> None:
    """A block whose signatures do not hold is refused, and a good one still works."""
    assert finish(loaded, **signed(tamper)) == failed(errno.EIO, SevFwError.BAD_SIGNATURE)
    assert finish(loaded, **id_fields(DIGEST)) == OK


@pytest.mark.parametrize("field", ["id_key_algo", "auth_key_algo"])
@pytest.mark.parametrize("algorithm", [0, 2])
def test_unknown_algorithm(loaded: Vm, field: str, algorithm: int) -> None:
    """Keys of an algorithm other than ECDSA P-384 with SHA-384 are refused."""
    block = id_block(DIGEST, DEFAULT_POLICY)
    auth = id_auth(block, owner_key("owner"), owner_key("author"))
    setattr(auth, field, algorithm)
    outcome = finish(
        loaded, id_block_en=1, auth_key_en=1, id_block=bytes(block), id_auth=bytes(auth)
    )
    assert outcome == failed(errno.EIO, SevFwError.INVALID_PARAM)


def test_author_key_counts_only_when_enabled(loaded: Vm) -> None:
    """Without auth_key_en the author's signature is not looked at."""
    fields = signed("author's signature changed") | {"auth_key_en": 0}
    assert finish(loaded, **fields) == OK


def test_vcpus_are_measured_before_the_block_is_judged(loaded: Vm) -> None:
    """The block's digest covers the VMSAs; after its refusal they cannot be measured again."""
    loaded.create_vcpu()
    assert finish(loaded, **id_fields(DIGEST)) == failed(errno.EIO, SevFwError.BAD_MEASUREMENT)
    assert finish(loaded) == failed(errno.EINVAL)
