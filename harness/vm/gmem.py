# SPDX-License-Identifier: GPL-2.0-only
"""A guest_memfd."""

from __future__ import annotations

from harness.kernel import Kernel
from harness.operations import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, Close, Ftruncate, Op
from harness.vm.closing import Closing
from harness.vm.errors import KvmIoctlError


class GuestMemfd(Closing):
    """The file behind a guest's private memory; a context that closes it."""

    def __init__(self, kernel: Kernel, fd: int, size: int) -> None:
        self.kernel = kernel
        self.fd = fd
        self.size = size
        self._open = True

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        """fallocate(2) with any mode; offset and length in bytes."""
        result = self.kernel.fallocate(self.fd, mode, offset, length)
        if not result.ok:
            raise KvmIoctlError(f"fallocate({mode}, {offset:#x}, {length:#x})", result.errno)

    def allocate(self, offset: int, length: int) -> None:
        """Populate a range without giving it to the guest."""
        self.fallocate(FALLOC_FL_KEEP_SIZE, offset, length)

    def punch_hole(self, offset: int, length: int) -> None:
        """Free a range: unmapped from the guest, given back to the host."""
        self.fallocate(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, length)

    def truncate(self, length: int) -> None:
        """ftruncate(2)."""
        result = self.kernel.call(Ftruncate(self.fd, length))
        if not result.ok:
            raise KvmIoctlError(f"ftruncate({length:#x})", result.errno)

    def closing_ops(self) -> list[Op]:
        """The operation that closes the file; none where it was taken before."""
        ops: list[Op] = [Close(self.fd)] if self._open else []
        self._open = False
        return ops

    def close(self) -> None:
        """Close the file; may be called twice."""
        self.kernel.run_all(self.closing_ops())
