# SPDX-License-Identifier: GPL-2.0-only
"""Process 1 of a booted kernel: mounts, modules, the agent; tells how the agent ended.

Runs on the target, standard library only, Python 3.9 or newer.  It takes the place of
virtme-ng's init, which waits for udev and systemd-tmpfiles (more than half of a boot, and a
minute and more on a busy machine) that nothing here needs.

    init=/usr/bin/python3 -- -I -S FOLDER/init.py FOLDER PORT [OPTION...]

FOLDER holds agent.py and `modules`, a list of files to load in that order; the options are the
agent's.  The last line on the console is `snptest-init: ` and what became of the agent: that
is how a kernel that stopped for want of an agent is told from one that died.

Where FOLDER has a file `command`, there is no agent: the command in it (JSON: argv, cwd, shared)
runs with its input and output on virtme-ng's ports, and its exit status goes to the port for that.
The paths in `shared` are below a folder that the guest has of its own; they are put back there.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import json
import os
import re
import signal
import socket
import struct
import sys
from types import ModuleType
from typing import Any, NoReturn

MARK = "snptest-init: "
_MOUNTS = (
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("devtmpfs", "/dev", "devtmpfs"),
    ("devpts", "/dev/pts", "devpts"),
    ("tmpfs", "/dev/shm", "tmpfs"),
    ("tmpfs", "/run", "tmpfs"),
    ("debugfs", "/sys/kernel/debug", "debugfs"),
    ("tracefs", "/sys/kernel/tracing", "tracefs"),
    ("tmpfs", "/var/tmp", "tmpfs"),
    # The last: FOLDER may be in there.
    ("tmpfs", "/tmp", "tmpfs"),
)
_OPTIONAL = ("debugfs", "tracefs")
_POWER_OFF = 0x4321FEDC  # LINUX_REBOOT_CMD_POWER_OFF
_FINIT_MODULE = 313  # x86-64
_EBUSY, _EEXIST = 16, 17
_MS_BIND = 4096
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def say(text: str) -> None:
    """Put a line on the console."""
    os.write(2, f"{MARK}{text}\n".encode())


def mount(source: str, target: str, kind: str) -> None:
    """Mount, where it is not there already; a directory that cannot be made is passed over."""
    if not os.path.isdir(target):
        try:
            os.mkdir(target)
        except OSError:
            if kind in _OPTIONAL:
                return
            raise
    if _libc.mount(source.encode(), target.encode(), kind.encode(), 0, None) == 0:
        return
    code = ctypes.get_errno()
    # devtmpfs: the kernel may have mounted it by itself.
    if code != _EBUSY and kind not in _OPTIONAL:
        raise OSError(code, os.strerror(code), target)


def put_back(path: str, held: int) -> None:
    """Mount what is held open, a folder or a file, at its path in a file system that is new."""
    source = f"/proc/self/fd/{held}"
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    if _libc.mount(source.encode(), os.fsencode(path), None, _MS_BIND, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    os.close(held)


def parameters(module: str, words: list[str]) -> str:
    """Return what the kernel's command line says for a module, as modprobe would pass it on."""
    name = module.replace("-", "_")
    given = [word.partition(".") for word in words if "." in word.partition("=")[0]]
    found = [rest for before, _, rest in given if before.replace("-", "_") == name]
    return " ".join(f'"{each}"' if " " in each else each for each in found)


def split_command_line(line: str) -> list[str]:
    """Return the words of the kernel's command line; quotes, in which spaces may be, go."""
    return [word.replace('"', "") for word in re.findall(r'(?:"[^"]*"|[^\s"])+', line)]


def load(path: str, words: list[str]) -> None:
    """Load a module."""
    module = os.path.basename(path)[: -len(".ko")]
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syscall(_FINIT_MODULE, file, parameters(module, words).encode(), 0) < 0:
            code = ctypes.get_errno()
            if code != _EEXIST:
                raise OSError(code, os.strerror(code), path)
    finally:
        os.close(file)


