# SPDX-License-Identifier: GPL-2.0-only
"""Programs that run while we talk to them: on a local agent, driven, abused and killed."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import agent, wire
from harness.backends import local
from harness.channel import Channel
from harness.operations import Close, ReadFile, TargetError, TargetTimeoutError
from harness.program import Link, Program, Programs

MIB = 1 << 20
TIOCSPTLCK, TIOCGPTPEER = 0x40045431, 0x5441  # asm-generic/ioctls.h
ECHO = """
    while data := ends[1].recv(65536):
        ends[1].sendall(data)
"""


@pytest.fixture
def kernel() -> Iterator[wire.RemoteKernel]:
    with local.start_agent("test") as kernel:
        yield kernel


def python(code: str, channels: int = 1) -> list[str]:
    """Return the argv of a program that has its channels as sockets: ends[1], ends[2], ..."""
    lines = [
        "import os, signal, socket, sys, time",
        f"ends = {{n: socket.socket(fileno=9 + n) for n in range(1, {channels + 1})}}",
        "if True:",
        code if code.startswith("\n") else "    " + code,
    ]
    return [sys.executable, "-I", "-S", "-c", "\n".join(lines)]


def read_all(channel: Channel) -> bytes:
    data = b""
    while part := channel.receive():
        data += part
    return data


def read_until(channel: Channel, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        part = channel.receive()
        assert part, f"the end of {channel} after {data!r}"
        data += part
    return data


def receive_exactly(end: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = end.recv(length - len(data))
        assert part, f"the socket's end after {len(data)} bytes"
        data += part
    return data


def comes_true(condition: Callable[[], bool]) -> bool:
    """Wait for something that no event tells."""
    until = time.monotonic() + 20
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; one that nobody has waited for counts as ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


# Data.


def test_bytes_that_come_singly_share_frames(
    kernel: wire.RemoteKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A serial port's do: 2,000 of them are gathered; what comes first is not held back."""
    stored = []
    store = Channel.store

    def counted(channel: Channel, data: bytes) -> None:
        stored.append(len(data))
        store(channel, data)

    monkeypatch.setattr(Channel, "store", counted)
    code = "[(ends[1].sendall(b'x'), time.sleep(0.0005)) for _ in range(2000)]; ends[1].recv(1)"
    with kernel.start_program(python(code), channels=1) as program:
        channel, data = program.channel(1), b""
        while len(data) < 2000:
            data += channel.receive(20)
        assert data == b"x" * 2000
        assert stored[0] < 2000
        assert len(stored) < 500


def test_channels_are_sockets_both_ways(kernel: wire.RemoteKernel) -> None:
    code = """
    for number, end in ends.items():
        end.sendall(b"%d " % number + end.recv(100))
    print(*(end.type.name for end in ends.values()))
    """
    with kernel.start_program(python(code, 3), channels=3) as program:
        for number in (3, 2, 1):
            program.channel(number).send(b"for %d" % number)
        assert [read_all(program.channel(n)) for n in (1, 2, 3)] == [
            b"1 for 1",
            b"2 for 2",
            b"3 for 3",
        ]
        assert program.wait().status == 0
        assert program.output.receive() == b"SOCK_STREAM SOCK_STREAM SOCK_STREAM\n"
        assert program.output.receive() == b""


def test_sixteen_channels(kernel: wire.RemoteKernel) -> None:
    most = agent.MAX_CHANNELS
    code = "[end.sendall(b'%d' % n) for n, end in ends.items()]"
    with kernel.start_program(python(code, most), channels=most) as program:
        for number in range(1, most + 1):
            assert read_all(program.channel(number)) == b"%d" % number
    with pytest.raises(ValueError, match="channels is 17; want 0 to 16"):
        kernel.start_program(["true"], channels=17)
    with pytest.raises(ValueError, match=r"channel is 17; program .* has 0 to 16"):
        program.channel(17)
    with pytest.raises(ValueError, match="takes no data"):
        program.output.send(b"x")


