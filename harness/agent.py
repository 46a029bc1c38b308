# SPDX-License-Identifier: GPL-2.0-only
"""The agent: runs on the target, issues there what the test process asks for.

One file, standard library only, Python 3.9 or newer, no state that matters: it is sent
to the target and forgotten there.  It speaks over a byte stream: stdin and stdout, a
device given by path, or a virtio-serial port given by name (`virtio:NAME`).

A frame is `length:u32 kind:u8 rest`, little-endian, the length counts kind and rest.

    to the agent    B  ticket:u32 thread:u16 count:u16 operation...     run a batch
                    I  thread:u16                                       interrupt a thread
                    L  ticket:u32                                       send the kernel log
                    X  ticket:u32 timeout_ms:u32 limit:u32 JSON         run a program: argv
                    S  ticket:u32 channels:u16 timeout_ms:u32 JSON      start a program: argv
                    D  ticket:u32 channel:u16 bytes                     data for it; none: the end
                    K  ticket:u32 signal:u16                            signal its process group
    from the agent  H  JSON: magic, version, pid, python, release       first of all
                    R  ticket:u32 count:u16 result...                   a batch has ended
                    L  ticket:u32 errno:i32 text                        the kernel log
                    X  ticket:u32 status:i32 dropped:u64 output         it has ended
                    D  ticket:u32 channel:u16 bytes                     data from it; none: the end
                    A  ticket:u32 channel:u16 count:u32                 it has taken so many bytes
                    S  ticket:u32 status:i32 text                       it has ended, or why it
                                                                        was not started
                    E  text                                             broken protocol; it exits

An operation is `code:u8`, the fields of FIELDS[code], and for the codes in WITH_BYTES
`length:u32 bytes`.  A result is `value:i64 errno:i32 length:u32 bytes`.

Batches of one thread run in order, those of different threads at once.  A batch ends at
its first failed operation.  Memory is read and written only inside what the agent mapped
itself, by way of /proc/self/mem: a bad address is EFAULT, never a fault.  The buffer of an
ioctl ends where an unmapped page begins, so a kernel that writes past it gets EFAULT, too.

A program runs beside the batches, in a process group of its own, which is killed when its
time is up (the status is then TIMED_OUT).  Its standard input is empty.  A status below zero is
a signal.  Of what a program prints that is run (X) the first `limit` bytes are kept and the rest
is counted; it may outlive the agent.

A program that is started (S) has channels 1 to `channels`: stream sockets, its files 10, 11 and
so on.  What it prints is channel 0, which takes no data.  At most WINDOW bytes may be on their way
to it on a channel: sent and not told by A to be taken.  An A of 0 bytes says that it closed the
channel and takes no more.  All that it wrote before it ended is sent before S.  What is then left
of its process group is killed.  Data and signals for a program that has ended are ignored.  It is
killed when the agent ends: with its group if the agent can still do that, and by PR_SET_PDEATHSIG
if the agent is killed.

With the argument `pin` each thread stays on one CPU: the one that reads, thread 0 and thread 1
on the first, 2 on the second, and so on.  Where nothing accelerates, waking a thread on another
CPU costs milliseconds, and on its own microseconds.

An interrupt is for the batch that is under way (or first in the queue) on its thread when
the agent reads it.  The signal is repeated every millisecond until an ioctl of that batch
returns EINTR or the batch ends: one that comes just before the ioctl blocks is not lost.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import errno
import json
import os
import queue
import re
import select
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

MAGIC = "snptest-agent"
VERSION = 3
MAX_FRAME = 64 << 20
MAX_DATA = 32 << 20
"""Bytes of one operation's payload, either way; a batch's results together fit a frame."""
MAX_OPS = 1 << 14
MAX_THREADS = 512
MAX_MAPPING = 1 << 40

OPEN, CLOSE, IOCTL_INT, IOCTL_BUFFER, MMAP, MUNMAP = 1, 2, 3, 4, 5, 6
READ, WRITE, FALLOCATE, FTRUNCATE, READ_FILE, WRITE_FILE = 7, 8, 9, 10, 11, 12

FIELDS = {
    OPEN: struct.Struct("<I"),  # flags; the path follows
    CLOSE: struct.Struct("<i"),  # fd
    IOCTL_INT: struct.Struct("<iQQ"),  # fd, request, argument
    IOCTL_BUFFER: struct.Struct("<iQ"),  # fd, request; the buffer follows
    MMAP: struct.Struct("<QIIiq"),  # length, prot, flags, fd, offset
    MUNMAP: struct.Struct("<QQ"),  # address, length
    READ: struct.Struct("<QQ"),  # address, length
    WRITE: struct.Struct("<Q"),  # address; the data follows
    FALLOCATE: struct.Struct("<iIqq"),  # fd, mode, offset, length
    FTRUNCATE: struct.Struct("<iq"),  # fd, length
    READ_FILE: struct.Struct("<I"),  # limit; the path follows
    WRITE_FILE: struct.Struct("<I"),  # length of the path; path and data follow
}
WITH_BYTES = frozenset((OPEN, IOCTL_BUFFER, WRITE, READ_FILE, WRITE_FILE))

LENGTH = struct.Struct("<I")
BATCH = struct.Struct("<IHH")
INTERRUPT = struct.Struct("<H")
RESULTS = struct.Struct("<IH")
RESULT = struct.Struct("<qiI")
LOG = struct.Struct("<I")
LOG_REPLY = struct.Struct("<Ii")
PROGRAM = struct.Struct("<III")
PROGRAM_REPLY = struct.Struct("<IiQ")
START = struct.Struct("<IHI")
DATA = struct.Struct("<IH")
SIGNAL = struct.Struct("<IH")
TAKEN = struct.Struct("<IHI")
ENDED = struct.Struct("<Ii")
TIMED_OUT = -1000
NOT_STARTED = -1001
"""Statuses of programs that no program can have."""

FIRST_FILE = 10
"""What channel 1 is to a program: the rest follows."""
MAX_CHANNELS = 16
MAX_PROGRAMS = 64
"""Started programs that run at once."""
PIECE = 1 << 16
"""Bytes of one D frame."""
WINDOW = 4 << 20

_PAGE = 4096
_PROT_READ, _PROT_WRITE, _PROT_NONE = 1, 2, 0
_MAP_PRIVATE_ANONYMOUS = 0x22
# MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN: a mapping must not land on the agent itself.
_REFUSED_MAP_FLAGS = 0x10 | 0x100000 | 0x100
_SYSLOG_READ_ALL, _SYSLOG_SIZE = 3, 10
_REPEAT = 0.001
_PORT_TIMEOUT = 30.0
_PR_SET_PDEATHSIG = 1
_MOST_WAIT = 3_600_000  # milliseconds
_GATHER = 0.02
_SOCKET_ROOM = 1 << 20
_SO_SNDBUFFORCE = 32
_LAST_PIECES = 1024

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
_libc.ioctl.restype = ctypes.c_int
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.munmap.restype = ctypes.c_int
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mprotect.restype = ctypes.c_int
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
_libc.fallocate.restype = ctypes.c_int
_libc.klogctl.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
_libc.klogctl.restype = ctypes.c_int
_libc.prctl.argtypes = [ctypes.c_int, *(4 * [ctypes.c_ulong])]
_libc.prctl.restype = ctypes.c_int

_MAP_FAILED = ctypes.c_void_p(-1).value


class ProtocolError(Exception):
    """What came over the stream is not our protocol."""


def _failed() -> OSError:
    """Make an exception of the libc call that just failed on this thread."""
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


class Stream:
    """Frames over a pair of file descriptors; writing is safe from any thread."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer = writer
        self._lock = threading.Lock()
        self._buffer = bytearray()

    def _read(self, length: int) -> bytes | None:
        """Read exactly so many bytes; None at a clean end of file."""
        buffer = self._buffer
        while len(buffer) < length:
            part = os.read(self._reader, min(max(length - len(buffer), 1 << 16), 1 << 20))
            if not part:
                if buffer:
                    raise ProtocolError("the stream ended inside a frame")
                return None
            buffer += part
        data = bytes(memoryview(buffer)[:length])
        del buffer[:length]
        return data

    def receive(self) -> bytes | None:
        """Read one frame's content; None when the other side has gone."""
        head = self._read(LENGTH.size)
        if head is None:
            return None
        (length,) = LENGTH.unpack(head)
        if not 0 < length <= MAX_FRAME:
            raise ProtocolError(f"a frame of {length} bytes is out of bounds")
        body = self._read(length)
        if body is None:
            raise ProtocolError("the stream ended inside a frame")
        return body

    def send(self, kind: bytes, rest: bytes) -> None:
        """Write one frame."""
        data = memoryview(LENGTH.pack(len(rest) + 1) + kind + rest)
        with self._lock:
            while data:
                data = data[os.write(self._writer, data) :]