def loopback() -> None:
    """Bring lo up, where the kernel has networking."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            request = struct.pack("16sh14x", b"lo", 0)
            (flags,) = struct.unpack_from("16xh", fcntl.ioctl(handle, _SIOCGIFFLAGS, request))
            fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    except OSError as error:
        say(f"no loopback interface: {error}")


def prepare(folder: str) -> tuple[ModuleType, dict[str, Any] | None]:
    """Set the system up; return agent and command, which the tmpfs on /tmp may hide now."""
    spec = importlib.util.spec_from_file_location("agent", f"{folder}/agent.py")
    assert spec is not None
    assert spec.loader is not None
    agent = importlib.util.module_from_spec(spec)
    # proc first: the agent looks at /proc/self when it is loaded.
    for source, target, kind in _MOUNTS[:3]:
        mount(source, target, kind)
    spec.loader.exec_module(agent)
    command = None
    if os.path.exists(f"{folder}/command"):
        with open(f"{folder}/command", encoding="utf-8") as file:
            command = json.load(file)
    with open(f"{folder}/modules", encoding="utf-8") as names:
        modules = names.read().splitlines()
    with open("/proc/cmdline", encoding="utf-8") as cmdline:
        words = split_command_line(cmdline.read())
    for module in modules:
        load(f"{folder}/{module}", words)
    shared = command["shared"] if command else []
    held = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in shared]
    for source, target, kind in _MOUNTS[3:]:
        mount(source, target, kind)
    for path, each in held:
        put_back(path, each)
    loopback()
    return agent, command


def serve(agent: ModuleType, port: str, options: tuple[str, ...]) -> NoReturn:
    """Be the agent: it exits by itself, unless something goes wrong."""
    try:
        os.setsid()
        agent.main([f"virtio:{port}", *options])
    except BaseException as error:  # noqa: BLE001  # this process must not go on as another init
        say(f"the agent failed: {type(error).__name__}: {error}")
    os._exit(1)


def run_command(agent: ModuleType, command: dict[str, Any]) -> NoReturn:
    """Be the command."""
    try:
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            flags = os.O_WRONLY if number else os.O_RDONLY
            port = os.open(agent.virtio_port(f"virtme.{name}"), flags)
            os.dup2(port, number)
            os.close(port)
        os.setsid()
        os.chdir(command["cwd"] if os.path.isdir(command["cwd"]) else "/")
        os.execvp(command["argv"][0], command["argv"])
    except OSError as error:
        os.write(2, f"snptest: {command['argv'][0]}: {error.strerror}\n".encode())
    os._exit(127)


def hand_over(agent: ModuleType, status: int) -> None:
    """Tell the command's exit status, as a shell would."""
    code = os.waitstatus_to_exitcode(status)
    with open(agent.virtio_port("virtme.ret"), "wb", buffering=0) as port:
        port.write(str(code if code >= 0 else 128 - code).encode())


def watch(child: int) -> int:
    """Reap whatever ends until the child does; return its status."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return status


def how(status: int) -> str:
    """Say how a process ended."""
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return f"ended with status {os.WEXITSTATUS(status)}"


def main(folder: str, port: str, *options: str) -> None:
    """Run the agent under the eyes of process 1; power off when it has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LC_ALL="C.UTF-8")
    try:
        agent, command = prepare(folder)
    except Exception as error:  # noqa: BLE001  # the console is all there is to tell it on
        say(f"the system could not be set up: {type(error).__name__}: {error}")
    else:
        child = os.fork()
        if child == 0 and command is not None:
            run_command(agent, command)
        if child == 0:
            serve(agent, port, options)
        status = watch(child)
        if command is not None:
            hand_over(agent, status)
        say(f"the {'agent' if command is None else 'command'} {how(status)}")
    _libc.sync()
    _libc.reboot(_POWER_OFF)


if __name__ == "__main__":
    main(*sys.argv[1:])