def test_all_that_was_written_is_there_before_the_end(kernel: wire.RemoteKernel) -> None:
    code = """
    os.write(2, b"error ")
    ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    ends[1].sendall(bytes(100_000))
    os.write(1, bytes(50_000))
    os._exit(7)
    """
    for _ in range(10):
        program = kernel.start_program(python(code), channels=1)
        assert program.wait().status == 7
        # No more comes: what is here now is all.
        assert program.channel(1).receive(0) == bytes(100_000)
        assert program.output.receive(0) == b"error " + bytes(50_000)


def test_much_data_both_ways(kernel: wire.RemoteKernel) -> None:
    sent = random.Random(1).randbytes(20 * MIB)
    with kernel.start_program(python(ECHO), channels=1, backlog=32 * MIB) as program:
        channel = program.channel(1)

        def send() -> None:
            channel.send(sent)
            channel.close_sending()

        sender = threading.Thread(target=send)
        sender.start()
        received = read_all(channel)
        sender.join()
        assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()
        assert program.wait().status == 0


def test_the_end_of_what_is_sent_can_be_read(kernel: wire.RemoteKernel) -> None:
    code = """
    while ends[1].recv(100): pass
    ends[1].sendall(b"and yet it answers")
    """
    with kernel.start_program(python(code), channels=1) as program:
        program.channel(1).send(b"data")
        program.channel(1).close_sending()
        program.channel(1).close_sending()
        assert read_all(program.channel(1)) == b"and yet it answers"
        with pytest.raises(ValueError, match=r"channel 1 .* our side was closed"):
            program.channel(1).send(b"more")


def test_a_channel_that_the_program_closes(kernel: wire.RemoteKernel) -> None:
    code = """
    ends[1].recv(1)
    ends[1].close()
    print("closed", flush=True)
    ends[2].recv(1)
    """
    with kernel.start_program(python(code, 2), channels=2) as program:
        program.channel(1).send(b"some of it stays unread")
        read_until(program.output, b"closed\n")
        assert program.channel(1).receive() == b""
        assert comes_true(lambda: program.channel(1).refused)
        with pytest.raises(BrokenPipeError, match=r"channel 1 of program .* was closed by"):
            program.channel(1).send(b"more")
        program.channel(2).send(b"x")
        assert program.wait().status == 0
        with pytest.raises(BrokenPipeError, match=r"channel 2 .* the program ended with status 0"):
            program.channel(2).send(b"more")


def test_a_program_that_half_closes_a_channel_still_reads(kernel: wire.RemoteKernel) -> None:
    code = """
    ends[1].shutdown(socket.SHUT_WR)
    print(ends[1].recv(100), flush=True)
    ends[1].close()
    time.sleep(600)
    """
    with kernel.start_program(python(code), channels=1) as program:
        assert program.channel(1).receive() == b""
        program.channel(1).send(b"late")
        read_until(program.output, b"b'late'\n")
        assert comes_true(lambda: program.channel(1).refused)


def test_a_program_that_never_reads(kernel: wire.RemoteKernel) -> None:
    with kernel.start_program(["sleep", "600"], channels=2) as program:
        with pytest.raises(
            TargetTimeoutError, match=r"\d+ bytes for channel 1 .* were not read within 0\.5 s"
        ):
            program.channel(1).send(bytes(20 * MIB), timeout=0.5)
        assert kernel.call(ReadFile("/proc/self/stat")).ok
        program.channel(2).send(b"the other one is free")
        # Somebody who waits to send is told when that becomes pointless.
        threading.Timer(0.2, program.kill).start()
        with pytest.raises(
            BrokenPipeError, match=r"was ended by signal 9|was closed by the program"
        ):
            program.channel(1).send(b"x", timeout=20)


def test_what_nobody_receives_is_dropped_and_counted(kernel: wire.RemoteKernel) -> None:
    code = "ends[1].sendall(b'x' * 300_000 + b'end'); print('kept')"
    program = kernel.start_program(python(code), channels=1, backlog=1003)
    program.wait()
    assert program.channel(1).receive() == b"x" * 1000 + b"end"
    assert program.channel(1).dropped == 299_000
    assert program.output.receive() == b"kept\n"
    assert program.output.dropped == 0


