# SPDX-License-Identifier: GPL-2.0-only
"""Open files of the emulated process, and tables that bind ioctl numbers to handlers."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.emulator.kvm.errors import KvmError
from harness.emulator.kvm.sched import Steps, Task

if TYPE_CHECKING:
    from harness.emulator.kvm.process import Process

Handler = Callable[[Any, "Call", int], "int | Steps"]
"""handler(object, call, arg): the result, or a generator that ends with it; raises KvmError."""


class Call:
    """The context of one system call: who calls, and from which address space."""

    __slots__ = ("process", "task")

    def __init__(self, process: Process, task: Task) -> None:
        self.process = process
        self.task = task

    def read(self, address: int, length: int) -> bytes:
        """copy_from_user."""
        return self.process.memory.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        """copy_to_user."""
        self.process.memory.write(address, data)


class IoctlTable:
    """Maps ioctl numbers to handlers; an unknown number is ENOTTY, as in Linux."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._handlers: dict[int, Handler] = {}

    def __call__(self, request: int) -> Callable[[Handler], Handler]:
        """Register the decorated handler for an ioctl number."""

        def register(handler: Handler) -> Handler:
            if request in self._handlers:
                raise ValueError(f"{self.name}: ioctl {request:#x} has two handlers")
            self._handlers[request] = handler
            return handler

        return register

    def handle(self, owner: object, call: Call, request: int, arg: int) -> int | Steps:
        """Call the handler of a request."""
        handler = self._handlers.get(request & 0xFFFFFFFF)
        if handler is None:
            raise KvmError(errno.ENOTTY)
        return handler(owner, call, arg)


class File:
    """An open file description; what a kind of file cannot do is the errno Linux gives."""

    def ioctl(self, call: Call, request: int, arg: int) -> int | Steps:
        """ioctl(2)."""
        raise KvmError(errno.ENOTTY)

    def mmap(self, length: int, offset: int) -> int:
        """mmap(2): the physical address of the range."""
        raise KvmError(errno.ENODEV)

    def fallocate(self, task: Task, mode: int, offset: int, length: int) -> int | Steps:
        """fallocate(2)."""
        raise KvmError(errno.ENODEV)

    def ftruncate(self, length: int) -> None:
        """ftruncate(2)."""
        raise KvmError(errno.EINVAL)

    def release(self) -> None:
        """The last descriptor was closed."""


class FdTable:
    """File descriptors, lowest free first."""

    LIMIT = 65536

    def __init__(self) -> None:
        self._files: dict[int, File] = {}
        self._held: list[File] = []

    def install(self, file: File) -> int:
        """Give a file the lowest free descriptor."""
        fd = 3
        while fd in self._files:
            fd += 1
        if fd >= self.LIMIT:
            raise KvmError(errno.EMFILE)
        self._files[fd] = file
        return fd

    def get(self, fd: int) -> File:
        """The file behind a descriptor."""
        file = self._files.get(fd)
        if file is None:
            raise KvmError(errno.EBADF)
        return file

    def hold(self, file: File) -> None:
        """fdget: what a system call works on stays open until it is done, closed or not."""
        self._held.append(file)

    def drop(self, file: File) -> None:
        """fdput: the other end of hold()."""
        self._held.remove(file)
        self._put(file)

    def close(self, fd: int) -> None:
        """close(2)."""
        file = self.get(fd)
        del self._files[fd]
        self._put(file)

    def _put(self, file: File) -> None:
        if file not in self._files.values() and file not in self._held:
            file.release()

    def close_all(self) -> None:
        """Close everything, youngest first (vCPUs before their VM)."""
        for fd in sorted(self._files, reverse=True):
            self.close(fd)
