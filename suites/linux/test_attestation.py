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
        assert said["status"] == "0"
        assert report.report_data == data
    keys = {
        words: fields(guest.shell(f"guestreq key {words}"))["key"]
        for words in ("", "root=0", "fields=1", "fields=2", "fields=8")
    }
    assert keys[""] == keys["root=0"]
    assert len(set(keys.values())) == len(keys) - 1, keys
    assert all(len(key) == 64 and int(key, 16) for key in keys.values())


def test_refusals(start: Start) -> None:
    """What the firmware refuses is told by its status, and the next request works.

    The message itself is answered: that the driver has no error for it is right.
    """
    guest = start().userspace()
    refused = fields(guest.run("guestreq report vmpl=4").output)
    assert int(refused["status"], 16) == SevFwError.INVALID_PARAM, refused
    assert refused["report"] == ""
    assert fields(guest.shell("guestreq report"))["status"] == "0"


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
        assert len(lines) == 3, output[:300]
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
    assert int(second) > int(first)
    assert one != other


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
        assert refused.status != 0 or fields(refused.output)["status"] != "0", refused.output
    assert guest.run(f"{RELOAD} vmpck_id=4").status != 0, "there is a fifth VMPCK"


@pytest.mark.usefixtures("driver_module")
def test_key_is_wiped_after_a_message_that_went_wrong(start: Start) -> None:
    """The driver uses no VMPCK again whose message was not answered: no number is used twice."""
    guest = start().userspace()
    guest.shell("guestreq report")
    refused = fields(guest.run("guestreq report version=255").output)
    assert refused["errno"] != "0 none", refused
    after = fields(guest.run("guestreq report").output)
    assert after["errno"].startswith(f"{errno.ENOTTY} "), after
    # The key is gone from the secrets page, whoever loads the driver again.
    assert guest.run(RELOAD).status != 0 or guest.run("test -e /dev/sev-guest").status != 0