def test_receiving_has_a_deadline(kernel: wire.RemoteKernel) -> None:
    with kernel.start_program(["sleep", "600"], channels=1) as program:
        with pytest.raises(TargetTimeoutError, match="nothing came from channel 1 of program"):
            program.channel(1).receive(0.05)
        with pytest.raises(TargetTimeoutError, match=r"program sleep did not end within 0\.05 s"):
            program.wait(0.05)
        assert program.ended is None


# The end.


def test_signals_reach_the_program(kernel: wire.RemoteKernel) -> None:
    code = """
    signal.signal(signal.SIGUSR2, lambda *_: os.write(1, b"again\\n"))
    print(signal.getsignal(signal.SIGPIPE).name, signal.pthread_sigmask(0, ()), flush=True)
    while True: time.sleep(1)
    """
    # Python ignores SIGPIPE by itself; a shell is as it was started.
    pipe = kernel.run_program(["sh", "-c", "kill -PIPE $$; echo survived"])
    assert (pipe.status, pipe.output) == (-signal.SIGPIPE, b"")
    with kernel.start_program(python(code, 0)) as program:
        assert read_until(program.output, b"\n").endswith(b" set()\n")
        program.signal(signal.SIGUSR2)
        read_until(program.output, b"again\n")
        program.signal(signal.SIGTERM)
        assert program.wait().status == -signal.SIGTERM
        assert str(program.ended) == "was ended by signal 15"
        program.signal(signal.SIGTERM)  # nobody is there: nothing happens
        program.kill()
    with pytest.raises(ValueError, match="signal is 65; want 1 to 64"):
        program.signal(65)
    assert kernel.call(ReadFile("/proc/self/stat")).ok


def test_a_signal_before_the_program_has_begun_is_not_lost(kernel: wire.RemoteKernel) -> None:
    for _ in range(20):
        program = kernel.start_program(["sleep", "600"])
        program.kill()
        assert program.wait().status == -signal.SIGKILL


def test_the_deadline_ends_the_whole_group(kernel: wire.RemoteKernel) -> None:
    line = "echo begun; sleep 600 & echo $!; wait"
    program = kernel.start_program(["sh", "-c", line], timeout=2)
    ending = program.wait()
    assert ending.status is None
    assert "did not end in time" in str(ending)
    child = int(read_all(program.output).split()[1])
    assert comes_true(lambda: is_gone(child))


def test_what_a_program_leaves_behind_ends_with_it(kernel: wire.RemoteKernel) -> None:
    """A child that holds the channels keeps nobody waiting."""
    program = kernel.start_program(["sh", "-c", "sleep 600 & echo $!"], channels=1)
    assert program.wait().status == 0
    child = int(program.output.receive())
    assert comes_true(lambda: is_gone(child))
    assert program.channel(1).receive(0) == b""


def test_the_context_ends_the_program(kernel: wire.RemoteKernel) -> None:
    with kernel.start_program(["sh", "-c", "echo $$; exec sleep 600"]) as program:
        pid = int(program.output.receive())
    assert is_gone(pid)
    assert program.ended is not None
    with pytest.raises(RuntimeError, match="the body's"), kernel.start_program(["sleep", "600"]):
        kernel.shutdown()  # which is an error, too, but the second
        raise RuntimeError("the body's")


def test_a_killed_agent_takes_its_programs_along(kernel: wire.RemoteKernel) -> None:
    program = kernel.start_program(["sh", "-c", "echo $$; exec sleep 600"], channels=1)
    pid = int(program.output.receive())
    assert not is_gone(pid)
    assert kernel.pid is not None
    threading.Timer(0.1, os.kill, (kernel.pid, signal.SIGKILL)).start()
    for wait in (program.channel(1).receive, program.wait, program.output.receive):
        with pytest.raises(TargetError, match="the agent has gone"):
            wait()
    with pytest.raises(TargetError, match="the agent has gone"):
        program.channel(1).send(b"x")
    with pytest.raises(TargetError, match="the agent has gone"):
        kernel.start_program(["true"])
    assert comes_true(lambda: is_gone(pid))


