# SPDX-License-Identifier: GPL-2.0-only
"""The selftests of the kernel under test: their names at collection, their programs to run."""

from __future__ import annotations

import re

import pytest

from harness import kbuild
from harness.errors import UsageError
from harness.kernel import Kernel
from harness.kselftest import build
from harness.kselftest.build import Selftests
from harness.kselftest.catalogue import Catalogue
from harness.target import Target

MARGIN = 60.0
"""Seconds between a selftest's time-out and the deadline of the test that waits for it."""
_NAMED = re.compile(r"test_kselftest\.py::test_kselftest\[[^\]-]*-(.+)\]$")


def selected(config: pytest.Config, known: Catalogue) -> list[str]:
    """Name the selftests to run: those whose node ids are given, else the default of the tree."""
    target = Target.of(config.getoption)
    if target.kernel is None or target.backend == "emulator":
        return []
    tests = built(target.kernel).tests
    named = {match[1] for each in config.args if (match := _NAMED.search(each))}
    return [name for name in tests if name in named or (not named and known.rule(name).default)]


def built(kernel: str) -> Selftests:
    """Return the selftests of a kernel's tree, built now where they are not there yet.

    `snptest` has built them before, with progress to look at; plain pytest has not.
    """
    return build.build(kbuild.get(kernel), say=lambda _: None)


@pytest.fixture(scope="module")
def selftests(kernel: Kernel, target: Target) -> Selftests:
    """The programs, and a kernel that can run them."""
    if not kernel.runs_programs:
        pytest.skip("selftests are programs, this backend runs none: --backend vng --kernel NAME")
    if target.kernel is None:
        raise UsageError("--kernel NAME says which tree's selftests to run")
    if target.backend == "vng":
        build.check_visible()
    return built(target.kernel)
