# SPDX-License-Identifier: GPL-2.0-only
"""What has a close() and is a context that calls it."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Self


class Closing(abc.ABC):
    """A context that closes itself at its end; close() may be called twice."""

    __slots__ = ()

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what is held on the target."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