class Mappings:
    """The ranges of memory that the agent mapped on request, with their protection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._ranges: dict[int, tuple[int, int]] = {}
        self.memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)

    def map(self, length: int, prot: int, flags: int, fd: int, offset: int) -> int:
        """mmap(2) at an address of the kernel's choice."""
        if flags & _REFUSED_MAP_FLAGS or length > MAX_MAPPING:
            raise OSError(errno.EINVAL, "refused by the agent")
        address = _libc.mmap(None, length, prot, flags, fd, offset)
        if address is None or address == _MAP_FAILED:
            raise _failed()
        start = int(address)
        with self._lock:
            self._add(start, start + _rounded(length), prot)
        return start

    def unmap(self, address: int, length: int) -> None:
        """munmap(2) of whole or part of what was mapped here."""
        end = address + _rounded(length)
        with self._lock:
            if address % _PAGE or not self._covered(address, end, 0):
                raise OSError(errno.EINVAL, "not mapped by the agent")
            if _libc.munmap(address, length):
                raise _failed()
            for start, (stop, prot) in list(self._ranges.items()):
                if start < end and address < stop:
                    self._remove(start)
                    if start < address:
                        self._add(start, address, prot)
                    if end < stop:
                        self._add(end, stop, prot)

    def read(self, address: int, length: int) -> bytes:
        """Copy memory out; EFAULT outside of the mappings or where no page can be had."""
        self._check(address, length, _PROT_READ)
        data = bytearray()
        with _memory_errors():
            while len(data) < length:
                part = os.pread(self.memory, length - len(data), address + len(data))
                if not part:
                    raise OSError(errno.EFAULT, "no memory there")
                data += part
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        """Copy memory in; EFAULT as for read."""
        self._check(address, len(data), _PROT_WRITE)
        done = 0
        with _memory_errors():
            while done < len(data):
                count = os.pwrite(self.memory, data[done:] if done else data, address + done)
                if not count:
                    raise OSError(errno.EFAULT, "no memory there")
                done += count

    def _check(self, address: int, length: int, prot: int) -> None:
        with self._lock:
            if not self._covered(address, address + length, prot):
                raise OSError(errno.EFAULT, "not mapped by the agent")

    def _covered(self, start: int, end: int, prot: int) -> bool:
        """Whether adjoining ranges with that protection hold everything from start to end."""
        while True:
            position = bisect.bisect_right(self._starts, start) - 1
            if position < 0:
                return False
            stop, has = self._ranges[self._starts[position]]
            if start >= stop or has & prot != prot:
                return False
            if end <= stop:
                return True
            start = stop

    def _add(self, start: int, stop: int, prot: int) -> None:
        bisect.insort(self._starts, start)
        self._ranges[start] = (stop, prot)

    def _remove(self, start: int) -> None:
        self._starts.remove(start)
        del self._ranges[start]


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """/proc/self/mem says EIO where a pointer would fault."""
    try:
        yield
    except OSError as error:
        raise OSError(errno.EFAULT, str(error)) from None


