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
    from the agent  H  JSON: magic, version, pid, python, release       first of all
                    R  ticket:u32 count:u16 result...                   a batch has ended
                    L  ticket:u32 errno:i32 text                        the kernel log
                    X  ticket:u32 status:i32 dropped:u64 output         it has ended
                    E  text                                             broken protocol; it exits

An operation is `code:u8`, the fields of FIELDS[code], and for the codes in WITH_BYTES
`length:u32 bytes`.  A result is `value:i64 errno:i32 length:u32 bytes`.

Batches of one thread run in order, those of different threads at once.  A batch ends at
its first failed operation.  Memory is read and written only inside what the agent mapped
itself, by way of /proc/self/mem: a bad address is EFAULT, never a fault.  The buffer of an
ioctl ends where an unmapped page begins, so a kernel that writes past it gets EFAULT, too.

A program runs beside the batches, in a process group of its own, which is killed when its
time is up (the status is then TIMED_OUT).  Its standard input is empty; of what it prints the
first `limit` bytes are kept and the rest is counted.  A status below zero is a signal.

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
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

MAGIC = "snptest-agent"
VERSION = 2
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
TIMED_OUT = -1000
NOT_STARTED = -1001
"""Statuses of programs that no program can have."""

_PAGE = 4096
_PROT_READ, _PROT_WRITE, _PROT_NONE = 1, 2, 0
_MAP_PRIVATE_ANONYMOUS = 0x22
# MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN: a mapping must not land on the agent itself.
_REFUSED_MAP_FLAGS = 0x10 | 0x100000 | 0x100
_SYSLOG_READ_ALL, _SYSLOG_SIZE = 3, 10
_REPEAT = 0.001
_PORT_TIMEOUT = 30.0

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
                os._exit(0)  # nobody is left to tell

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
        self._own = own | {0, 1, 2, self.mappings.memory}
        self._workers: dict[int, Worker] = {}
        self._wanted: set[Worker] = set()
        self._wake = threading.Condition()

    def allowed(self, fd: int) -> int:
        """Refuse the agent's own files."""
        if fd in self._own:
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
        with contextlib.suppress(OSError):
            self.stream.send(b"E", why.encode())
        os._exit(2)

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
                threading.Thread(target=self._program, args=what, daemon=True).start()
            else:
                raise ProtocolError(f"unknown frame {kind!r}")
        except struct.error as error:
            raise ProtocolError(f"damaged {kind!r} frame: {error}") from None

    def _program(self, ticket: int, argv: list[str], seconds: float, limit: int) -> None:
        try:
            os.sched_setaffinity(0, self._cpus)  # the program's, too
            status, output, dropped = _run_program(argv, seconds, limit)
        except OSError as error:
            status, output, dropped = NOT_STARTED, str(error).encode(), 0
        with contextlib.suppress(OSError):
            self.stream.send(b"X", PROGRAM_REPLY.pack(ticket, status, dropped) + output)

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


def _run_program(argv: list[str], seconds: float, limit: int) -> tuple[int, bytes, int]:
    """Run a program to its end or its deadline; return status, output and bytes dropped."""
    import subprocess  # for those who run programs: it makes every start slower

    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    overdue = threading.Event()

    def end() -> None:
        overdue.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    kept, dropped = bytearray(), 0
    # Ends when all that hold the pipe have ended: descendants, too, unless they left the group.
    while True:
        part = os.read(process.stdout.fileno(), 1 << 16)
        if not part:
            break
        room = max(limit - len(kept), 0)
        kept += part[:room]
        dropped += len(part) - len(part[:room])
    status = process.wait()
    timer.cancel()
    process.stdout.close()
    return (TIMED_OUT if overdue.is_set() else status), bytes(kept), dropped


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
    # Not a return: other threads may be inside ioctls that nothing but the exit ends.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
