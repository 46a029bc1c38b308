# SPDX-License-Identifier: GPL-2.0-only
"""The seam of the project: what a kernel under test offers to those who drive it.

Everything above speaks byte-exact KVM ioctls and memory through a `Kernel`; everything
below (emulator, local, vng, ssh) implements it.  All addresses are virtual addresses of
the process that drives KVM *on the target*, all file descriptors are that process's, and
ioctl arguments are opaque bytes: nobody below this line interprets them for the caller.

An operation is a small frozen dataclass.  A batch of operations runs in order on one
thread of the target and stops after the first that fails.  Several threads run at once;
that is how races are tested.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.inspector import Inspector
from harness.operations import (
    DEFAULT_BACKLOG,
    DEFAULT_TIMEOUT,
    MAP_ANONYMOUS,
    MAP_NORESERVE,
    MAP_SHARED,
    Close,
    Completed,
    Fallocate,
    Ioctl,
    Mmap,
    Munmap,
    Op,
    Open,
    OperationError,
    Read,
    ReadFile,
    Result,
    TargetError,
    Ticket,
    Write,
)
from harness.program import Program
from harness.splats.symbols import Symbols

STUCK_CALL = "stuck call"
"""Kind of a Death that is none: kernel and agent answer, and what was waited for did not come."""


@dataclass(frozen=True, slots=True)
class Death:
    """What a target died of."""

    kind: str
    """One of harness/vng/autopsy.py's kinds: panic, oops, hang, ..."""
    summary: str
    """One line: what was seen.  Sanitised."""
    blameless: bool = False
    """Whether the kernel under test is as it was: the way to it was lost, nothing else."""


