# SPDX-License-Identifier: GPL-2.0-only
"""Private memory that changes under vCPUs which use it; without memory encryption.

One vCPU counts in the first word of a page, the other one looks.
"""

from __future__ import annotations

import errno

import pytest

from harness.vm.exits import InterruptedExit, MemoryFaultExit
from harness.vm.guest import Guest, Pending
from harness.vm.mailbox import Command, Op
from suites.gmem.memory import FAR, HUGE, PAGE, A, B, changes, empty, fresh, gmem_of

pytestmark = [
    pytest.mark.patches(5, 21, 22),
    pytest.mark.areas("guest_memfd", "races"),
    pytest.mark.needs("sw_protected"),
    pytest.mark.deadline(120),
]

ENDLESS = 1 << 40
SECRET = 0x5EC7E7_5EC7E7


def counting(pair: Guest, gpa: int) -> Pending:
    """Let the second vCPU count in the word at an address until something stops it."""
    cpu = pair.cpu(1)
    running = cpu.start(cpu.store_loop(gpa, ENDLESS, stride=8, span=8))
    assert moves(pair, gpa), "the counting vCPU does not run"
    return running


def moves(pair: Guest, gpa: int) -> bool:
    """Whether the counter gets on, as the first vCPU sees it."""
    return changes(lambda: pair.cpu().load(gpa).check().value)


def shared_moves(pair: Guest, running: Pending, gpa: int) -> bool:
    """Whether the counter gets on, as userspace sees it in the shared memory."""

    def look() -> bytes:
        pair.serve(running)
        return pair.vm.read_gpa(gpa, 8)

    return changes(look)


def private_moves(pair: Guest, running: Pending, gpa: int) -> bool:
    """Whether the counter gets on in the private memory, as the first vCPU sees it."""

    def look() -> int:
        pair.serve(running)
        return pair.cpu().load(gpa).check().value

    return changes(look)


def stop(pair: Guest, running: Pending) -> None:
    """Interrupt the counting vCPU: nothing but that may have stopped it."""
    assert running.results is None
    pair.cpu(1).kick()
    pair.wait([running])
    assert isinstance(pair.cpu(1).stopped, InterruptedExit)


def test_hole_under_a_counter(plain_pair: Guest) -> None:
    """A page punched out under a vCPU that writes to it is a new, empty one, and it goes on."""
    cpu = plain_pair.cpu()
    fresh(cpu, B, PAGE)
    running = counting(plain_pair, B)
    for _ in range(10):
        cpu.fill(B + 8, PAGE - 8, SECRET).check()
        gmem_of(plain_pair).punch_hole(B, PAGE)
        assert moves(plain_pair, B), "the counting vCPU does not go on after the hole"
        assert not cpu.verify(B + 8, PAGE - 8, 0).check().value, "the old page is still there"
    stop(plain_pair, running)


def test_conversion_under_a_counter(plain_pair: Guest) -> None:
    """A vCPU that writes to a page which is converted goes on in the memory of the other kind."""
    # A fault that begins before a conversion and ends after it is an exit: it is to be run again.
    plain_pair.hooks.memory_fault = lambda _cpu, fault: fault.gpa == B
    fresh(plain_pair.cpu(), B, PAGE)
    running = counting(plain_pair, B)
    for _ in range(5):
        plain_pair.vm.set_memory_attributes(B, PAGE, private=False)
        assert shared_moves(plain_pair, running, B), "the vCPU does not write to the shared page"
        plain_pair.vm.set_memory_attributes(B, PAGE, private=True)
        held = plain_pair.vm.read_gpa(B, 8)
        assert private_moves(plain_pair, running, B), "it does not write to the private page"
        assert plain_pair.vm.read_gpa(B, 8) == held, "it still writes to the shared one"
    stop(plain_pair, running)


def test_conversion_beside_a_counter(plain_pair: Guest) -> None:
    """Conversions of all the other pages of 2 MiB leave a counting vCPU its page."""
    cpu, vm = plain_pair.cpu(), plain_pair.vm
    fresh(cpu, B, HUGE)
    page = B + 100 * PAGE
    cpu.fill(page, PAGE, 0).check()
    running = counting(plain_pair, page)
    last = cpu.load(page).check().value
    for private in (False, True, False, True):
        vm.set_memory_attributes(B, 100 * PAGE, private=private)
        vm.set_memory_attributes(page + PAGE, HUGE - 101 * PAGE, private=private)
        assert moves(plain_pair, page)
        now = cpu.load(page).check().value
        assert now >= last, "the page was exchanged"
        last = now
    stop(plain_pair, running)


