# SPDX-License-Identifier: GPL-2.0-only
"""What runs on a host first: looks around, keeps two runs apart, becomes the agent.

    python3 -I -c 'exec(...)' snptest OPTIONS

Standard library only, Python 3.9 or newer; sent, never installed.  OPTIONS is JSON in base64.
What login scripts print before it is told from its own words by `mark`, which nobody can guess.

    on stdout   MARK ready\n     then it reads `length` bytes, the agent's source
                MARK JSON\n      facts about the host, or what is wrong: {"error": ...}
                ...              the agent's frames
    on stderr   a NUL now and then: a sign of life, of this process and the connection
                MARK ended STATUS\n    of the agent: below zero a signal

The agent is a child: this process outlives it to say how it ended.  Both hold the lock, which
the kernel gives back when both are gone, however they went.  The holder is found by
/proc/locks and names itself in its arguments, so a full disk does not matter.  A run that has
lost its connection may find an agent of its own, which does not know yet: that one is killed.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import signal
import stat
import sys
import time
from types import FrameType
from typing import Any, NoReturn

HEARTBEAT = 2.0
"""Seconds between signs of life."""
PSTORE = ("/sys/fs/pstore", "/var/lib/systemd/pstore")
"""Where a kernel's last words are after its death; systemd moves them away when it boots."""
PSTORE_LIMIT = 256 * 1024
_PR_SET_PDEATHSIG = 1


class Refused(Exception):
    """Why this host cannot be used now."""


def say(mark: str, text: str) -> None:
    """Write one marked line to stdout, past any buffer."""
    data = memoryview(f"\n{mark} {text}\n".encode())
    while data:
        data = data[os.write(1, data) :]


def read_file(path: str, limit: int = 1 << 16) -> bytes:
    """Return a small file's content, nothing where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError:
        return b""


def facts(options: dict[str, Any]) -> dict[str, Any]:
    """Say which kernel runs, and since when."""
    uname = os.uname()
    return {
        "boot_id": read_file("/proc/sys/kernel/random/boot_id").decode().strip(),
        "release": uname.release,
        "version": uname.version,
        "node": uname.nodename,
        "notes": read_file("/sys/kernel/notes").hex(),
        "cmdline": read_file("/proc/cmdline").decode(errors="replace"),
        "modules": {
            name: read_file(f"/sys/module/{name}/notes/.note.gnu.build-id").hex()
            for name in options.get("modules", ())
            if os.path.isdir(f"/sys/module/{name}")
        },
        "kvm": why_no_kvm(),
        "now": time.time(),
        "pstore": pstore(options["since"]) if options.get("since") else "",
    }


def why_no_kvm() -> str:
    """Say why /dev/kvm cannot be opened, "" where it can."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "there is no /dev/kvm: modprobe kvm_amd, or enable SVM in the firmware"
    except PermissionError:
        return "no permission to use /dev/kvm: log in as root, or set sudo"
    except OSError as error:
        return f"/dev/kvm cannot be opened: {error.strerror}"
    return ""


def pstore(since: float) -> str:
    """Return what kernels left that died after `since`, in seconds of this host's clock."""
    found = []
    for folder in PSTORE:
        for base, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(base, name)
                try:
                    status = os.lstat(path)
                except OSError:
                    continue
                if stat.S_ISREG(status.st_mode) and status.st_mtime >= since and "dmesg" in name:
                    found.append((status.st_mtime, path))
    text = b"".join(read_file(path, PSTORE_LIMIT) for _, path in sorted(found)[-16:])
    return text[-PSTORE_LIMIT:].decode(errors="replace")