class Kernel(abc.ABC):
    """A running kernel and the process in it that holds /dev/kvm."""

    name: str
    inspector: Inspector | None = None
    gmem_order: int = 0
    """Largest folio of guest_memfd: 9 where it has 2 MiB pages, 0 in every Linux release so far."""
    thread_limit: int | None = None
    """How many thread numbers there are, None for as many as one likes."""
    runs_programs: bool = False
    """Whether `run_program` and `start_program` can be called: there is a user space."""
    boots_anew: bool = False
    """Whether `boot_anew` can be called: the way to the target outlives its kernel."""
    boots: int = 0
    """How often it was booted anew: files and addresses of the boot before mean nothing more."""
    image: Path | None = None
    """The bzImage that runs, where it lies here."""
    symbols: Symbols | None = None
    """What decodes its traces, where the backend has it."""
    environment: frozenset[str] = frozenset()
    """Words that known issues go by: tcg or kvm, stock or snp."""
    release: str = ""
    """uname -r, where the backend knows it before the log does."""
    snp_hint: str | None = None
    """Why SNP VMs cannot be made on this target and what to do, where the backend knows better."""

    @abc.abstractmethod
    def start(self, ops: Sequence[Op], *, thread: int = 0) -> Ticket:
        """Queue a batch on a thread of the target (threads are made on first use)."""

    @abc.abstractmethod
    def wait(self, ticket: Ticket, timeout: float = DEFAULT_TIMEOUT) -> list[Result]:
        """Wait for a batch: a result for each operation up to and including the first failed one.

        Raises TargetTimeoutError when the deadline passes, TargetError when the target is lost.
        """

    @abc.abstractmethod
    def wait_any(self, tickets: Sequence[Ticket], timeout: float = DEFAULT_TIMEOUT) -> Ticket:
        """Wait until one of several batches has ended; `wait` then has its results at once.

        Raises TargetTimeoutError when the deadline passes, TargetError when the target is lost.
        """

    @abc.abstractmethod
    def interrupt(self, thread: int) -> None:
        """Send a signal to a thread, so that a blocking ioctl (KVM_RUN) returns EINTR."""

    @abc.abstractmethod
    def log(self) -> str:
        """Return the kernel log (dmesg) since boot, control characters and all."""

    def note(self, text: str) -> bool:
        """Put a line into the kernel's log; False where the target cannot, or is lost.

        It also settles the log: `log` then has the line and all that was logged before it.
        """
        return False

    def mark(self, text: str) -> None:
        """Put a line into the kernel's log, before all that operations make it print from now."""
        self.note(text)

    def run_program(
        self, argv: Sequence[str], timeout: float = DEFAULT_TIMEOUT, limit: int = 1 << 20
    ) -> Completed:
        """Run a program on the target, keeping the first `limit` bytes that it prints.

        Raises TargetError where the target is lost or has no user space.
        """
        raise TargetError(f"{self.name} runs no programs")

    def start_program(
        self,
        argv: Sequence[str],
        *,
        channels: int = 0,
        timeout: float = DEFAULT_TIMEOUT,
        backlog: int = DEFAULT_BACKLOG,
    ) -> Program:
        """Start a program on the target, to talk to it while it runs.

        It has `channels` stream sockets as its files 10, 11, ...; it is ended when `timeout`
        seconds have passed.  A channel keeps at most `backlog` bytes that nobody receives.
        Raises TargetError where the target is lost or has no user space; what could not be
        started is a Program that has ended, and says why.
        """
        raise TargetError(f"{self.name} runs no programs")

    def boot_anew(self, argv: Sequence[str], timeout: float, *, by_reset: bool = False) -> None:
        """Run a program that ends the target's kernel (kexec, panic); wait for the next boot.

        Nothing of what was open or under way is left.  A machine that is reset on the way is
        lost, unless `by_reset` says that it is to be.  Raises TargetError where the target is
        lost or runs on, and TargetTimeoutError where none has booted within `timeout` seconds.
        """
        raise TargetError(f"{self.name} cannot be booted anew")

    def trouble(self) -> str | None:
        """Say what keeps results from being whole though the target runs; None where nothing."""
        return None

    def autopsy(self) -> Death | None:
        """Say what became of a target that was lost or hangs; None where nothing is known.

        Called once, before `shutdown`; takes seconds where the target has to be asked.
        """
        return None

    @abc.abstractmethod
    def shutdown(self) -> None:
        """Give the target back: close every file, end its threads.  May be called twice."""

    # What follows is convenience over the five methods above, the same for every backend.

    def batch(
        self, ops: Sequence[Op], *, thread: int = 0, timeout: float = DEFAULT_TIMEOUT
    ) -> list[Result]:
        """Run a batch and wait for it."""
        return self.wait(self.start(ops, thread=thread), timeout)

    def call(self, op: Op, *, thread: int = 0, timeout: float = DEFAULT_TIMEOUT) -> Result:
        """Run one operation; a failed one is a Result with an errno, not an exception."""
        return self.batch([op], thread=thread, timeout=timeout)[0]

    def check(self, op: Op, *, thread: int = 0, timeout: float = DEFAULT_TIMEOUT) -> Result:
        """Run one operation and raise OperationError when it fails."""
        result = self.call(op, thread=thread, timeout=timeout)
        if not result.ok:
            raise OperationError(op, result)
        return result

    def run_all(self, ops: Sequence[Op]) -> None:
        """Run every operation, also behind one that fails; then raise for the first that did."""
        failed: OperationError | None = None
        left = list(ops)
        while left:
            results = self.batch(left)
            at = len(results) - 1
            if not results[at].ok and failed is None:
                failed = OperationError(left[at], results[at])
            left = left[at + 1 :]
        if failed is not None:
            raise failed

    def open(self, path: str, flags: int = os.O_RDWR | os.O_CLOEXEC) -> int:
        """Open a file on the target."""
        return self.check(Open(path, flags)).value

    def close(self, fd: int) -> None:
        """Close a file on the target."""
        self.check(Close(fd))

    def ioctl(
        self,
        fd: int,
        request: int,
        arg: int | bytes = 0,
        *,
        thread: int = 0,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Result:
        """Issue one ioctl."""
        return self.call(Ioctl(fd, request, arg), thread=thread, timeout=timeout)

    def mmap(self, length: int, *, fd: int = -1, offset: int = 0) -> int:
        """Map memory (anonymous without a file); returns the target's address."""
        flags = MAP_SHARED if fd >= 0 else MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE
        return self.check(Mmap(length, flags=flags, fd=fd, offset=offset)).value

    def munmap(self, address: int, length: int) -> None:
        """Unmap memory."""
        self.check(Munmap(address, length))

    def read(self, address: int, length: int) -> bytes:
        """Read the target process's memory."""
        return self.check(Read(address, length)).data

    def write(self, address: int, data: bytes) -> None:
        """Write the target process's memory."""
        self.check(Write(address, data))

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> Result:
        """Allocate or punch a range of a file."""
        return self.call(Fallocate(fd, mode, offset, length))

    def read_file(self, path: str) -> str | None:
        """Content of a small file, None where the target has no such file."""
        result = self.call(ReadFile(path))
        return result.data.decode(errors="replace") if result.ok else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()