def test_the_end_of_the_stream_ends_all_programs(kernel: wire.RemoteKernel) -> None:
    line = "sleep 600 & echo $$ $!; exec sleep 600"
    program = kernel.start_program(["sh", "-c", line])
    pids = [int(pid) for pid in program.output.receive().split()]
    assert len(pids) == 2
    kernel.shutdown()
    assert all(comes_true(lambda pid=pid: is_gone(pid)) for pid in pids)  # type: ignore[misc]
    with pytest.raises(TargetError, match="shut down"):
        program.wait()


def test_programs_that_cannot_be_started(kernel: wire.RemoteKernel, tmp_path: Path) -> None:
    not_executable = tmp_path / "file"
    not_executable.touch()
    for name, reason in {
        "/does/not/exist": "No such file or directory: '/does/not/exist'",
        "snptest-no-such-program": "No such file or directory: 'snptest-no-such-program'",
        str(not_executable): "Permission denied",
        str(tmp_path): "Permission denied",
        "a\0b": "an argument has a NUL in it",
    }.items():
        program = kernel.start_program([name], channels=1)
        ending = program.wait()
        assert ending.status is None
        assert reason in ending.failure
        assert program.channel(1).receive() == b""
        with pytest.raises(BrokenPipeError, match=r"the program did not run to its end: .*"):
            program.channel(1).send(b"x")
        done = kernel.run_program([name])
        assert done.status is None
        assert reason in done.failure
    with pytest.raises(ValueError, match="argv is empty"):
        kernel.start_program([])
    with pytest.raises(ValueError, match="timeout is 1e"):
        kernel.start_program(["true"], timeout=1e10)


# What a program is given.


def test_a_program_has_its_own_files_only(kernel: wire.RemoteKernel) -> None:
    # Files where the channels go, and one without O_CLOEXEC, as a guest_memfd is, too.
    files = [kernel.open("/dev/null", os.O_RDWR) for _ in range(20)]
    assert {10, 11} <= set(files)
    master = kernel.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    assert kernel.ioctl(master, TIOCSPTLCK, bytes(4)).ok
    terminal = kernel.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
    assert terminal.ok
    files += [master, terminal.value]
    with kernel.start_program(["sh", "-c", "ls -l /proc/$$/fd; :"], channels=2) as program:
        lines = read_all(program.output).decode().splitlines()
    listed = dict(line.split()[-3::2] for line in lines[1:])
    assert set(listed) == {"0", "1", "2", "10", "11"}
    assert listed["0"] == "/dev/null"
    assert listed["1"] == listed["2"]
    assert listed["10"].startswith("socket:")
    assert kernel.call(ReadFile("/proc/self/stat")).ok
    for file in files:
        kernel.close(file)


def test_a_program_gives_its_files_back(kernel: wire.RemoteKernel) -> None:
    def files() -> list[str]:
        return sorted(os.listdir(f"/proc/{kernel.pid}/fd"))

    kernel.start_program(["true"]).wait()
    before = files()
    with kernel.start_program(["sh", "-c", "echo; exec sleep 600"], channels=16) as program:
        read_until(program.output, b"\n")
        assert len(files()) >= len(before) + 17
        for file in files():
            assert not kernel.call(Close(int(file))).ok, "a test could close a program's file"
    for argv in (["true"], ["/does/not/exist"]) * 3:
        kernel.start_program(argv, channels=16).wait()
        kernel.run_program(argv)
    assert files() == before
    # Their numbers are anybody's again.
    for opened in [kernel.open("/dev/null") for _ in range(40)]:
        kernel.close(opened)


def test_a_program_leads_a_session_and_runs_on_all_processors() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("this machine has one processor: there is nothing to be seen")
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, str(Path(agent.__file__)), f"fd:{theirs.fileno()}", "pin"],
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    file = ours.detach()

    def reap() -> None:
        process.wait(10)

    code = "print(sorted(os.sched_getaffinity(0)), os.getsid(0) == os.getpid() == os.getpgid(0))"
    with wire.RemoteKernel("pinned", file, file, on_close=reap) as it:
        with it.start_program(python(code, 0)) as program:
            assert read_all(program.output).decode() == f"{cpus} True\n"
            assert program.wait().status == 0