def take_lock(path: str, seconds: float, token: str) -> int:
    """Hold the lock's file; Refused, with the holder's name, when it does not become free."""
    fd = open_lock(path)
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            pass
        pid, who = holder(fd)
        if who.get("token") == token:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        left = until - time.monotonic()
        if left <= 0 or not wait_for_lock(fd, min(left, 1.0)):
            if left > 0:
                continue
            if who.get("token") == token:
                raise Refused(f"process {pid} of this run does not end: it is stuck")
            name = who.get("who") or "somebody"
            since = who.get("began") or "unknown"
            raise Refused(f"in use by {name} since {since} (process {pid} there)")
        return fd


def open_lock(path: str) -> int:
    """Open the lock's file, made if need be: flock(2) needs no more than to read it."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        # O_CREAT on somebody else's file in a sticky directory is refused (protected_regular).
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            return os.open(path, flags | os.O_CREAT, 0o644)
    except OSError as error:
        raise Refused(f"its lock {path} cannot be opened: {error.strerror}") from None


def wait_for_lock(fd: int, seconds: float) -> bool:
    """Wait for the lock; False when the time is up."""

    def expire(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expire)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return True
    except TimeoutError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def holder(fd: int) -> tuple[int, dict[str, Any]]:
    """Return the process that took the lock, 0 where unknown, and what its arguments say."""
    inode = str(os.fstat(fd).st_ino)
    for line in read_file("/proc/locks", 1 << 22).decode().splitlines():
        words = line.split()
        # "1: FLOCK  ADVISORY  WRITE 1234 00:19:567 0 EOF"; those who wait have "->" second.
        if len(words) > 5 and words[1] == "FLOCK" and words[5].split(":")[-1] == inode:
            pid = int(words[4])
            arguments = read_file(f"/proc/{pid}/cmdline").split(b"\0")
            if b"snptest" in arguments:
                try:
                    value = json.loads(base64.b64decode(arguments[-2]))
                except ValueError:
                    continue
                if isinstance(value, dict):
                    return pid, value
    return 0, {}


def read_source(length: int, digest: str) -> bytes:
    """Read exactly so many bytes: what follows them is the agent's."""
    data = bytearray()
    while len(data) < length:
        part = os.read(0, length - len(data))
        if not part:
            os._exit(3)  # nobody is left to tell
        data += part
    if hashlib.sha256(data).hexdigest() != digest:
        raise Refused("the agent arrived damaged: something reads or changes standard input")
    return bytes(data)


def become_agent(source: bytes, parent: int) -> NoReturn:
    """Run the agent in this process; it dies with the one that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    sys.argv = ["agent"]
    exec(compile(source, "agent.py", "exec"), {"__name__": "__main__"})
    os._exit(0)


def watch(child: int, mark: str) -> None:
    """Give signs of life until the agent has ended; tell how."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)  # the streams are the agent's alone: they end when it does
    os.dup2(null, 1)
    connected = True
    while True:
        signal.sigtimedwait({signal.SIGCHLD}, HEARTBEAT)
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            status = os.waitstatus_to_exitcode(status)
            os.write(2, f"\n{mark} ended {status}\n".encode())
            return
        try:
            if connected:
                os.write(2, b"\0")
        except OSError:
            # The connection is gone; an agent inside a system call cannot know.
            connected = False
            os.kill(child, signal.SIGKILL)


def main(options: dict[str, Any]) -> None:
    """Do what OPTIONS say; the exit status is for people only."""
    mark = options["mark"]
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    say(mark, "ready")
    try:
        if "length" not in options:
            say(mark, json.dumps(facts(options)))
            return
        source = read_source(options["length"], options["digest"])
        take_lock(options["lock"], options["patience"], options["token"])
        found = facts(options)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        me = os.getpid()
        say(mark, json.dumps(found))
        child = os.fork()
    except Refused as error:
        say(mark, json.dumps({"error": str(error)}))
        return
    except OSError as error:
        text = f"{errno.errorcode.get(error.errno or 0, '?')}: {error.strerror}"
        say(mark, json.dumps({"error": text}))
        return
    if not child:
        become_agent(source, me)
    watch(child, mark)


main(json.loads(base64.b64decode(sys.argv[-1])))
