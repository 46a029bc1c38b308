# SPDX-License-Identifier: GPL-2.0-only
"""Conversions from two vCPUs at once, and very many of them; with and without SNP."""

from __future__ import annotations

import pytest

from harness.vm.guest import Guest
from harness.vm.host import Host
from harness.vm.mailbox import MAGIC, Command, Op
from suites.psc.changing import BYTES, HUGE, PAGE, A, B, C, conversion

pytestmark = [
    pytest.mark.patches(15, 21),
    pytest.mark.areas("page state change", "guest_memfd"),
    pytest.mark.needs("private_memory"),
]

GIGABYTE = 1 << 30


def _both(pair: Guest, first: Command, second: Command) -> None:
    pending = [pair.cpu(0).start(first), pair.cpu(1).start(second)]
    for results in pair.wait(pending):
        for result in results:
            assert result.check().value == 0
            if result.command.op is Op.PSC:
                assert result.values[1] == 0
                assert result.values[3] == result.values[4] + 1


@pytest.fixture
def booted(any_pair: Guest) -> Guest:
    """Two vCPUs that have both started."""
    for cpu in any_pair.cpus:
        if cpu.header().magic != MAGIC:
            cpu.boot()
    return any_pair


def test_pages_of_their_own(booted: Guest) -> None:
    """Two vCPUs convert ranges side by side over and over; each range ends as it was put."""
    left, right = booted.cpus
    for turn in range(10):
        private = bool(turn % 2)
        _both(
            booted,
            conversion(left, A, 50 * PAGE, private=private),
            conversion(right, A + 50 * PAGE, 50 * PAGE, private=not private),
        )
    right.convert(A + 50 * PAGE, 50 * PAGE, private=True)
    if booted.is_snp:
        assert left.pvalidate(A, 100 * PAGE).check().value == 0
    left.fill(A, 100 * PAGE, 1, 1).check()
    assert right.verify(A, 100 * PAGE, 1, 1).check().value == 0


def test_interleaved_pages(booted: Guest) -> None:
    """Two vCPUs make pages of one 2 MiB range shared at once; none is lost."""
    left, right = booted.cpus
    left.make_private(B, HUGE, large=booted.is_snp)
    left.fill(B, 32 * PAGE, 7, 1).check()
    for number in range(0, 16, 2):
        for cpu, page in ((left, number), (right, number + 1)):
            if booted.is_snp:
                cpu.pvalidate(B + page * PAGE, validate=False).check()
        _both(
            booted,
            conversion(left, B + number * PAGE, PAGE, private=False),
            conversion(right, B + (number + 1) * PAGE, PAGE, private=False),
        )
    left.fill(B, 16 * PAGE, 0x33, private=False).check()
    assert booted.vm.read_gpa(B, 16 * PAGE) == (0x33).to_bytes(8, "little") * (16 * PAGE // 8)
    rest = right.verify(B + 16 * PAGE, 16 * PAGE, 7 + 16 * PAGE // 8, 1)
    assert rest.check().value == 0


def test_same_pages(booted: Guest) -> None:
    """Two vCPUs that ask the same of the same pages both succeed."""
    left, right = booted.cpus
    for private in (False, True, False):
        _both(
            booted,
            conversion(left, C, 100 * PAGE, private=private),
            conversion(right, C, 100 * PAGE, private=private),
        )
    left.store(C + 99 * PAGE, 9, private=False).check()
    assert right.load(C + 99 * PAGE, private=False).check().value == 9
    assert booted.vm.read_gpa(C + 99 * PAGE, 1) == b"\x09"


def test_conversions_beside_accesses(booted: Guest) -> None:
    """A vCPU that works on its private pages is not disturbed by another's conversions."""
    left, right = booted.cpus
    left.make_private(A, 2 * HUGE, large=booted.is_snp)
    left.fill(A, 4 * PAGE, 0).check()
    times = 4000
    worker = left.start(
        left.locked_add(A, 3, times), left.store_loop(A + PAGE, times, stride=8, span=PAGE)
    )
    changer = right.start(conversion(right, B + PAGE, 50 * PAGE, private=False))
    done = booted.wait([worker, changer])
    assert done[0][0].check().value == 3 * times
    assert left.load(A).check().value == 3 * times
    assert done[1][0].ok
    last = times - (times - 1) % (PAGE // 8)
    assert left.load(A + PAGE).check().value == last


@pytest.mark.deadline(120)
def test_a_gigabyte(host: Host, vm_type: int) -> None:
    """A gigabyte becomes shared and private again, by 2 MiB at a time, and all of it works."""
    with Guest.launch(host, vm_type=vm_type, memory=BYTES + GIGABYTE) as guest:
        cpu = guest.cpu()
        probes = range(BYTES, BYTES + GIGABYTE, GIGABYTE // 16)
        size = GIGABYTE
        cpu.convert(BYTES, size, private=False, large=guest.is_snp)
        for gpa in probes:
            cpu.store(gpa, gpa, private=False).check()
        cpu.convert(BYTES, size, private=True, large=guest.is_snp)
        for gpa in probes:
            if guest.is_snp:
                assert cpu.load(gpa).not_validated
                cpu.validate(gpa, HUGE, large=True)
            cpu.store(gpa, ~gpa & (1 << 64) - 1).check()
            assert guest.vm.read_gpa(gpa, 8) == gpa.to_bytes(8, "little")
        for gpa in probes:
            assert cpu.load(gpa).check().value == ~gpa & (1 << 64) - 1
        if guest.is_snp:
            pages = sum(r.size for r in guest.psc_requests if r.gpa >= BYTES)
            assert pages == 2 * GIGABYTE
            assert all(r.large for r in guest.psc_requests)
