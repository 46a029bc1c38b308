# SPDX-License-Identifier: GPL-2.0-only
"""What was observed while a script ran: names and texts, the same wherever it ran.

Handles, addresses of userspace, ASIDs and random keys are left out or renumbered, so that two
kernels that behave alike give equal traces.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from harness.differential.operations import Operation

END = Operation("end")
"""Behind the last operation: pages of interest, and what is left when all is closed."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one operation gave; fields in the order in which they were seen."""

    operation: Operation
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class Trace:
    """Observations of a script, the last one's operation is END unless the kernel died."""

    observations: tuple[Observation, ...]

    def encode(self) -> str:
        """As one line of JSON: the fields only, for whoever has the script."""
        return json.dumps([each.fields for each in self.observations])

    @classmethod
    def decode(cls, line: str, operations: tuple[Operation, ...]) -> Trace:
        """Read `encode`'s line back for a script with these operations."""
        found = json.loads(line)
        return cls(
            tuple(
                Observation(operation, fields)
                for operation, fields in zip((*operations, END), found, strict=False)
            )
        )
