# SPDX-License-Identifier: GPL-2.0-only
"""How a handler of the emulated kernel fails."""

from __future__ import annotations

import errno as _errno


class KvmError(Exception):
    """A system call ends with -errno."""

    def __init__(self, errno: int) -> None:
        super().__init__(_errno.errorcode.get(errno, str(errno)))
        self.errno = errno