def _rounded(length: int) -> int:
    return (length + _PAGE - 1) & ~(_PAGE - 1)


class Scratch:
    """Memory for the buffer of one ioctl at a time, with an unmapped page behind it."""

    def __init__(self) -> None:
        self._size = 0
        self._address = 0

    def place(self, data: bytes) -> int:
        """Copy data to where it ends at the unmapped page; return its address."""
        if len(data) > self._size or not self._address:
            self._grow(max(_rounded(len(data)), 1 << 16))
        address = self._address + self._size - len(data)
        ctypes.memmove(address, data, len(data))
        return address

    def _grow(self, size: int) -> None:
        address = _libc.mmap(
            None, size + _PAGE, _PROT_READ | _PROT_WRITE, _MAP_PRIVATE_ANONYMOUS, -1, 0
        )
        if address is None or address == _MAP_FAILED:
            raise _failed()
        if _libc.mprotect(address + size, _PAGE, _PROT_NONE):
            raise _failed()
        if self._address:
            _libc.munmap(self._address, self._size + _PAGE)
        self._address, self._size = int(address), size


class Worker(threading.Thread):
    """One thread of the target: takes batches in order, can be interrupted."""

    def __init__(self, agent: Agent, number: int) -> None:
        super().__init__(name=f"target-{number}", daemon=True)
        self._agent = agent
        self._number = number
        self._batches: queue.SimpleQueue[tuple[int, int, bytes]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._outstanding = 0
        self._interrupted = False
        self._scratch = Scratch()

    def put(self, ticket: int, count: int, ops: bytes) -> None:
        """Queue a batch."""
        with self._lock:
            self._outstanding += 1
        self._batches.put((ticket, count, ops))

    def interrupt(self) -> bool:
        """Ask for the batch under way to be interrupted; False without one."""
        with self._lock:
            self._interrupted = self._outstanding > 0
            return self._interrupted

    def signal(self) -> bool:
        """Send the signal once if it is still wanted."""
        with self._lock:
            if self._interrupted and self.ident is not None:
                signal.pthread_kill(self.ident, signal.SIGUSR1)
            return self._interrupted

    def run(self) -> None:
        """Run batches for ever."""
        self._agent.settle(max(self._number - 1, 0))
        while True:
            ticket, count, ops = self._batches.get()
            try:
                results = self._run(count, ops)
            except ProtocolError as error:
                self._agent.die(str(error))
            with self._lock:
                self._outstanding -= 1
                self._interrupted = False
            body = RESULTS.pack(ticket, len(results)) + b"".join(results)
            try:
                self._agent.stream.send(b"R", body)
            except OSError:
                self._agent.leave(0)  # nobody is left to tell

    def _run(self, count: int, ops: bytes) -> list[bytes]:
        results: list[bytes] = []
        room = MAX_FRAME - 64 - count * RESULT.size
        offset = 0
        for _ in range(count):
            code, fields, payload, offset = _decode(ops, offset)
            value, data, failure = 0, b"", 0
            try:
                value, data = self._operation(code, fields, payload, room)
            except _IoctlError as error:
                # The buffer counts although the call failed: firmware errors come back in it.
                failure, data = error.errno or errno.EIO, error.data
            except OSError as error:
                failure = error.errno or errno.EIO
            except (ValueError, OverflowError):
                failure = errno.EINVAL
            except MemoryError:
                failure = errno.ENOMEM
            if len(data) > room:
                value, data, failure = 0, b"", errno.EMSGSIZE
            room -= len(data)
            results.append(RESULT.pack(-1 if failure else value, failure, len(data)) + data)
            if failure:
                break
        return results

    def _operation(
        self, code: int, fields: tuple[int, ...], payload: bytes, room: int
    ) -> tuple[int, bytes]:
        agent = self._agent
        if code == IOCTL_INT:
            return self._ioctl(fields[0], fields[1], fields[2], b"")
        if code == IOCTL_BUFFER:
            return self._ioctl(fields[0], fields[1], None, payload)
        if code == READ:
            if fields[1] > min(MAX_DATA, room):
                raise OSError(errno.EMSGSIZE, "too much for one read")
            return fields[1], agent.mappings.read(*fields)
        if code == WRITE:
            agent.mappings.write(fields[0], payload)
            return len(payload), b""
        if code == OPEN:
            return os.open(os.fsdecode(payload), fields[0], 0o600), b""
        if code == CLOSE:
            os.close(agent.allowed(fields[0]))
            return 0, b""
        if code == MMAP:
            length, prot, flags, fd, offset = fields
            if fd >= 0:
                agent.allowed(fd)
            return agent.mappings.map(length, prot, flags, fd, offset), b""
        if code == MUNMAP:
            agent.mappings.unmap(*fields)
            return 0, b""
        if code == FALLOCATE:
            if _libc.fallocate(agent.allowed(fields[0]), *fields[1:]):
                raise _failed()
            return 0, b""
        if code == FTRUNCATE:
            os.ftruncate(agent.allowed(fields[0]), fields[1])
            return 0, b""
        if code == WRITE_FILE:
            path, content = payload[: fields[0]], payload[fields[0] :]
            return _write_file(os.fsdecode(path), content), b""
        assert code == READ_FILE
        data = _read_file(os.fsdecode(payload), min(fields[0], MAX_DATA, room))
        return len(data), data

    def _ioctl(self, fd: int, request: int, arg: int | None, data: bytes) -> tuple[int, bytes]:
        self._agent.allowed(fd)
        address = self._scratch.place(data) if arg is None else arg
        value = _libc.ioctl(fd, request, address)
        code = ctypes.get_errno() if value < 0 else 0
        back = ctypes.string_at(address, len(data)) if data else b""
        if code == errno.EINTR:
            with self._lock:
                self._interrupted = False
        if value < 0:
            raise _IoctlError(code, back)
        return value, back


class _IoctlError(OSError):
    """A failed ioctl and what it left in its buffer."""

    def __init__(self, code: int, data: bytes) -> None:
        super().__init__(code, os.strerror(code))
        self.data = data


def _decode(ops: bytes, offset: int) -> tuple[int, tuple[int, ...], bytes, int]:
    """Take one operation off a batch: code, fields, payload, offset of the next."""
    try:
        code = ops[offset]
        layout = FIELDS[code]
        fields = layout.unpack_from(ops, offset + 1)
        offset += 1 + layout.size
        if code not in WITH_BYTES:
            return code, fields, b"", offset
        (length,) = LENGTH.unpack_from(ops, offset)
    except (IndexError, KeyError, struct.error) as error:
        raise ProtocolError(f"damaged batch: {error!r}") from None
    offset += LENGTH.size
    payload = ops[offset : offset + length]
    if len(payload) != length or length > MAX_DATA:
        raise ProtocolError(f"damaged batch: payload of {length} bytes")
    return code, fields, payload, offset + length


def _read_file(path: str, limit: int) -> bytes:
    """Read at most so many bytes of a file that may have no size (sysfs, proc)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        data = bytearray()
        while len(data) < limit:
            part = os.read(fd, min(limit - len(data), 1 << 20))
            if not part:
                break
            data += part
        return bytes(data)
    finally:
        os.close(fd)


def _write_file(path: str, data: bytes) -> int:
    """Write to a file that is there (sysfs, debugfs, /dev/kmsg) with a single write(2)."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        return os.write(file, data)
    finally:
        os.close(file)


def _kernel_log() -> bytes:
    """Read what the kernel's log buffer holds, in the form of dmesg, without the levels."""
    size = _libc.klogctl(_SYSLOG_SIZE, None, 0)
    if size < 0:
        raise _failed()
    buffer = ctypes.create_string_buffer(min(size, MAX_DATA))
    length = _libc.klogctl(_SYSLOG_READ_ALL, buffer, len(buffer))
    if length < 0:
        raise _failed()
    return re.sub(rb"^<\d+>", b"", buffer.raw[:length], flags=re.MULTILINE)


class Agent:
    """The process that holds /dev/kvm on behalf of the tests."""

    def __init__(self, stream: Stream, own: frozenset[int], *, pin: bool = False) -> None:
        self.stream = stream
        self._cpus = sorted(os.sched_getaffinity(0))
        self._pin = pin
        self.mappings = Mappings()
        self.own = {0, 1, 2, self.mappings.memory, *own}
        self.groups = Groups()
        self._programs: dict[int, Program | None] = {}
        self._workers: dict[int, Worker] = {}
        self._wanted: set[Worker] = set()
        self._wake = threading.Condition()

    def allowed(self, fd: int) -> int:
        """Refuse the agent's own files."""
        if fd in self.own:
            raise OSError(errno.EBADF, "not the tests' file")
        return fd

    def settle(self, number: int) -> None:
        """Keep the calling thread on one CPU, if that is asked for."""
        if self._pin:
            os.sched_setaffinity(0, {self._cpus[number % len(self._cpus)]})

    def serve(self) -> None:
        """Answer until the other side has gone."""
        self.settle(0)
        # A handler that does nothing, without SA_RESTART: blocking calls return EINTR.
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        signal.siginterrupt(signal.SIGUSR1, True)
        threading.Thread(target=self._signal, name="signals", daemon=True).start()
        hello = {
            "magic": MAGIC,
            "version": VERSION,
            "pid": os.getpid(),
            "python": sys.version.partition(" ")[0],
            "release": os.uname().release,
        }
        self.stream.send(b"H", json.dumps(hello).encode())
        while True:
            frame = self.stream.receive()
            if frame is None:
                return
            self._handle(frame[:1], frame[1:])

    def die(self, why: str) -> NoReturn:
        """Say what is wrong with the stream, and go."""
        self.groups.kill_tied()
        with contextlib.suppress(OSError):
            self.stream.send(b"E", why.encode())
        self.leave(2)

    def leave(self, status: int) -> NoReturn:
        """Go, and let no started program outlive us."""
        self.groups.kill_tied()
        # Not a return: other threads may be inside ioctls that nothing but the exit ends.
        os._exit(status)

    def _handle(self, kind: bytes, rest: bytes) -> None:
        try:
            if kind == b"B":
                ticket, thread, count = BATCH.unpack_from(rest)
                if not 0 < count <= MAX_OPS:
                    raise ProtocolError(f"a batch of {count} operations is out of bounds")
                self._worker(thread).put(ticket, count, rest[BATCH.size :])
            elif kind == b"I":
                (thread,) = INTERRUPT.unpack(rest)
                self._interrupt(thread)
            elif kind == b"L":
                (ticket,) = LOG.unpack(rest)
                threading.Thread(target=self._log, args=(ticket,), daemon=True).start()
            elif kind == b"X":
                ticket, milliseconds, limit = PROGRAM.unpack_from(rest)
                if limit > MAX_DATA:
                    raise ProtocolError(f"{limit} bytes of output are out of bounds")
                argv = _arguments(rest[PROGRAM.size :])
                what = (ticket, argv, milliseconds / 1000, limit)
                threading.Thread(target=self._run_program, args=what, daemon=True).start()
            elif kind == b"S":
                ticket, channels, milliseconds = START.unpack_from(rest)
                argv = _arguments(rest[START.size :])
                self._start_program(ticket, channels, milliseconds / 1000, argv)
            elif kind == b"D":
                ticket, channel = DATA.unpack_from(rest)
                program = self._program(ticket)
                if program is not None:
                    program.feed(channel, rest[DATA.size :])
            elif kind == b"K":
                ticket, number = SIGNAL.unpack(rest)
                if not 0 < number < signal.NSIG:
                    raise ProtocolError(f"there is no signal {number}")
                program = self._program(ticket)
                if program is not None:
                    program.signal(number)
            else:
                raise ProtocolError(f"unknown frame {kind!r}")
        except struct.error as error:
            raise ProtocolError(f"damaged {kind!r} frame: {error}") from None

    def free_cpus(self) -> None:
        """Let the calling thread, and what it starts, run on all CPUs that the agent was given."""
        os.sched_setaffinity(0, self._cpus)

    def _run_program(self, ticket: int, argv: list[str], seconds: float, limit: int) -> None:
        try:
            self.free_cpus()
            status, output, dropped = _run_program(self.groups, argv, seconds, limit)
        except OSError as error:
            status, output, dropped = NOT_STARTED, str(error).encode(), 0
        with contextlib.suppress(OSError):
            self.stream.send(b"X", PROGRAM_REPLY.pack(ticket, status, dropped) + output)

    def _start_program(self, ticket: int, channels: int, seconds: float, argv: list[str]) -> None:
        if channels > MAX_CHANNELS:
            raise ProtocolError(f"{channels} channels, {MAX_CHANNELS} is the most")
        if ticket in self._programs:
            raise ProtocolError(f"there is a program with ticket {ticket} already")
        self._programs[ticket] = None
        try:
            if sum(each is not None for each in self._programs.values()) >= MAX_PROGRAMS:
                raise OSError(errno.EAGAIN, f"{MAX_PROGRAMS} programs run already")
            program = Program(self, ticket, channels, seconds, argv)
            program.start()
        except (OSError, RuntimeError) as error:
            head = ENDED.pack(ticket, NOT_STARTED)
            self.stream.send(b"S", head + str(error).encode())
        else:
            self._programs[ticket] = program

    def _program(self, ticket: int) -> Program | None:
        """Return a program that was started, None for one that has ended."""
        try:
            return self._programs[ticket]
        except KeyError:
            raise ProtocolError(f"no program was started with ticket {ticket}") from None

    def ended(self, ticket: int) -> None:
        """Note that a program takes neither data nor signals any more."""
        self._programs[ticket] = None

    def _worker(self, number: int) -> Worker:
        worker = self._workers.get(number)
        if worker is None:
            if len(self._workers) >= MAX_THREADS:
                raise ProtocolError(f"more than {MAX_THREADS} threads")
            worker = self._workers[number] = Worker(self, number)
            worker.start()
        return worker

    def _interrupt(self, number: int) -> None:
        worker = self._workers.get(number)
        if worker is not None and worker.interrupt():
            with self._wake:
                self._wanted.add(worker)
                self._wake.notify()

    def _signal(self) -> None:
        """Repeat signals until they have been seen."""
        while True:
            with self._wake:
                while not self._wanted:
                    self._wake.wait()
                self._wanted = {worker for worker in self._wanted if worker.signal()}
                if self._wanted:
                    self._wake.wait(_REPEAT)

    def _log(self, ticket: int) -> None:
        try:
            body = LOG_REPLY.pack(ticket, 0) + _kernel_log()
        except OSError as error:
            body = LOG_REPLY.pack(ticket, error.errno or errno.EIO)
        with contextlib.suppress(OSError):
            self.stream.send(b"L", body)


def _arguments(body: bytes) -> list[str]:
    """Read a program's argv."""
    try:
        argv = json.loads(body)
    except ValueError as error:
        raise ProtocolError(f"damaged argv: {error}") from None
    if not isinstance(argv, list) or not argv or not all(isinstance(each, str) for each in argv):
        raise ProtocolError("a program's argv is a list of strings")
    return argv


class Groups:
    """The process groups of the programs that run; a group is named by its first process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, bool] = {}

    def add(self, pid: int, *, tied: bool) -> None:
        """Note one that was started, and whether it ends with the agent."""
        with self._lock:
            self._running[pid] = tied

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a whole group, unless its first process has been waited for."""
        with self._lock:
            self._signal(pid, number)

    def wait(self, pid: int) -> int:
        """Wait for the end of a group's first process; return its status."""
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with self._lock:  # until it is waited for, nobody else has its number
            del self._running[pid]
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def kill_tied(self) -> None:
        """End the programs that end with the agent."""
        with self._lock:
            for pid, tied in self._running.items():
                if tied:
                    self._signal(pid, signal.SIGKILL)

    def _signal(self, pid: int, number: int) -> None:
        # A program that became another user's (sudo) may be out of our reach.
        if pid in self._running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)


