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
import enum
import errno as _errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from harness.program import Program
    from harness.splats.symbols import Symbols

DEFAULT_TIMEOUT = 30.0
"""Seconds that a synchronous operation may take before it counts as hung."""

DEFAULT_BACKLOG = 16 << 20
"""Bytes that a program's channel keeps for somebody to receive them."""

PROT_READ, PROT_WRITE = 1, 2
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE = 0x01, 0x02, 0x20, 0x4000
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2


@dataclass(frozen=True, slots=True)
class Open:
    """open(2); the value is the new file descriptor."""

    path: str
    flags: int = os.O_RDWR | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Close:
    """close(2)."""

    fd: int


@dataclass(frozen=True, slots=True)
class Ioctl:
    """ioctl(2): an int is passed as it is, bytes as a pointer to a buffer that holds them.

    The buffer's content after the call comes back as `Result.data`.
    """

    fd: int
    request: int
    arg: int | bytes = 0


@dataclass(frozen=True, slots=True)
class Mmap:
    """mmap(2); the value is the address on the target.  Without a file: anonymous memory."""

    length: int
    prot: int = PROT_READ | PROT_WRITE
    flags: int = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE
    fd: int = -1
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Munmap:
    """munmap(2)."""

    address: int
    length: int


@dataclass(frozen=True, slots=True)
class Read:
    """Copy `length` bytes out of the target process's memory into `Result.data`."""

    address: int
    length: int


@dataclass(frozen=True, slots=True)
class Write:
    """Copy `data` into the target process's memory."""

    address: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Fallocate:
    """fallocate(2)."""

    fd: int
    mode: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Ftruncate:
    """ftruncate(2)."""

    fd: int
    length: int


@dataclass(frozen=True, slots=True)
class ReadFile:
    """Read at most `limit` bytes of a (sysfs, proc) file into `Result.data`."""

    path: str
    limit: int = 1 << 16


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Write to a file that is there (sysfs, debugfs, /dev/kmsg); the value is the bytes taken."""

    path: str
    data: bytes


Op = (
    Open
    | Close
    | Ioctl
    | Mmap
    | Munmap
    | Read
    | Write
    | Fallocate
    | Ftruncate
    | ReadFile
    | WriteFile
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one operation gave: `value` of the call, `errno` (0 on success), bytes read back."""

    value: int
    errno: int = 0
    data: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether the operation succeeded."""
        return self.errno == 0


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ran on the target."""

    status: int | None
    """Exit status, negative for a signal; None where it was not started or did not end in time."""
    output: bytes
    """What it printed, stdout and stderr in one; untrusted."""
    dropped: int
    """Bytes of output beyond the limit."""
    failure: str = ""
    """Why there is no status."""


class TargetError(Exception):
    """The target failed as a whole: it died, hung or broke the protocol (not a test's failure)."""


class TargetTimeoutError(TargetError):
    """An operation missed its deadline; the message says which and what was seen last."""


class OperationError(OSError):
    """One operation failed on the target; carries the errno and names the operation."""

    def __init__(self, op: Op, result: Result) -> None:
        name = _errno.errorcode.get(result.errno, str(result.errno))
        super().__init__(result.errno, f"{describe(op)}: {name}")
        self.op = op
        self.result = result


def describe(op: Op) -> str:
    """One line that names an operation for messages, without its payload."""
    match op:
        case Open(path=path) | ReadFile(path=path) | WriteFile(path=path):
            return f"{type(op).__name__.lower()}({path})"
        case Ioctl(fd=fd, request=request):
            return f"ioctl(fd {fd}, {request:#x})"
        case Write(address=address, data=data):
            return f"write({address:#x}, {len(data)} bytes)"
        case _:
            return str(op)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A batch under way on one of the target's threads."""

    number: int
    thread: int
    what: str


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


class RmpSize(enum.IntEnum):
    """Page size of an RMP entry."""

    SIZE_4K = 0
    SIZE_2M = 1


@dataclass(frozen=True, slots=True)
class RmpState:
    """The RMP's entry of a page; `operation` names the page that was looked up."""

    assigned: bool
    asid: int
    """ASID of the guest that the page is assigned to; 0 is the firmware or the host."""
    gpa: int
    """Guest physical address of the page itself, also within an entry of 2 MiB; bytes."""
    validated: bool
    size: RmpSize
    present: bool = True
    """Whether the file has a page at that offset; if not, the other fields mean nothing."""
    operation: str = field(default="RMP", compare=False)

    def __str__(self) -> str:
        """Return the entry in words: `assigned, ASID 3, 4K, not validated`."""
        if not self.present:
            return "no page"
        words = self._words()
        del words["gpa"]
        return ", ".join(words.values()) if self.assigned else "shared"

    def _words(self) -> dict[str, str]:
        return {
            "assigned": "assigned",
            "asid": f"ASID {self.asid}" if self.asid else "the firmware's",
            "gpa": f"GPA {self.gpa:#x}",
            "size": self.size.name.removeprefix("SIZE_"),
            "validated": "validated" if self.validated else "not validated",
        }

    def unlike(self, came: RmpState) -> str:
        """Return in words what of this state `came` does not have."""
        if not (self.present and self.assigned and came.present and came.assigned):
            return str(self)
        words = self._words()
        differing = (name for name in words if getattr(self, name) != getattr(came, name))
        return ", ".join(words[name] for name in differing)

    def beside(self, wanted: RmpState) -> str:
        """Return this state in words, with the GPA if another one is wanted."""
        if self.present and self.assigned and wanted.assigned and self.gpa != wanted.gpa:
            return f"{self}, GPA {self.gpa:#x}"
        return str(self)


NO_PAGE = RmpState(False, 0, 0, False, RmpSize.SIZE_4K, present=False)
"""Where the file has no page."""


def rmp_operation(offset: int) -> str:
    """Name the look-up of a page in the RMP by its offset in a guest_memfd."""
    return f"RMP of guest_memfd offset {offset:#x}"


class Inspector(abc.ABC):
    """What a black box cannot show: the RMP and counters, where a backend has them."""

    @abc.abstractmethod
    def assigned_pages(self) -> int:
        """Count the 4 KiB pages that the RMP holds as assigned to a guest ASID (ASID > 0)."""

    def firmware_pages(self) -> int | None:
        """Count the 4 KiB pages that are the firmware's (assigned, ASID 0); None where unknown."""
        return None

    @abc.abstractmethod
    def gmem_rmp(self, fd: int, offset: int) -> RmpState:
        """Look up the RMP's entry behind a guest_memfd offset; equals NO_PAGE without a page."""

    @abc.abstractmethod
    def gmem_bytes(self, fd: int, offset: int, length: int) -> bytes:
        """What physical memory holds behind a guest_memfd offset (zeros where unpopulated)."""

    @abc.abstractmethod
    def counters(self) -> dict[str, int]:
        """Count events since boot: rmpupdate, psmash, wbinvd, clflush, psp, leaked_pages, asids."""

    def endorsement(self, name: str) -> bytes | None:
        """What the vendor's key server has for this chip at its reported TCB; None where unknown.

        "ark", "ask", "asvk", "vcek", "vlek": a certificate as DER; "hashstick": a wrapped VLEK
        hashstick for SNP_VLEK_LOAD.
        """
        return None


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
