# SPDX-License-Identifier: GPL-2.0-only
"""What a worker tells about a phase of a test, beside pytest's own report: one type for both ends.

xdist sends plain types only, as the report's attribute `snptest`: `attach` makes them, `of` reads
them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import pytest

from harness.report.events import result_of
from harness.report.outcome import Outcome, Result


@dataclass(frozen=True, slots=True)
class Subject:
    """What is known of a test before it runs."""

    suite: str
    interface: str
    description: str
    patches: tuple[int, ...]
    areas: tuple[str, ...]


@dataclass(slots=True)
class Facts:
    """What there is to tell of a phase; empty where there is nothing."""

    test: Subject | None = None
    """With the setup."""
    verdict: Outcome | None = None
    """Where the phase failed."""
    reason: str = ""
    """One line: why it failed or was skipped."""
    splats: str = ""
    """Blocks of the kernel's log that count against the test."""
    console: str = ""
    """The kernel's log during the phase, where something went wrong."""
    gave_up: str = ""
    """Why no other test can be run."""
    troubles: list[str] = field(default_factory=list)
    """What keeps results from being whole."""
    abouts: list[dict[str, str]] = field(default_factory=list)
    """What kernels said about themselves when they were opened."""
    boots: list[Result] = field(default_factory=list)
    """Boots that were not silent."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, not even subclasses of them."""
        plain = {name: value for name, value in asdict(self).items() if value}
        if self.verdict is not None:
            plain["verdict"] = self.verdict.value
        if self.test is not None:
            plain["test"] = _plain(asdict(self.test))
        if self.boots:
            plain["boots"] = [_plain(each.as_dict()) for each in self.boots]
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Read what `to_dict` gave; ValueError, KeyError or TypeError where it is another."""
        said = dict(plain)
        if "verdict" in said:
            said["verdict"] = Outcome(said["verdict"])
        if "test" in said:
            test = said["test"]
            lists = {name: tuple(test[name]) for name in ("patches", "areas")}
            said["test"] = Subject(**test | lists)
        if "boots" in said:
            said["boots"] = [result_of(each) for each in said["boots"]]
        return cls(**said)

    def attach(self, report: pytest.TestReport) -> None:
        """Send them with a report."""
        report.snptest = self.to_dict()  # type: ignore[attr-defined]

    @classmethod
    def of(cls, report: pytest.TestReport) -> Self:
        """Return what was sent with a report; nothing where its worker died."""
        return cls.from_dict(getattr(report, "snptest", {}))


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with lists for tuples, and texts for outcomes."""
    return {name: _plain_value(value) for name, value in record.items()}


def _plain_value(value: Any) -> Any:
    match value:
        case Outcome():
            return value.value
        case tuple():
            return list(value)
        case _:
            return value
