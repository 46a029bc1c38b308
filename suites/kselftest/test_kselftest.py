# SPDX-License-Identifier: GPL-2.0-only
"""Upstream's KVM selftests, of the tree that the kernel was built from, one test each.

What runs is what tests.toml has as default.  Others run where their node ids are given:
`snptest kselftest NAME` does so.
"""

from __future__ import annotations

import pytest

from harness.errors import BuildError
from harness.kernel import Kernel
from harness.kselftest import catalogue
from harness.kselftest.build import Selftests
from harness.kselftest.judge import judge, was_started
from harness.report.outcome import Outcome
from harness.report.verdict import SAID
from suites.kselftest.conftest import MARGIN, selected

OUTPUT_LIMIT = 4 << 20


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each selftest of the tree that is wanted."""
    if "name" not in metafunc.fixturenames:
        return
    known = catalogue.load()
    names = selected(metafunc.config, known)
    marked = [
        pytest.param(name, marks=pytest.mark.deadline(known.rule(name).timeout + MARGIN))
        for name in names
    ]
    # Without a kernel there is nothing to take names from: one test says so.
    metafunc.parametrize("name", marked or ["none"])


def test_kselftest(
    name: str, selftests: Selftests, kernel: Kernel, request: pytest.FixtureRequest
) -> None:
    """The selftest passes."""
    if name in selftests.failed:
        raise BuildError(
            f"{name} did not compile: {selftests.failed[name]}", f"all of it: {selftests.log}"
        )
    rule = catalogue.load().rule(name)
    lacking = rule.memory and catalogue.lacking_memory(rule, kernel.read_file("/proc/meminfo"))
    if lacking:
        pytest.skip(lacking)
    timeout = rule.timeout
    program = str(selftests.program(name))
    done = kernel.run_program([program], timeout=timeout, limit=OUTPUT_LIMIT)
    if not was_started(done):
        raise BuildError(f"{program} could not be started: {done.failure}")
    verdict = judge(done, timeout, selftests.prints[name])
    if verdict.outcome is Outcome.ERROR:
        raise BuildError(f"{name} gave {verdict.reason}\n\n{verdict.details}")
    if verdict.outcome is Outcome.PASS:
        request.node.add_report_section(
            "call", SAID, f"{verdict.reason}\n\n{verdict.details}".strip()
        )
    if verdict.outcome is Outcome.SKIP:
        pytest.skip(verdict.reason)
    if verdict.outcome is Outcome.FAIL:
        pytest.fail(f"{verdict.reason}\n\n{verdict.details}", pytrace=False)