def _spawn(argv: list[str], output: int, ends: list[int], *, tied: bool) -> int:
    """Start a program, which dies with the calling thread if it is tied; return its process.

    It writes to `output`, and has `ends` as its files from FIRST_FILE on.  It leads a session and
    a process group.  (subprocess.Popen has a pipe of its own to the child, which may be in the
    way of these files.)
    """
    import fcntl  # as for all that only programs need: it makes every start slower
    import warnings

    if any("\0" in each for each in argv):
        raise OSError(errno.EINVAL, "an argument has a NUL in it", argv[0])
    # What the child does between fork and exec is safe beside other threads: it takes no locks.
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    paths = [argv[0]]
    if "/" not in argv[0]:
        paths = [os.path.join(folder, argv[0]) for folder in os.get_exec_path()]
    reader, writer = os.pipe()
    files = [writer]
    try:
        for fd in (writer, output, *ends):
            files.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FILE + MAX_CHANNELS))
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            _become(paths, argv, parent if tied else None, files[1:])
    except BaseException:
        os.close(reader)
        raise
    finally:
        for fd in files:
            os.close(fd)
    with open(reader, "rb") as words:
        failure = words.read()
    if failure:
        os.waitpid(pid, 0)
        (code,) = LENGTH.unpack(failure)
        raise OSError(code, os.strerror(code), argv[0])
    return pid


