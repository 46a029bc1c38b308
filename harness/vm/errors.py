# SPDX-License-Identifier: GPL-2.0-only
"""Failures of KVM and of the firmware, by name."""

from __future__ import annotations

from harness.uapi.errors import errno_name, status_name


class KvmIoctlError(OSError):
    """A KVM ioctl failed: which one, and with which errno."""

    def __init__(self, what: str, errno: int) -> None:
        super().__init__(errno, f"{what}: {errno_name(errno)}")
        self.what = what

    def __str__(self) -> str:
        """Operation and error, without Python's `[Errno 5]`."""
        return str(self.strerror)


class SevError(KvmIoctlError):
    """A SEV command failed: which one, the errno, and the firmware's error (0 if it had no say)."""

    def __init__(self, what: str, errno: int, fw_error: int) -> None:
        blame = f", firmware {status_name(fw_error)}" if fw_error else ""
        super().__init__(what, errno)
        self.strerror = f"{what}: {errno_name(errno)}{blame}"
        self.args = (errno, self.strerror)
        self.fw_error = fw_error


class NotSupportedError(Exception):
    """The interface or the kernel lacks what was asked for; a test that needs it skips."""


class GuestError(Exception):
    """The guest did not do what it was told; the text says what it did instead."""


class MessageError(Exception):
    """A response that a guest must not trust; the text says what is wrong with it."""
