# SPDX-License-Identifier: GPL-2.0-only
"""Attestation and keys, asked for by the guest kernel's own driver and its userspace."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from harness.linuxguest.parts import Parts
from harness.linuxguest.running import RunningGuest
from harness.uapi.errors import SevFwError
from harness.vm.attestation import SIGNED_BY_VCEK, Report, verify_chain
from harness.vm.host import Host
from harness.vm.vm import DEFAULT_POLICY
from suites.guest_req.messaging import certificate
from suites.linux.attesting import TSM, fields, report_of
from suites.linux.conftest import BOOT_DEADLINE

pytestmark = [
    pytest.mark.patches(26, 27),
    pytest.mark.areas("attestation", "whole guests"),
    pytest.mark.needs("snp"),
    pytest.mark.deadline(BOOT_DEADLINE),
    pytest.mark.usefixtures("attests"),
]

Start = Callable[..., RunningGuest]
READERS = 8


def test_report_by_configfs(start: Start, rng: random.Random) -> None:
    """A report of configfs tsm has the guest's data and the host's."""
    data, host_data = rng.randbytes(64), rng.randbytes(32)
    report = report_of(start(host_data=host_data).userspace(), data)
    assert report.report_data == data
    assert report.host_data == host_data
    assert report.vmpl == 0
    assert report.policy == DEFAULT_POLICY


def test_report_is_signed_to_the_root(endorsed: Host, start: Start, rng: random.Random) -> None:
    """A report is signed by the chip's VCEK, whose certificates lead to the vendor's root."""
    vcek, ask, ark = (certificate(endorsed, name) for name in ("vcek", "ask", "ark"))
    data = rng.randbytes(64)
    report = report_of(start().userspace(), data)
    assert report.report_data == data
    assert report.signing_key == SIGNED_BY_VCEK
    report.verify(vcek)
    verify_chain(vcek, ask, ark)


def test_device(start: Start, rng: random.Random) -> None:
    """/dev/sev-guest gives reports, extended ones too, and keys that depend on what is asked."""
    guest = start().userspace()
    data = rng.randbytes(64)
    for command in ("report", "ext-report"):
        said = fields(guest.shell(f"guestreq {command} data={data.hex()}"))
        report = Report.decode(bytes.fromhex(said["report"]))
        assert said["status"] == "0", f"{command}: status {said['status']}, want 0"
        assert report.report_data == data
    keys = {
        words: fields(guest.shell(f"guestreq key {words}"))["key"]
        for words in ("", "root=0", "fields=1", "fields=2", "fields=8")
    }
    assert keys[""] == keys["root=0"], "key of root=0: another one, want the default key"
    assert len(set(keys.values())) == len(keys) - 1, f"derived keys: {keys}, want different ones"
    for asked, key in keys.items():
        assert len(key) == 64, f"key for {asked!r}: {len(key) // 2} bytes, want 32"
        assert int(key, 16), f"key for {asked!r}: zeros, want a key"


def test_refusals(start: Start) -> None:
    """What the firmware refuses is told by its status, and the next request works.

    The message itself is answered: that the driver has no error for it is right.
    """
    guest = start().userspace()
    refused = fields(guest.run("guestreq report vmpl=4").output)
    status = int(refused["status"], 16)
    assert status == SevFwError.INVALID_PARAM, f"report for VMPL4: {refused}, want INVALID_PARAM"
    assert refused["report"] == "", f"report for VMPL4: {refused['report']}, want none"
    following = fields(guest.shell("guestreq report"))["status"]
    assert following == "0", f"the next report: status {following}, want 0"


def test_readers_at_once(start: Start, rng: random.Random) -> None:
    """Processes that ask at once each get a report with their own data."""
    guest = start(vcpus=4).userspace()
    asked = [rng.randbytes(64) for _ in range(READERS)]
    jobs = " ".join(
        f"(for i in 1 2 3; do guestreq report data={data.hex()}; done > /tmp/{number} 2>&1) &"
        for number, data in enumerate(asked)
    )
    guest.shell(f"{jobs} wait", 300)
    for number, data in enumerate(asked):
        output = guest.shell(f"cat /tmp/{number}")
        lines = [line for line in output.splitlines() if line.startswith("report: ")]
        assert len(lines) == 3, f"reports of process {number}: {len(lines)}, want 3"
        for line in lines:
            report = Report.decode(bytes.fromhex(line.partition(" ")[2]))
            assert report.report_data == data


def test_generation_counts(start: Start) -> None:
    """Every change of what is asked makes another report: tsm's generation tells."""
    guest = start().userspace()
    output = guest.shell(
        f"cd {TSM} && mkdir a && head -c 64 /dev/zero > a/inblob && cat a/generation && "
        "md5sum < a/outblob && head -c 64 /dev/zero | tr '\\0' x > a/inblob && "
        "cat a/generation && md5sum < a/outblob"
    )
    first, one, second, other = output.split("\n")[:4]
    assert int(second) > int(first), f"generation: {second} after {first}, want a higher one"
    assert one != other, f"report of another question: {one} again, want another one"


@pytest.fixture
def driver_module(linux_parts: Parts) -> None:
    """Skip where the driver is built into the guest's kernel, and cannot be loaded again."""
    if not any("sev-guest" in file for file in linux_parts.selection.files):
        pytest.skip(f"sev-guest is no module of the guest's kernel {linux_parts.kernel.release}")


RELOAD = "rmmod sev_guest && insmod /modules/sev_guest.ko"


@pytest.mark.usefixtures("driver_module")
def test_numbers_outlive_the_driver(start: Start) -> None:
    """A driver that is loaded again goes on with the numbers of the last one's messages."""
    guest = start().userspace()
    guest.shell("guestreq report")
    for _ in range(2):
        guest.shell(RELOAD)
        guest.shell("guestreq report && guestreq report")


@pytest.mark.usefixtures("driver_module")
def test_keys_of_lower_levels(start: Start) -> None:
    """With the VMPCK of another VMPL there are reports for that VMPL, and none for VMPL0."""
    guest = start().userspace()
    for level in (1, 2, 3):
        guest.shell(f"{RELOAD} vmpck_id={level}")
        said = fields(guest.shell(f"guestreq report vmpl={level}"))
        report = Report.decode(bytes.fromhex(said["report"]))
        assert report.vmpl == level
        refused = guest.run("guestreq report vmpl=0")
        assert refused.status != 0 or fields(refused.output)["status"] != "0", (
            f"a report for VMPL0: {refused.output!r}, want an error"
        )
    assert guest.run(f"{RELOAD} vmpck_id=4").status != 0, (
        "module loaded with vmpck_id=4: success, want an error"
    )


@pytest.mark.usefixtures("driver_module")
def test_key_is_wiped_after_a_message_that_went_wrong(start: Start) -> None:
    """The driver uses no VMPCK again whose message was not answered: no number is used twice."""
    guest = start().userspace()
    guest.shell("guestreq report")
    refused = fields(guest.run("guestreq report version=255").output)
    assert refused["errno"] != "0 none", "a request of version 255: success, want an error"
    after = fields(guest.run("guestreq report").output)
    assert after["errno"].startswith(f"{errno.ENOTTY} "), (
        f"next request: errno {after['errno']}, want ENOTTY"
    )
    # The key is gone from the secrets page, whoever loads the driver again.
    loaded = guest.run(RELOAD).status == 0 and guest.run("test -e /dev/sev-guest").status == 0
    assert not loaded, "/dev/sev-guest: there again, want that the driver refuses a key of zeros"