def _become(paths: list[str], argv: list[str], parent: int | None, files: list[int]) -> NoReturn:
    """Be the program; what keeps us from it is written to the first file."""
    teller, output, *ends = files
    code = errno.ENOENT
    try:
        os.setsid()
        if parent is not None:
            if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
                raise _failed()
            if os.getppid() != parent:
                os._exit(127)  # it died too early to be noticed
        null = os.open(os.devnull, os.O_RDONLY)
        for file, number in ((null, 0), (output, 1), (output, 2)):
            os.dup2(file, number)
        for position, end in enumerate(ends):
            os.dup2(end, FIRST_FILE + position)
        for name in os.listdir("/proc/self/fd"):
            fd = int(name)
            if fd > 2 and not 0 <= fd - FIRST_FILE < len(ends) and fd != teller:
                with contextlib.suppress(OSError):  # the listing's own file is closed already
                    os.close(fd)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for path in paths:
            try:
                os.execv(path, argv)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    code = error.errno or errno.EIO
    except BaseException as error:  # noqa: BLE001  # whatever it is, this must not go on as an agent
        code = getattr(error, "errno", None) or errno.EIO
    os.write(teller, LENGTH.pack(code))
    os._exit(127)


def _run_program(
    groups: Groups, argv: list[str], seconds: float, limit: int
) -> tuple[int, bytes, int]:
    """Run a program to its end or its deadline; return status, output and bytes dropped."""
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as output:
        try:
            pid = _spawn(argv, writer, [], tied=False)
        finally:
            os.close(writer)
        groups.add(pid, tied=False)
        overdue = threading.Event()

        def end() -> None:
            overdue.set()
            groups.signal(pid, signal.SIGKILL)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        kept, dropped = bytearray(), 0
        # Ends when all that hold the pipe have ended: descendants, too, unless they left the group.
        while part := output.read(PIECE):
            room = max(limit - len(kept), 0)
            kept += part[:room]
            dropped += len(part) - len(part[:room])
        status = groups.wait(pid)
        timer.cancel()
    return (TIMED_OUT if overdue.is_set() else status), bytes(kept), dropped