def test_file_closed_under_a_counter(plain_pair: Guest) -> None:
    """A vCPU whose page's file is closed leaves with a memory fault for that page."""
    vm, cpu = plain_pair.vm, plain_pair.cpu(1)
    gmem = vm.create_gmem(4 * PAGE)
    vm.add_slot(5, FAR, 4 * PAGE, gmem=gmem)
    fresh(cpu, FAR, 4 * PAGE)
    running = counting(plain_pair, FAR + PAGE)
    gmem.close()
    plain_pair.wait([running])
    stopped = cpu.stopped
    assert isinstance(stopped, MemoryFaultExit)
    assert (stopped.gpa, stopped.size, stopped.private) == (FAR + PAGE, PAGE, True)
    assert stopped.errno == errno.EFAULT


def test_slot_deleted_under_a_counter(plain_pair: Guest) -> None:
    """A vCPU whose slot is deleted leaves with a memory fault, and goes on when it is back."""
    vm, cpu = plain_pair.vm, plain_pair.cpu(1)
    gmem = vm.create_gmem(4 * PAGE)
    vm.add_slot(5, FAR, 4 * PAGE, gmem=gmem)
    fresh(cpu, FAR, 4 * PAGE)
    running = counting(plain_pair, FAR)
    vm.delete_slot(5)
    plain_pair.wait([running])
    stopped = cpu.stopped
    assert isinstance(stopped, MemoryFaultExit)
    assert (stopped.gpa, stopped.private) == (FAR, True)
    vm.add_slot(5, FAR, 4 * PAGE, gmem=gmem)
    held = plain_pair.cpu().load(FAR).check().value
    assert held > 0
    ticket = cpu.vcpu.start()
    assert moves(plain_pair, FAR), "the vCPU does not go on"
    cpu.kick()
    assert isinstance(cpu.vcpu.finish(ticket), InterruptedExit)


def test_first_touch_by_two(plain_pair: Guest) -> None:
    """Two vCPUs that touch the same fresh pages at once get the same page each time."""
    left, right = plain_pair.cpus
    fresh(left, A, 64 * PAGE)
    both = []
    for number, cpu in enumerate(plain_pair.cpus):
        # One writes the even words, the other the odd ones.
        first = A + 8 * number
        loop = cpu.store_loop(first, 64, stride=PAGE, span=64 * PAGE)
        both.append(cpu.start(loop))
    for results in plain_pair.wait(both):
        results[0].check()
    for page in range(64):
        for cpu in (left, right):
            words = [cpu.load(A + page * PAGE + 8 * number).check().value for number in (0, 1)]
            assert words == [page + 1, page + 1], f"page {page}"


def test_atomic_additions_over_holes_beside(plain_pair: Guest) -> None:
    """No addition of two vCPUs to one word is lost while other pages are punched."""
    left, right = plain_pair.cpus
    fresh(left, A, 32 * PAGE)
    times = 3000
    both = [cpu.start(cpu.locked_add(A, 1, times)) for cpu in (left, right)]
    for number in range(1, 32):
        gmem_of(plain_pair).punch_hole(A + number * PAGE, PAGE)
    for results in plain_pair.wait(both):
        results[0].check()
    assert left.load(A).check().value == 2 * times


def test_hole_seen_by_the_other(plain_pair: Guest) -> None:
    """What one vCPU had mapped and punched, no other vCPU still sees."""
    left, right = plain_pair.cpus
    fresh(left, A, 4 * PAGE)
    for turn in range(5):
        left.fill(A, 4 * PAGE, SECRET + turn).check()
        assert not right.verify(A, 4 * PAGE, SECRET + turn).check().value
        gmem_of(plain_pair).punch_hole(A, 4 * PAGE)
        assert empty(right, A, 4), "the other vCPU has the old pages"
        assert empty(left, A, 4)


@pytest.mark.needs("pre_fault_memory")
def test_pre_faults_beside_holes(plain_pair: Guest) -> None:
    """Pre-faulting, touching and punching the same pages in turn leaves them empty and usable."""
    left, right = plain_pair.cpus
    fresh(left, A, HUGE)
    for _ in range(5):
        assert left.vcpu.pre_fault(A, 16 * PAGE).errno == 0
        right.run([Command(Op.FILL, (A, 16 * PAGE, SECRET, 0))])[0].check()
        gmem_of(plain_pair).punch_hole(A, 16 * PAGE)
        assert right.vcpu.pre_fault(A, 16 * PAGE).errno == 0
        assert empty(left, A, 16)
