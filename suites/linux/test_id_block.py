# SPDX-License-Identifier: GPL-2.0-only
"""An ID block given to QEMU: the guest it was made for starts, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from harness.linuxguest.definition import LinuxGuest
from harness.linuxguest.host import Starter
from harness.linuxguest.running import How, RunningGuest
from harness.target import Target
from harness.uapi.errors import SevFwError
from harness.vm.id_block import id_auth, id_block, owner_key
from harness.vm.vm import DEFAULT_POLICY
from suites.linux.attesting import assert_ended, report_of
from suites.linux.conftest import BOOT_DEADLINE
from suites.linux.measuring import MORE_FILES, expected, small_parts

pytestmark = [
    pytest.mark.patches(12, 26),
    pytest.mark.areas("launch finish", "id block", "whole guests"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(BOOT_DEADLINE),
]

Start = Callable[..., RunningGuest]
FAMILY, IMAGE, SVN = b"family".ljust(16, b"."), b"image".ljust(16, b"."), 7


def identity(
    digest: bytes, *, author: bool = False, policy: int = DEFAULT_POLICY, signer: str = "owner"
) -> dict[str, Any]:
    """Return a guest's settings for an ID block of this digest."""
    block = id_block(digest, policy, family_id=FAMILY, image_id=IMAGE, guest_svn=SVN)
    auth = id_auth(block, owner_key("owner"), owner_key("author") if author else None)
    auth.id_block_sig = owner_key(signer).sign(bytes(block))
    return {"id_block": bytes(block), "id_auth": bytes(auth), "author_key": author}


@pytest.mark.usefixtures("attests")
@pytest.mark.parametrize("author", [False, True], ids=["owner", "author"])
def test_the_right_guest_starts(
    target: Target, starter: Starter, start: Start, author: bool
) -> None:
    """A block for the digest that sev-snp-measure computes is accepted, and is in the report."""
    made = small_parts(target)
    plain = replace(starter, parts=made).guest()
    digest = expected(made, plain)
    report = report_of(start(parts=made, **identity(digest, author=author)).userspace())
    assert report.measurement == digest
    assert (report.family_id, report.image_id, report.guest_svn) == (FAMILY, IMAGE, SVN)
    assert report.id_key_digest == owner_key("owner").digest
    assert report.author_key_en == author
    assert report.author_key_digest == (owner_key("author").digest if author else bytes(48))


def refused(guest: RunningGuest, error: SevFwError) -> None:
    """Assert that the firmware refused the launch, and that QEMU says by which error."""
    detail = assert_ended(guest, How.FAILED).detail
    assert "SNP_LAUNCH_FINISH" in detail, f"QEMU: {detail!r}, want that SNP_LAUNCH_FINISH fails"
    wanted = f"fw_error={int(error)} "
    assert wanted in detail, f"SNP_LAUNCH_FINISH: {detail!r}, want {wanted}({error.name})"
    assert not guest.console.text, "the guest's console: output, want none before LAUNCH_FINISH"


@pytest.mark.parametrize("changed", ["command line", "initrd", "vCPUs", "firmware"])
def test_another_guest_does_not(
    target: Target, starter: Starter, start: Start, changed: str
) -> None:
    """A block that was made for other parts, or other vCPUs, is refused at the launch's end."""
    made = small_parts(target)
    if changed in ("command line", "initrd") and not made.firmware.kernel_hashes:
        pytest.skip(f"firmware {made.firmware.name} has no place for kernel hashes")
    plain = replace(starter, parts=made).guest()
    words = ""
    settings: dict[str, Any] = {"parts": made}
    match changed:
        case "command line":
            words = "init=/bin/sh"
        case "initrd":
            settings["parts"] = small_parts(target, files=MORE_FILES)
        case "vCPUs":
            settings["vcpus"] = plain.vcpus + 1
        case "firmware":
            other = "trixie" if made.firmware.name != "trixie" else "sid-generic"
            settings |= {"parts": small_parts(target, other), "kernel_hashes": False}
    guest = start(words, **settings, **identity(expected(made, plain)))
    refused(guest, SevFwError.BAD_MEASUREMENT)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"policy": DEFAULT_POLICY | 1 << 19}, SevFwError.POLICY_FAILURE),
        ({"signer": "stranger"}, SevFwError.BAD_SIGNATURE),
        ({"signer": "stranger", "author": True}, SevFwError.BAD_SIGNATURE),
    ],
    ids=["policy", "signature", "signature-with-author"],
)
def test_what_is_wrong_with_a_block(
    target: Target,
    starter: Starter,
    start: Start,
    wrong: dict[str, Any],
    error: SevFwError,
) -> None:
    """A block for another policy, or signed by another key, is refused: QEMU says why."""
    made = small_parts(target)
    plain: LinuxGuest = replace(starter, parts=made).guest()
    refused(start(parts=made, **identity(expected(made, plain), **wrong)), error)
