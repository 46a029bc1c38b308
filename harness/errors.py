# SPDX-License-Identifier: GPL-2.0-only
"""Errors a user can act on: one line that says what is wrong and a hint that says what to do."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right; shown as one line and a hint, never as a traceback."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    @property
    def headline(self) -> str:
        """The message's first line; what a build or a console said may stand below it."""
        return self.message.partition("\n")[0]


class UsageError(UserError):
    """The command line asks for what cannot be: exit code 2."""


class BuildError(UserError):
    """A kernel, guest or helper did not build, or the kernel did not boot: exit code 3."""


class ResourceError(BuildError):
    """This computer lacks what a build needs: memory, disk, a tool; no word about the sources."""


class BootError(BuildError):
    """A kernel did not boot: the message says what of, and ends with its console's tail."""

    final = False
    """Whether another attempt would end the same way."""


class HostError(BootError):
    """A host cannot be reached, or is not fit for use; nothing about the kernel under test."""

    final = True
