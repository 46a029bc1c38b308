# SPDX-License-Identifier: GPL-2.0-only
"""Where the pages of a guest_memfd are in physical memory, by a module of ours on the target."""

from __future__ import annotations

import errno
import os
import struct

from harness.kernel import Kernel
from harness.operations import Ioctl, OperationError

MODULE = "snptest_gmem.ko"
"""Built beside each kernel that has SEV (kernels/modules)."""
DEVICE = "/dev/snptest_gmem"
PAGE_SIZE = 4096

_PAGE = struct.Struct("<iIQQ")  # struct snptest_gmem_page: fd, reserved, index, pfn
_PFN = 3 << 30 | _PAGE.size << 16 | ord("S") << 8 | 0x70  # SNPTEST_GMEM_PFN


class GmemPages:
    """Asks a target whose kernel has the module loaded."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._device: int | None = None
        self._boots = kernel.boots

    def address(self, fd: int, offset: int) -> int | None:
        """Return the physical address behind an offset; None where the file has no page there."""
        if self._device is None or self._boots != self._kernel.boots:
            self._boots = self._kernel.boots
            self._device = self._kernel.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        request = Ioctl(self._device, _PFN, _PAGE.pack(fd, 0, offset // PAGE_SIZE, 0))
        result = self._kernel.call(request)
        if result.errno == errno.ENOENT:
            return None
        if not result.ok:
            raise OperationError(request, result)
        pfn: int = _PAGE.unpack(result.data)[3]
        return pfn * PAGE_SIZE + offset % PAGE_SIZE