def test_programs_run_beside_each_other_and_beside_batches(kernel: wire.RemoteKernel) -> None:
    programs = [kernel.start_program(python(ECHO), channels=1) for _ in range(5)]
    for round_ in range(20):
        for number, program in enumerate(programs):
            program.channel(1).send(b"%d %d" % (number, round_))
        assert kernel.call(ReadFile("/proc/self/stat"), thread=round_ % 3).ok
        assert round_ % 10 or kernel.run_program(["true"]).status == 0
        for number, program in enumerate(programs):
            assert program.channel(1).receive() == b"%d %d" % (number, round_)
    for program in programs:
        program.channel(1).close_sending()
        assert program.wait().status == 0


def test_too_many_programs_are_refused_with_the_reason(kernel: wire.RemoteKernel) -> None:
    programs = [kernel.start_program(["sleep", "600"]) for _ in range(agent.MAX_PROGRAMS)]
    assert "64 programs run already" in kernel.start_program(["true"]).wait().failure
    programs[0].kill()
    programs[0].wait()
    assert kernel.start_program(["true"]).wait().status == 0


# Sockets for libraries.


def test_a_channel_as_a_socket(kernel: wire.RemoteKernel) -> None:
    with kernel.start_program(python(ECHO), channels=1) as program:
        with program.bridge(1) as end:
            end.settimeout(20)
            for data in (b"x", bytes(100_000)):
                end.sendall(data)
                assert receive_exactly(end, len(data)) == data
            with pytest.raises(ValueError, match=r"channel 1 .* has a socket already"):
                program.bridge(1)
            end.shutdown(socket.SHUT_WR)
            assert end.recv(1) == b""
        assert program.wait(20).status == 0
    with pytest.raises(ValueError, match="has no socket"):
        program.bridge(0)


def test_a_closed_socket_is_the_end_for_the_program(kernel: wire.RemoteKernel) -> None:
    with kernel.start_program(python(ECHO), channels=1) as program:
        program.bridge(1).close()
        assert program.wait(20).status == 0


@pytest.mark.parametrize("what", ["program", "target"])
def test_a_socket_ends_with_its_program(kernel: wire.RemoteKernel, what: str) -> None:
    code = "ends[1].sendall(b'ready'); time.sleep(600)"
    program = kernel.start_program(python(code), channels=1)
    with program.bridge(1) as end:
        end.settimeout(20)
        assert receive_exactly(end, 5) == b"ready"
        if what == "program":
            program.kill()
        else:
            kernel.shutdown()
        assert end.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            while True:
                end.sendall(b"x")
    before = {thread.name for thread in threading.enumerate() if "channel 1" in thread.name}
    assert comes_true(lambda: not before & {thread.name for thread in threading.enumerate()})


def test_a_socket_with_a_gap_is_at_its_end(kernel: wire.RemoteKernel) -> None:
    code = "ends[1].sendall(bytes(4 << 20)); ends[1].recv(1)"
    with kernel.start_program(python(code), channels=1, backlog=MIB) as program:
        with program.bridge(1) as end:
            assert comes_true(lambda: program.channel(1).dropped > 0)
            end.settimeout(20)
            received = 0
            while part := end.recv(MIB):
                received += len(part)
            assert received < 4 * MIB - program.channel(1).dropped


# Broken protocol.


def raw(kind: bytes, rest: bytes) -> bytes:
    return struct.pack("<I", 1 + len(rest)) + kind + rest


