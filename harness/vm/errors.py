# SPDX-License-Identifier: GPL-2.0-only
"""Failures of KVM and of the firmware, by name."""

from __future__ import annotations

import errno as _errno

from harness.uapi.errors import fw_error_name


class KvmIoctlError(OSError):
    """A KVM ioctl failed: which one, and with which errno."""

    def __init__(self, what: str, errno: int) -> None:
        super().__init__(errno, f"{what}: {_errno.errorcode.get(errno, errno)}")
        self.what = what


class SevError(KvmIoctlError):
    """A SEV command failed: which one, the errno, and the firmware's error (0 if it had no say)."""

    def __init__(self, what: str, errno: int, fw_error: int) -> None:
        blame = f" (firmware: {fw_error_name(fw_error)})" if fw_error else ""
        super().__init__(what, errno)
        self.args = (errno, f"{what}: {_errno.errorcode.get(errno, errno)}{blame}")
        self.fw_error = fw_error


class NotSupportedError(Exception):
    """The interface or the kernel lacks what was asked for; a test that needs it skips."""