class Channel:
    """Our end of one of a program's channels, and what is to be written to it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.file = -1
        self.readable = True
        """Whether the program may write more."""
        self.writable = True
        """Whether the program takes data, and we may have more."""
        self.rests = 0.0
        """Until when it is not read: a serial port's bytes come singly, and each costs a frame."""
        self._lock = threading.Lock()
        self._waiting = bytearray()
        self._complete = False
        self._taken = 0

    def put(self, data: bytes) -> None:
        """Add to what is to be written; no data is the end of it."""
        with self._lock:
            if self._complete:
                raise ProtocolError(f"data for channel {self.number} after its end")
            if len(self._waiting) + len(data) > WINDOW:
                raise ProtocolError(
                    f"more than {WINDOW} bytes wait for channel {self.number} to be read"
                )
            self._complete = not data
            if self.writable:
                self._waiting += data

    def events(self) -> int:
        """Say what to poll for."""
        with self._lock:
            wants = self.writable and (self._waiting or self._complete)
        return (select.POLLIN if self.readable else 0) | (select.POLLOUT if wants else 0)

    def write(self) -> int | None:
        """Write what the program takes now; return bytes to acknowledge, if any, 0 if it ends."""
        with self._lock:
            try:
                count = os.write(self.file, bytes(self._waiting[: 4 * PIECE]))
            except BlockingIOError:
                return None
            except OSError:
                return self._refuse()
            del self._waiting[:count]
            self._taken += count
            if self._complete and not self._waiting:
                self._shut_down()
            if self._taken < WINDOW // 4:
                return None
            taken, self._taken = self._taken, 0
            return taken

    def hung_up(self) -> int | None:
        """Note that the program has closed it; return 0 if that is to be told."""
        with self._lock:
            return self._refuse() if self.writable else None

    def _refuse(self) -> int:
        self.writable = False
        self._waiting.clear()
        return 0

    def _shut_down(self) -> None:
        import socket

        self.writable = False
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.file)) as end:
            end.shutdown(socket.SHUT_WR)