SLEEP = raw(b"S", agent.START.pack(1, 2, 60_000) + b'["sleep", "600"]')


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        (raw(b"S", agent.START.pack(1, 17, 1) + b'["true"]'), b"17 channels, 16 is the most"),
        (raw(b"S", b"1"), b"damaged b'S' frame"),
        (raw(b"S", agent.START.pack(1, 1, 1) + b"[]"), b"argv"),
        (SLEEP + SLEEP, b"ticket 1 already"),
        (raw(b"D", agent.DATA.pack(1, 1) + b"x"), b"no program was started with ticket 1"),
        (SLEEP + raw(b"D", agent.DATA.pack(1, 0) + b"x"), b"channel 0 of a program with 2"),
        (SLEEP + raw(b"D", agent.DATA.pack(1, 3) + b"x"), b"channel 3 of a program with 2"),
        (SLEEP + raw(b"D", b"x"), b"damaged b'D' frame"),
        (SLEEP + 2 * raw(b"D", agent.DATA.pack(1, 1)), b"after its end"),
        (
            SLEEP + 9 * raw(b"D", agent.DATA.pack(1, 1) + bytes(agent.WINDOW // 8)),
            b"more than 4194304 bytes wait for channel 1",
        ),
        (raw(b"K", agent.SIGNAL.pack(1, 9)), b"no program was started with ticket 1"),
        (SLEEP + raw(b"K", agent.SIGNAL.pack(1, 0)), b"no signal 0"),
        (SLEEP + raw(b"K", agent.SIGNAL.pack(1, 65)), b"no signal 65"),
        (SLEEP + raw(b"K", b"12345"), b"damaged b'K' frame"),
    ],
)
def test_garbage_is_told_and_ends_agent_and_programs(frames: bytes, complaint: bytes) -> None:
    process = subprocess.Popen(
        [sys.executable, str(Path(agent.__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    # The pipe is at its end when the programs have ended, too, if one got hold of it.
    out, _ = process.communicate(frames, timeout=20)
    assert complaint in out
    assert process.returncode == 2


@pytest.fixture
def programs() -> Programs:
    """Programs of a target that is played by the test."""
    return Programs(Link("peer", lambda kind, rest: None, lambda: ""))


@pytest.mark.parametrize(
    ("kind", "rest", "complaint"),
    [
        (b"D", agent.DATA.pack(2, 0), "program 2, which does not run"),
        (b"D", agent.DATA.pack(1, 2), "channel is 2"),
        (b"D", b"x", "damaged b'D' frame"),
        (b"A", agent.TAKEN.pack(1, 1, 4), "took 4 bytes, of 3 sent"),
        (b"A", agent.TAKEN.pack(1, 1, 1) + b"x", "damaged b'A' frame"),
        (b"A", agent.TAKEN.pack(2, 1, 1), "program 2"),
        (b"S", agent.ENDED.pack(2, 0), "program 2"),
        (b"S", b"", "damaged b'S' frame"),
    ],
)
def test_what_a_broken_agent_says_of_programs(
    programs: Programs, kind: bytes, rest: bytes, complaint: str
) -> None:
    programs.start(1, ["it"], 1, 10, MIB).channel(1).send(b"abc")
    with pytest.raises(ValueError, match=complaint):
        programs.handle(kind, rest)


def test_data_after_the_end_of_a_channel_is_no_data(programs: Programs) -> None:
    program: Program = programs.start(1, ["it"], 1, 10, MIB)
    programs.handle(b"D", agent.DATA.pack(1, 1))
    assert program.channel(1).receive(0) == b""
    with pytest.raises(ValueError, match="after its end"):
        programs.handle(b"D", agent.DATA.pack(1, 1) + b"x")


def test_a_broken_agent_is_a_lost_target(tmp_path: Path) -> None:
    """One frame of the above, by way of a stream."""
    frames = raw(b"D", agent.DATA.pack(9, 0))
    hello = b'{"magic": "%s", "version": %d}' % (agent.MAGIC.encode(), agent.VERSION)
    peer = tmp_path / "peer.py"
    peer.write_text(
        f"import os, sys\nos.write(1, {raw(b'H', hello) + frames!r})\nsys.stdin.read()\n"
    )
    with pytest.raises(TargetError, match="broke the protocol: a frame about program 9"):
        with local.start_agent("peer", peer) as kernel:
            kernel.start_program(["true"]).wait(20)
