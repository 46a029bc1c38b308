# SPDX-License-Identifier: GPL-2.0-only
"""Marks of tests that build or boot the real thing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

from harness.errors import UserError
from harness.kselftest.build import check_visible

_Test = TypeVar("_Test", bound=Callable[..., object])


def real(what: str, seconds: float) -> list[pytest.MarkDecorator]:
    """Of tests that take minutes: what they do, which SNPTEST_QUICK=1 leaves out; a deadline."""
    return [
        pytest.mark.kbuild,
        pytest.mark.deadline(seconds),
        pytest.mark.skipif(
            os.environ.get("SNPTEST_QUICK") == "1", reason=f"{what}; SNPTEST_QUICK=1 is set"
        ),
    ]


def real_test(what: str, seconds: float) -> Callable[[_Test], _Test]:
    """Mark a single test so."""

    def marked(test: _Test) -> _Test:
        for mark in real(what, seconds):
            test = mark(test)
        return test

    return marked


def skip_without_cache_in_guests() -> None:
    """Skip a test whose kernel needs files of the cache, where it mounts something over them."""
    try:
        check_visible()
    except UserError as error:
        pytest.skip(str(error))
