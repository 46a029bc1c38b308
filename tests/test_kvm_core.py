# SPDX-License-Identifier: GPL-2.0-only
"""The emulated KVM's building blocks: attribute ranges, scheduler, user memory."""

from __future__ import annotations

import errno
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.emulator.kvm.attributes import PrivateRanges
from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.sched import Blocked, Mutex, Scheduler
from harness.emulator.kvm.usermem import UserMemory
from harness.emulator.memory import PAGE_SIZE, FrameAllocator, PhysicalMemory
from harness.operations import TargetTimeoutError

LIMIT = 64
Span = tuple[int, int, bool]
spans = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT), st.booleans()).map(
    lambda span: (min(span[:2]), max(span[:2]) + 1, span[2])
)


@given(st.lists(spans), st.integers(0, LIMIT), st.integers(0, LIMIT))
def test_private_ranges_agree_with_a_set(changes: list[Span], a: int, b: int) -> None:
    """Ranges answer as a plain set of frames does."""
    ranges, oracle = PrivateRanges(), set[int]()
    for start, end, private in changes:
        ranges.set(start, end, private)
        oracle = oracle | set(range(start, end)) if private else oracle - set(range(start, end))
    low, high = min(a, b), max(a, b) + 1
    window = set(range(low, high))
    assert [gfn in ranges for gfn in range(LIMIT + 2)] == [
        gfn in oracle for gfn in range(LIMIT + 2)
    ]
    assert ranges.covers(low, high) == (window <= oracle)
    assert ranges.disjoint(low, high) == window.isdisjoint(oracle)
    edges = [edge for pair in ranges.ranges() for edge in pair]
    assert edges == sorted(set(edges)), "ranges are sorted, disjoint and not adjacent"


def _steps(name: str, count: int, trace: list[str]) -> Generator[Blocked | None, None, None]:
    for _ in range(count):
        trace.append(name)
        yield None


def _run(seed: int | None) -> list[str]:
    scheduler, trace = Scheduler(seed), list[str]()
    for number, name in enumerate("abc"):
        scheduler.task(number).queue.append(_steps(name, 8, trace))
    scheduler.run_until(
        lambda: not any(task.queue for task in scheduler.tasks.values()), 5.0, "test"
    )
    return trace


def test_scheduler_takes_turns_without_a_seed() -> None:
    """Without a seed the threads run in turn."""
    trace = _run(None)
    assert sorted(trace[:3]) == ["a", "b", "c"]
    assert trace[:3] * 8 == trace


def test_scheduler_repeats_a_seed() -> None:
    """The same seed gives the same order, another one a different order."""
    assert _run(7) == _run(7)
    assert len({tuple(_run(seed)) for seed in range(8)}) > 1


def test_scheduler_reports_a_deadlock_at_once() -> None:
    """When nobody can go on, the wait ends at once and says what each thread waits for."""
    scheduler = Scheduler()
    mutex = Mutex("kvm->lock")
    holder = scheduler.task(1)
    list(mutex.lock(holder))

    def wait() -> Generator[Blocked | None, None, None]:
        yield from mutex.lock(scheduler.task(2))

    scheduler.task(2).queue.append(wait())
    with pytest.raises(TargetTimeoutError, match=r"thread 2 waits for mutex kvm->lock"):
        scheduler.run_until(lambda: False, 60.0, "a lock")


def test_scheduler_keeps_its_deadline() -> None:
    """A thread that never ends costs the deadline, not for ever."""
    scheduler = Scheduler()

    def spin() -> Generator[Blocked | None, None, None]:
        while True:
            yield None

    scheduler.task(0).queue.append(spin())
    with pytest.raises(TargetTimeoutError, match=r"a spin: not done after 0.05 s"):
        scheduler.run_until(lambda: False, 0.05, "a spin")


@pytest.fixture
def user_memory() -> Generator[UserMemory, None, None]:
    """An address space over 16 MiB of physical memory."""
    memory = PhysicalMemory(16 << 20)
    yield UserMemory(memory, FrameAllocator(memory, 0, 16 << 20))
    memory.close()


def test_user_memory_faults_outside_mappings(user_memory: UserMemory) -> None:
    """A copy that leaves its mapping is EFAULT, on either side and across two mappings."""
    first = user_memory.map(PAGE_SIZE)
    user_memory.map(PAGE_SIZE)
    user_memory.write(first + PAGE_SIZE - 4, b"abcd")
    assert user_memory.read(first + PAGE_SIZE - 4, 4) == b"abcd"
    for address, length in ((first - 1, 1), (first + PAGE_SIZE - 4, 5), (0, 8), (1 << 63, 1)):
        with pytest.raises(KvmError) as caught:
            user_memory.read(address, length)
        assert caught.value.errno == errno.EFAULT


def test_user_memory_is_given_back_empty(user_memory: UserMemory) -> None:
    """Memory that was unmapped is zero when it is mapped again, and can be had again."""
    for _ in range(20):
        address = user_memory.map(8 << 20)
        assert user_memory.read(address, 16) == bytes(16)
        user_memory.write(address, b"secret of yesterday")
        user_memory.unmap(address, 8 << 20)
