# SPDX-License-Identifier: GPL-2.0-only
"""The threads of the emulated process: cooperative, exact, repeatable.

A system call that can be preempted or can block is a generator.  It yields None where
another thread may run, and a `Blocked` where it cannot go on by itself.  Without a seed the
threads take turns; with one, the order and the length of the guest's time slices are drawn
from it, so that a race found once is found again.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from harness.operations import TargetTimeoutError


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a thread waits, and the condition that wakes it."""

    ready: Callable[[], bool]
    why: str


Steps = Generator[Blocked | None, None, int]
"""A system call in progress; its return value is the call's result (>= 0)."""

Work = Generator[Blocked | None, None, None]


@dataclass(eq=False)
class Task:
    """One thread of the emulated process."""

    number: int
    queue: deque[Work] = field(default_factory=deque)
    blocked: Blocked | None = None
    signal_pending: bool = False

    @property
    def runnable(self) -> bool:
        """Whether the thread has work that can go on now."""
        return bool(self.queue) and (
            self.blocked is None or self.signal_pending or self.blocked.ready()
        )


class Mutex:
    """A kernel mutex: `yield from mutex.lock(task)`, then `mutex.unlock()`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.owner: Task | None = None

    def lock(self, task: Task) -> Generator[Blocked | None, None, None]:
        """Wait until the mutex is free and take it (not interruptible, like mutex_lock)."""
        while self.owner is not None:
            yield Blocked(lambda: self.owner is None, f"mutex {self.name}")
        self.owner = task

    def unlock(self) -> None:
        """Release the mutex."""
        self.owner = None


class Scheduler:
    """Runs the tasks until the one that is waited for is done."""

    ALONE = 2_000_000
    SHARED = 20_000

    def __init__(self, seed: int | None = None) -> None:
        self.tasks: dict[int, Task] = {}
        self.random = random.Random(seed) if seed is not None else None
        self._turn = 0

    def task(self, number: int) -> Task:
        """The thread with this number, made on first use."""
        if number not in self.tasks:
            self.tasks[number] = Task(number)
        return self.tasks[number]

    def budget(self) -> int:
        """Guest instructions until the next preemption."""
        busy = sum(1 for task in self.tasks.values() if task.queue)
        if busy <= 1:
            return self.ALONE
        if self.random is not None:
            return self.random.choice((1, 3, 10, 40, 200, 1000, 5000))
        return self.SHARED

    def run_until(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        """Let the threads run until `done`; TargetTimeoutError at the deadline or on a deadlock."""
        deadline = time.monotonic() + timeout
        while not done():
            task = self._pick()
            if task is None:
                waits = ", ".join(
                    f"thread {task.number} waits for {task.blocked.why}"
                    for task in self.tasks.values()
                    if task.queue and task.blocked
                )
                raise TargetTimeoutError(f"{what}: no thread can go on ({waits or 'none is busy'})")
            self._step(task)
            if time.monotonic() > deadline:
                raise TargetTimeoutError(f"{what}: not done after {timeout:g} s")

    def _pick(self) -> Task | None:
        busy = [task for task in self.tasks.values() if task.queue]
        if len(busy) == 1 and busy[0].blocked is None:
            return busy[0]
        ready = [task for task in busy if task.runnable]
        if not ready:
            return None
        if self.random is not None:
            return self.random.choice(ready)
        self._turn += 1
        return ready[self._turn % len(ready)]

    def _step(self, task: Task) -> None:
        task.blocked = None
        try:
            task.blocked = next(task.queue[0])
        except StopIteration:
            task.queue.popleft()