class Program(threading.Thread):
    """A program that runs while the other side talks to it; also the thread that started it."""

    def __init__(
        self, agent: Agent, ticket: int, channels: int, seconds: float, argv: list[str]
    ) -> None:
        super().__init__(name=f"program-{ticket}", daemon=True)
        self._agent = agent
        self._ticket = ticket
        self._argv = argv
        self._until = time.monotonic() + seconds
        self._channels = [Channel(number) for number in range(1 + channels)]
        self._channels[0].writable = False
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._early: list[int] = []
        self._exited = False
        self._closed = False
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        agent.own.update(self._files())

    def feed(self, number: int, data: bytes) -> None:
        """Take data for a channel; ProtocolError where there is no such channel, or no room."""
        if not 1 <= number < len(self._channels):
            raise ProtocolError(
                f"channel {number} of a program with {len(self._channels) - 1} channels"
            )
        self._channels[number].put(data)
        self._wake()

    def signal(self, number: int) -> None:
        """Send a signal to its process group, as soon as there is one."""
        with self._lock:
            if self._pid is None:
                self._early.append(number)
            else:
                self._agent.groups.signal(self._pid, number)

    def run(self) -> None:
        """Start the program, attend to it until it has ended, and tell how."""
        text = ""
        try:
            self._agent.free_cpus()
            pid = self._start()
        except OSError as error:
            status, text = NOT_STARTED, str(error)
        else:
            self._agent.settle(0)  # beside the thread that feeds this one
            status = self._attend(pid)
        self._agent.ended(self._ticket)
        self._close()
        self._send(b"S", ENDED.pack(self._ticket, status) + text.encode())

    def _start(self) -> int:
        import socket

        theirs: list[int] = []
        try:
            for channel in self._channels:
                if channel.number:
                    pair = socket.socketpair()
                    # Bytes that are written one by one take hundreds of it each; who is not
                    # root has as much as others.
                    with contextlib.suppress(OSError):
                        pair[1].setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SOCKET_ROOM)
                    channel.file, end = (each.detach() for each in pair)
                else:
                    channel.file, end = os.pipe()
                theirs.append(end)
                self._agent.own.add(channel.file)
                os.set_blocking(channel.file, False)
            pid = _spawn(self._argv, theirs[0], theirs[1:], tied=True)
        finally:
            for end in theirs:
                os.close(end)
        self._agent.groups.add(pid, tied=True)
        with self._lock:
            self._pid = pid
            for number in self._early:
                self._agent.groups.signal(pid, number)
        return pid

    def _watch(self, pid: int) -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._exited = True
        self._wake()

    def _wake(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.write(self._wake_writer, b"x")

    def _attend(self, pid: int) -> int:
        """Move data both ways until the program has ended; return its status."""
        threading.Thread(target=self._watch, args=(pid,), daemon=True).start()
        overdue = False
        while not self._exited:
            poll = select.poll()
            poll.register(self._wake_reader, select.POLLIN)
            open_ones = {}
            now = time.monotonic()
            left = self._until - now
            wait = _MOST_WAIT if overdue else min(left * 1000 + 1, _MOST_WAIT)
            for channel in self._channels:
                events = channel.events()
                if channel.rests > now:
                    events &= ~select.POLLIN
                    wait = min(wait, (channel.rests - now) * 1000 + 1)
                if events or (channel.writable and not channel.readable):
                    open_ones[channel.file] = channel
                    poll.register(channel.file, events)
            if left <= 0 and not overdue:
                overdue = True
                self._agent.groups.signal(pid, signal.SIGKILL)
            for file, event in poll.poll(wait):
                if file == self._wake_reader:
                    os.read(file, 4096)
                else:
                    self._move(open_ones[file], event)
        self._agent.groups.signal(pid, signal.SIGKILL)  # what is left of it
        status = self._agent.groups.wait(pid)
        for channel in self._channels:
            for _ in range(_LAST_PIECES):  # more than it holds, unless another process still writes
                if not channel.readable or not self._read(channel):
                    break
        return TIMED_OUT if overdue else status

    def _move(self, channel: Channel, event: int) -> None:
        if event & select.POLLOUT:
            self._acknowledge(channel, channel.write())
        if channel.readable:
            if event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._read(channel)
        elif event & (select.POLLHUP | select.POLLERR):
            self._acknowledge(channel, channel.hung_up())

    def _read(self, channel: Channel) -> bool:
        """Send on what the program wrote; False where that is all for now."""
        try:
            data = os.read(channel.file, PIECE)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""  # it closed the channel before it had read everything
        channel.readable = bool(data)
        if len(data) < PIECE:
            channel.rests = time.monotonic() + _GATHER
        self._send(b"D", DATA.pack(self._ticket, channel.number) + data)
        return channel.readable

    def _acknowledge(self, channel: Channel, count: int | None) -> None:
        if count is not None:
            self._send(b"A", TAKEN.pack(self._ticket, channel.number, count))

    def _send(self, kind: bytes, rest: bytes) -> None:
        try:
            self._agent.stream.send(kind, rest)
        except OSError:
            self._agent.leave(0)  # nobody is left to tell

    def _files(self) -> list[int]:
        files = (self._wake_reader, self._wake_writer, *(each.file for each in self._channels))
        return [file for file in files if file >= 0]

    def _close(self) -> None:
        with self._lock:
            self._closed = True
        self._agent.own.difference_update(self._files())
        for file in self._files():
            os.close(file)


def virtio_port(name: str) -> str:
    """Find the device of a virtio-serial port: udev's symlinks may not be there.

    A port gets its name some time after its device: the host sends it in a message.
    """
    base = "/sys/class/virtio-ports"
    until = time.monotonic() + _PORT_TIMEOUT
    while time.monotonic() < until:
        for port in sorted(os.listdir(base)) if os.path.isdir(base) else ():
            with contextlib.suppress(FileNotFoundError), open(f"{base}/{port}/name") as file:
                if file.read().strip() == name:
                    return f"/dev/{port}"
        time.sleep(0.02)
    raise SystemExit(f"agent: no virtio port is called {name}")


def main(arguments: list[str]) -> int:
    """Serve over stdin and stdout, or what the first argument names; `pin` may be the second."""
    if not arguments:
        # Keep the stream apart from 0 and 1: a stray print must not reach it.
        reader, writer = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(2, 1)
        os.close(null)
    elif arguments[0].startswith("fd:"):
        reader = writer = int(arguments[0][3:])
    else:
        where = arguments[0]
        path = virtio_port(where[7:]) if where.startswith("virtio:") else where
        reader = writer = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    agent = Agent(Stream(reader, writer), frozenset((reader, writer)), pin="pin" in arguments[1:])
    try:
        agent.serve()
    except ProtocolError as error:
        agent.die(str(error))
    agent.leave(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
