# SPDX-License-Identifier: GPL-2.0-only
"""Requests from several vCPUs, side by side and against each other.

What races runs with several seeds, which draw the order of the threads' steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness.uapi.errors import SevFwError
from harness.vm.attestation import Report
from harness.vm.guest import Guest
from harness.vm.guest_commands import VmgExitResult
from harness.vm.guest_message import Messenger, ReportResponse, unseal
from harness.vm.host import Host
from harness.vm.mailbox import Command, Op
from suites.guest_req.messaging import PAGE, REQUEST, refused, report_of, report_page

pytestmark = [
    pytest.mark.patches(26),
    pytest.mark.areas("guest requests", "races"),
    pytest.mark.needs("snp"),
]

SEEDS = range(1, 5)
VCPUS = 4


def started(host: Host, vcpus: int = VCPUS) -> Guest:
    """A guest whose vCPUs all answer."""
    guest = Guest.launch(host, vcpus=vcpus)
    for cpu in guest.cpus:
        cpu.boot()
    return guest


@pytest.fixture
def smp(host: Host) -> Iterator[Guest]:
    """A guest with several vCPUs."""
    with started(host) as guest:
        yield guest


def ready(messenger: Messenger, data: bytes) -> Command:
    """A request for a report, laid out in memory: the command that sends it."""
    vm = messenger.cpu.guest.vm
    vm.write_gpa(messenger.request, report_page(messenger, data))
    vm.write_gpa(messenger.response, bytes(PAGE))
    return Command(Op.VMGEXIT, (REQUEST, messenger.request, messenger.response))


def race(guest: Guest, messengers: list[Messenger], datas: list[bytes]) -> list[VmgExitResult]:
    """Have the vCPUs of one guest send a request each at once: how each ended."""
    commands = [ready(one, data) for one, data in zip(messengers, datas, strict=True)]
    pending = [cpu.start(one) for cpu, one in zip(guest.cpus, commands, strict=True)]
    return [VmgExitResult.of(result) for (result,) in guest.wait(pending)]


def received(messenger: Messenger) -> Report:
    """The report in the response page."""
    page = messenger.cpu.guest.vm.read_gpa(messenger.response, PAGE)
    header, payload = unseal(messenger.key, page)
    assert header.seqno == messenger.seqno + 1
    return Report.decode(ReportResponse.decode(payload).report)


def test_in_turns(smp: Guest) -> None:
    """Several vCPUs that share a VMPCK and its count may ask in turns."""
    seqno = 1
    for cpu in (*smp.cpus, *smp.cpus):
        messenger = Messenger(cpu)
        messenger.seqno = seqno
        report_of(messenger)
        seqno = messenger.seqno


def test_number_used_by_another_vcpu(smp: Guest) -> None:
    """A number that another vCPU has used is refused under the same VMPCK."""
    first, second = (Messenger(smp.cpu(index)) for index in range(2))
    report_of(first)
    left = second.send_page(report_page(second)).exit
    assert left.info2 == refused(smp.vm.interface, SevFwError.INVALID_PARAM)
    second.seqno = first.seqno
    report_of(second)


@pytest.mark.parametrize("seed", SEEDS)
def test_side_by_side(scheduled: Callable[[int], Host], seed: int) -> None:
    """Several vCPUs with a VMPCK each ask at once, and each gets its own answer."""
    with started(scheduled(seed)) as guest:
        messengers = [Messenger(cpu, level=cpu.index) for cpu in guest.cpus]
        for turn in range(4):
            datas = [bytes([cpu.index, turn]) * 32 for cpu in guest.cpus]
            left = race(guest, messengers, datas)
            assert [one.info2 for one in left] == [0] * VCPUS
            for messenger, data in zip(messengers, datas, strict=True):
                report = received(messenger)
                assert (report.report_data, report.vmpl) == (data, messenger.level)
                messenger.seqno += 2


@pytest.mark.parametrize("seed", SEEDS)
def test_race_for_a_number(scheduled: Callable[[int], Host], seed: int) -> None:
    """Of vCPUs that use one number of one VMPCK at once exactly one is answered."""
    with started(scheduled(seed)) as guest:
        messengers = [Messenger(cpu) for cpu in guest.cpus]
        left = race(guest, messengers, [bytes([index]) * 64 for index in range(VCPUS)])
        refusal = refused(guest.vm.interface, SevFwError.INVALID_PARAM)
        assert sorted(one.info2 for one in left) == [0] + [refusal] * (VCPUS - 1)
        winner = next(index for index, one in enumerate(left) if not one.info2)
        assert received(messengers[winner]).report_data == bytes([winner]) * 64
        messengers[winner].seqno += 2
        report_of(messengers[winner])


@pytest.mark.parametrize("seed", SEEDS)
def test_two_guests(scheduled: Callable[[int], Host], seed: int) -> None:
    """Guests that ask at once get reports of their own."""
    host = scheduled(seed)
    with started(host, 1) as one, started(host, 1) as other:
        messengers = [Messenger(guest.cpu()) for guest in (one, other)]
        commands = [ready(messenger, b"data") for messenger in messengers]
        pending = [
            guest.cpu().start(command)
            for guest, command in zip((one, other), commands, strict=True)
        ]
        for guest, under_way in zip((one, other), pending, strict=True):
            ((result,),) = guest.wait([under_way])
            assert VmgExitResult.of(result).info2 == 0
        reports = [received(messenger) for messenger in messengers]
    assert reports[0].report_id != reports[1].report_id
