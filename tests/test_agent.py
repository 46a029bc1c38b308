# SPDX-License-Identifier: GPL-2.0-only
"""The agent and the wire to it: a local agent process, driven, abused and killed."""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import agent, wire
from harness.backends import local
from harness.operations import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    PROT_READ,
    Close,
    Ftruncate,
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
    TargetTimeoutError,
    Write,
)

PAGE = 4096
MAP_FIXED = 0x10


@pytest.fixture
def kernel() -> Iterator[wire.RemoteKernel]:
    with local.start_agent("test") as kernel:
        yield kernel


def raw_agent() -> subprocess.Popen[bytes]:
    """Start an agent without the client, past its hello."""
    process = subprocess.Popen(
        [sys.executable, str(Path(agent.__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert read_frame(process)[:1] == b"H"
    return process


def read_frame(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    (length,) = struct.unpack("<I", process.stdout.read(4))
    return process.stdout.read(length)


def end_of(process: subprocess.Popen[bytes], data: bytes) -> tuple[int, bytes]:
    """Send bytes and the end of the stream; return exit status and all that came back."""
    out, _ = process.communicate(data, timeout=10)
    return process.returncode, out


def test_hello_names_version_and_process(kernel: wire.RemoteKernel) -> None:
    assert kernel.hello["version"] == agent.VERSION
    assert kernel.hello["pid"] == kernel.pid
    assert kernel.hello["release"] == os.uname().release


def test_file_operations(kernel: wire.RemoteKernel, tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = kernel.open(str(path), os.O_RDWR | os.O_CREAT)
    kernel.check(Ftruncate(fd, 1 << 20))
    assert path.stat().st_size == 1 << 20
    address = kernel.mmap(1 << 20, fd=fd)
    kernel.write(address, b"x" * PAGE)
    assert kernel.read(address + PAGE - 1, 2) == b"x\0"
    hole = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    assert kernel.fallocate(fd, hole, 0, PAGE).ok
    assert kernel.read(address, PAGE) == bytes(PAGE)
    assert kernel.read_file(str(path)) == "\0" * (1 << 16)
    kernel.close(fd)
    assert kernel.call(Close(fd)).errno == errno.EBADF
    assert kernel.read_file(str(tmp_path / "none")) is None


def test_a_failed_operation_ends_its_batch(kernel: wire.RemoteKernel, tmp_path: Path) -> None:
    path = tmp_path / "never"
    results = kernel.batch(
        [
            Open("/proc/self/stat", os.O_RDONLY),
            Open("/does/not/exist"),
            Open(str(path), os.O_RDWR | os.O_CREAT),
        ]
    )
    assert [result.errno for result in results] == [0, errno.ENOENT]
    assert not path.exists()
    with pytest.raises(OperationError, match=r"open\(/does/not/exist\): ENOENT"):
        kernel.check(Open("/does/not/exist"))


def test_ioctl_buffer_comes_back(kernel: wire.RemoteKernel) -> None:
    master = kernel.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    size = struct.pack("<HHHH", 24, 80, 0, 0)
    assert kernel.ioctl(master, termios.TIOCSWINSZ, size) == Result(0, 0, size)
    assert kernel.ioctl(master, termios.TIOCGWINSZ, bytes(8)).data == size
    address = kernel.mmap(PAGE)
    assert kernel.ioctl(master, termios.TIOCGWINSZ, address).ok
    assert kernel.read(address, 8) == size


def test_ioctl_buffer_ends_at_an_unmapped_page(kernel: wire.RemoteKernel) -> None:
    """A kernel that writes more than the caller gave room for must not corrupt the agent."""
    master = kernel.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    for length in range(8):
        assert kernel.ioctl(master, termios.TIOCGWINSZ, bytes(length)).errno == errno.EFAULT
    assert kernel.ioctl(master, termios.TIOCGWINSZ, bytes(100_000)).errno == 0


def test_ioctl_errors_keep_the_buffer(kernel: wire.RemoteKernel) -> None:
    fd = kernel.open("/dev/null")
    assert kernel.ioctl(fd, 0xC0DE, b"abc") == Result(-1, errno.ENOTTY, b"abc")
    assert kernel.ioctl(fd, 0xC0DE, -1).errno == errno.ENOTTY


def test_memory_outside_of_mappings_is_efault(kernel: wire.RemoteKernel) -> None:
    address = kernel.mmap(4 * PAGE)
    everywhere: list[Op] = [
        Read(0, 1),
        Read(address + 4 * PAGE - 1, 2),
        Read(address - 1, 1),
        Read((1 << 64) - 1, 1),
        Write(0x400000, b"x"),
        Write(address + 4 * PAGE - 1, b"xy"),
    ]
    for op in everywhere:
        assert kernel.call(op).errno == errno.EFAULT, op
    kernel.munmap(address + PAGE, PAGE)
    assert kernel.call(Read(address, 2 * PAGE)).errno == errno.EFAULT
    assert kernel.call(Read(address + 2 * PAGE, 2 * PAGE)).ok
    assert kernel.call(Munmap(address + PAGE, PAGE)).errno == errno.EINVAL
    assert kernel.call(Munmap(0x400000, PAGE)).errno == errno.EINVAL


def test_protection_and_holes_in_files_are_efault(
    kernel: wire.RemoteKernel, tmp_path: Path
) -> None:
    flags = MAP_PRIVATE | MAP_ANONYMOUS
    readable = kernel.check(Mmap(PAGE, PROT_READ, flags)).value
    assert kernel.call(Write(readable, b"x")).errno == errno.EFAULT
    assert kernel.call(Read(kernel.check(Mmap(PAGE, 0, flags)).value, 1)).errno == errno.EFAULT
    fd = kernel.open(str(tmp_path / "short"), os.O_RDWR | os.O_CREAT)
    beyond = kernel.mmap(PAGE, fd=fd)  # a pointer access would be SIGBUS
    assert kernel.call(Read(beyond, 1)).errno == errno.EFAULT
    assert kernel.call(Write(beyond, b"x")).errno == errno.EFAULT


def test_requests_out_of_bounds_are_refused(kernel: wire.RemoteKernel) -> None:
    address = kernel.mmap(1 << 30)
    assert kernel.call(Read(address, agent.MAX_DATA)).ok
    assert kernel.call(Read(address, agent.MAX_DATA + 1)).errno == errno.EMSGSIZE
    assert kernel.call(Mmap(agent.MAX_MAPPING + 1)).errno == errno.EINVAL
    assert kernel.call(Mmap(PAGE, flags=MAP_PRIVATE | MAP_FIXED)).errno == errno.EINVAL
    assert kernel.call(ReadFile("/dev/zero", 1 << 20)).value == 1 << 20
    with pytest.raises(ValueError, match="is the most"):
        kernel.call(Write(address, bytes(agent.MAX_DATA + 1)))
    with pytest.raises(ValueError, match="batch"):
        kernel.batch([])
    big: list[Op] = [Read(address, agent.MAX_DATA)] * 3
    results = kernel.batch(big)
    assert [result.errno for result in results] == [0, errno.EMSGSIZE]


def test_the_agents_own_files_are_out_of_reach(kernel: wire.RemoteKernel) -> None:
    for fd in range(6):
        if kernel.call(Close(fd)).ok:
            pytest.fail(f"the agent let a test close its file {fd}")
    assert kernel.read_file("/proc/self/stat") is not None


def test_threads_run_at_once_and_in_order(kernel: wire.RemoteKernel, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    blocked = kernel.start([Open(str(fifo), os.O_RDONLY), Ftruncate(-1, 0)], thread=7)
    later = kernel.start([Open("/dev/null")], thread=7)
    assert kernel.read_file("/proc/self/stat")  # thread 0 is free
    with pytest.raises(TargetTimeoutError, match=r"open\(.*fifo\) and 1 more on thread 7"):
        kernel.wait(blocked, timeout=0.2)
    with pytest.raises(TargetTimeoutError):
        kernel.wait(later, timeout=0.01)
    writer = os.open(fifo, os.O_WRONLY)
    assert [result.errno for result in kernel.wait(blocked)] == [0, errno.EBADF]
    assert kernel.wait(later)[0].ok
    os.close(writer)
    with pytest.raises(ValueError, match="nothing is under way"):
        kernel.wait(later)


# An ioctl that blocks until interrupted, on any machine: receiving from a seccomp listener
# whose filter allows everything.  The program makes one as file 100 and becomes the agent.
LISTENER = 100
BLOCK = Ioctl(LISTENER, 0xC0502100, bytes(80))  # SECCOMP_IOCTL_NOTIF_RECV, linux/seccomp.h
PROGRAM = """
import ctypes, os, runpy, struct
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(allow)))
assert libc.prctl(38, 1, 0, 0, 0) == 0
fd = libc.syscall(317, 1, 8, program)
assert fd >= 0, os.strerror(ctypes.get_errno())
os.dup2(fd, 100)
runpy.run_path({path!r}, run_name="__main__")
"""


@pytest.fixture
def blocking(tmp_path: Path) -> Iterator[wire.RemoteKernel]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(path=agent.__file__))
    with local.start_agent("blocking", program) as kernel:
        yield kernel


def test_interrupt_ends_a_blocking_ioctl(blocking: wire.RemoteKernel) -> None:
    ticket = blocking.start([BLOCK, Open("/dev/null")], thread=3)
    with pytest.raises(TargetTimeoutError):
        blocking.wait(ticket, timeout=0.2)
    blocking.interrupt(3)
    assert [result.errno for result in blocking.wait(ticket, 5)] == [errno.EINTR]


def test_interrupt_just_before_the_ioctl_is_not_lost(blocking: wire.RemoteKernel) -> None:
    for _ in range(50):
        ticket = blocking.start([ReadFile("/proc/self/stat"), BLOCK], thread=3)
        blocking.interrupt(3)
        assert blocking.wait(ticket, 5)[-1].errno == errno.EINTR


def test_interrupt_without_a_batch_does_nothing(blocking: wire.RemoteKernel) -> None:
    blocking.interrupt(3)
    assert blocking.call(Open("/dev/null"), thread=3).ok
    blocking.interrupt(3)
    ticket = blocking.start([BLOCK], thread=3)
    with pytest.raises(TargetTimeoutError):
        blocking.wait(ticket, timeout=0.3)
    blocking.interrupt(3)
    assert blocking.wait(ticket, 5)[0].errno == errno.EINTR


def test_end_of_stream_ends_the_agent() -> None:
    assert end_of(raw_agent(), b"") == (0, b"")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\xff\xff\xff\xff", b"out of bounds"),
        (b"\0\0\0\0", b"out of bounds"),
        (b"\x05\0\0\0B", b"inside a frame"),
        (b"\x05\0", b"inside a frame"),
        (b"\x01\0\0\0?", b"unknown frame"),
        (b"\x02\0\0\0B\0", b"damaged"),
        (b"\x01\0\0\0L", b"damaged"),
        (b"\x09\0\0\0B" + struct.pack("<IHH", 1, 0, 0), b"out of bounds"),
        (b"\x0a\0\0\0B" + struct.pack("<IHHB", 1, 0, 1, 99), b"damaged batch"),
        (b"\x0a\0\0\0B" + struct.pack("<IHHB", 1, 0, 1, agent.READ), b"damaged batch"),
        (
            struct.pack("<IcIHHBII", 18, b"B", 1, 0, 1, agent.OPEN, 0, 1 << 31),
            b"damaged batch",
        ),
    ],
)
def test_garbage_is_told_and_ends_the_agent(data: bytes, complaint: bytes) -> None:
    process = raw_agent()
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()
    if complaint == b"inside a frame":
        process.stdin.close()
    frame = read_frame(process)
    assert frame[:1] == b"E"
    assert complaint in frame
    assert process.wait(10) == 2


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_random_bytes_never_hang_the_agent(data: bytes) -> None:
    code, _ = end_of(raw_agent(), data)
    assert code in (0, 2)


def test_a_killed_agent_is_noticed_at_once(kernel: wire.RemoteKernel, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    ticket = kernel.start([Open(str(fifo), os.O_RDONLY)])
    assert kernel.pid is not None
    started = time.monotonic()
    threading.Timer(0.1, os.kill, (kernel.pid, signal.SIGKILL)).start()
    with pytest.raises(TargetError, match="the agent has gone"):
        kernel.wait(ticket, timeout=10)
    with pytest.raises(TargetError):
        kernel.open("/dev/null")
    assert time.monotonic() - started < 2


def test_the_first_of_several_batches_to_end_is_told(
    kernel: wire.RemoteKernel, tmp_path: Path
) -> None:
    fifos = [tmp_path / name for name in ("one", "two")]
    for fifo in fifos:
        os.mkfifo(fifo)
    tickets = [
        kernel.start([Open(str(fifo), os.O_RDONLY)], thread=number)
        for number, fifo in enumerate(fifos)
    ]
    with pytest.raises(TargetTimeoutError, match=r"one.*thread 0.*two.*thread 1"):
        kernel.wait_any(tickets, 0.05)
    with open(fifos[1], "w"):
        assert kernel.wait_any(tickets, 10) == tickets[1]
        assert kernel.wait(tickets[1], 0)[0].ok
    with pytest.raises(ValueError, match="nothing is under way"):
        kernel.wait_any(tickets)
    assert kernel.pid is not None
    threading.Timer(0.1, os.kill, (kernel.pid, signal.SIGKILL)).start()
    assert kernel.wait_any(tickets[:1], 10) == tickets[0]
    with pytest.raises(TargetError, match="the agent has gone"):
        kernel.wait(tickets[0])


def test_shutdown_ends_the_agent_although_a_thread_blocks(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    kernel = local.start_agent("test")
    ticket = kernel.start([Open(str(fifo), os.O_RDONLY)])
    kernel.shutdown()
    kernel.shutdown()
    assert kernel.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(kernel.pid, 0)
    with pytest.raises(TargetError, match="shut down"):
        kernel.wait(ticket)


def pretend(reply: bytes) -> TargetError:
    """Connect to a peer that says these bytes and goes; return what the client raises."""
    our_reader, their_writer = os.pipe()
    their_reader, our_writer = os.pipe()
    os.write(their_writer, reply)
    os.close(their_writer)
    try:
        with pytest.raises(TargetError) as caught:
            with wire.RemoteKernel("peer", our_reader, our_writer) as kernel:
                kernel.open("/dev/null")
    finally:
        os.close(their_reader)
    return caught.value


def hello(version: int) -> bytes:
    body = b'H{"magic": "snptest-agent", "version": %d}' % version
    return struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (b"", "the agent has gone"),
        (b"bash: python3: command not found\n", "out of bounds"),
        (b"\x02\0\0\0H1", "not the agent"),
        (b"\x03\0\0\0Hxy", "broke the protocol"),
        (b"\x01\0\0\0R", "not the agent"),
        (hello(agent.VERSION + 1), "speaks version"),
        (hello(agent.VERSION) + b"\x01\0\0\0?", "unknown frame"),
        (hello(agent.VERSION) + b"\x02\0\0\0R1", "damaged results"),
        (hello(agent.VERSION) + b"\x07\0\0\0R\1\0\0\0\0\0\0", "out of bounds|nobody asked|after"),
        (hello(agent.VERSION) + b"\x08\0\0\0R", "the agent has gone inside a frame"),
        (hello(agent.VERSION) + b"\x04\0\0\0Eabc", "abc"),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_a_lost_target(reply: bytes, complaint: str) -> None:
    assert re.search(complaint, str(pretend(reply)))


def test_a_silent_peer_is_a_timeout() -> None:
    our_reader, their_writer = os.pipe()
    their_reader, our_writer = os.pipe()
    with pytest.raises(TargetTimeoutError, match=r"said nothing within 0\.1 s; last seen:\nboo"):
        wire.RemoteKernel(
            "peer", our_reader, our_writer, hello_timeout=0.1, last_seen=lambda: "boo"
        )
    os.close(their_reader)
    os.close(their_writer)


# Programs.


def test_a_program_runs_and_its_output_and_status_come_back(kernel: wire.RemoteKernel) -> None:
    done = kernel.run_program(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.status, done.output, done.dropped, done.failure) == (3, b"out\nerr\n", 0, "")
    assert kernel.run_program(["cat"]).status == 0  # its standard input is empty
    assert kernel.run_program(["sh", "-c", "kill -9 $$"]).status == -9


def test_a_programs_output_is_bounded(kernel: wire.RemoteKernel) -> None:
    done = kernel.run_program(["head", "-c", "300000", "/dev/zero"], limit=1000)
    assert (done.status, done.output, done.dropped) == (0, bytes(1000), 299000)


def test_a_program_that_does_not_end_is_ended(kernel: wire.RemoteKernel) -> None:
    # The child holds the pipe, too: it has to go as well.
    done = kernel.run_program(["sh", "-c", "echo begun; sleep 600 & sleep 600"], timeout=1)
    assert (done.status, done.output) == (None, b"begun\n")
    assert "in time" in done.failure


def test_a_program_that_is_not_there_is_said_so(kernel: wire.RemoteKernel) -> None:
    done = kernel.run_program(["/does/not/exist"])
    assert done.status is None
    assert "No such file" in done.failure


def test_programs_run_beside_batches(kernel: wire.RemoteKernel) -> None:
    waiting = threading.Thread(target=kernel.run_program, args=(["sleep", "2"],))
    waiting.start()
    assert kernel.call(ReadFile("/proc/uptime")).ok
    assert waiting.is_alive(), "the batch waited for the program"
    waiting.join()
