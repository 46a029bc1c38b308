# SPDX-License-Identifier: GPL-2.0-only
"""Faults inside the processor: those for the guest's handlers and those for the host."""

from __future__ import annotations

DE, DB, NMI, BP, UD, DF, TS, NP, SS, GP, PF, VC = 0, 1, 2, 3, 6, 8, 10, 11, 12, 13, 14, 29

WITH_ERROR_CODE = frozenset({DF, TS, NP, SS, GP, PF, 17, VC, 30})
"""Exceptions that push an error code (APM vol. 2, table 8-1)."""

CONTRIBUTORY = frozenset({DE, TS, NP, SS, GP, VC})
"""APM vol. 2, table 8-3: two of them in a row make a double fault."""


class GuestFault(Exception):
    """An exception for the guest's own handler."""

    def __init__(self, vector: int, error_code: int = 0, address: int | None = None) -> None:
        super().__init__(f"exception {vector}, error code {error_code:#x}")
        self.vector = vector
        self.error_code = error_code
        self.address = address
        """For CR2."""


class NestedFault(Exception):
    """A nested page fault: the host's to resolve."""

    def __init__(self, gpa: int, error_code: int) -> None:
        super().__init__(f"nested page fault at {gpa:#x}, error code {error_code:#x}")
        self.gpa = gpa
        self.error_code = error_code


class StaleCode(Exception):
    """Translated code is older than the page it came from."""


class TripleFault(Exception):
    """A fault while a double fault was delivered."""
