# SPDX-License-Identifier: GPL-2.0-only
"""Upstream's selftests of a real kernel's tree, built and run in that kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import kbuild
from harness.kselftest import build, catalogue
from tests import test_vng
from tests.marks import real, skip_without_cache_in_guests

pytestmark = real("builds kernels", 900)

update, updated = test_vng.update, test_vng.updated
"""The kernel: a release and what the next one changed in KVM."""
PREFIX = "suites/kselftest/test_kselftest.py::test_kselftest"


def run(arguments: list[str], output: Path) -> tuple[int, dict[str, Any]]:
    """Run snptest; return its exit code and the results by selftest."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments, "--machine", "stock", "--json", str(output)],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert output.exists(), done.stdout[-4000:] + done.stderr[-1000:]
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    results = {line["id"]: line for line in lines if line["event"] == "result"}
    return done.returncode, results


def test_selftests_pass_and_skip_in_a_real_kernel(
    updated: kbuild.KernelBuild, tmp_path: Path
) -> None:
    """Each named selftest has a result; SEV, which stock QEMU has not, is skipped for."""
    skip_without_cache_in_guests()
    names = ["private_mem_kvm_exits_test", "sev_smoke_test", "x86_64/userspace_msr_exit_test"]
    arguments = ["kselftest", *names, "--kernel", updated.name]
    code, results = run(arguments, tmp_path / "results.jsonl")
    assert results.keys() == {f"{PREFIX}[vng-{name.rpartition('/')[2]}]" for name in names}
    private, sev, filters = (results[each] for each in sorted(results))
    assert (private["outcome"], private["suite"]) == ("pass", "kselftest"), private
    assert sev["outcome"] == "skip"
    assert "SEV" in sev["reason"]
    # One that prints KTAP: what it consists of is in its result.
    assert filters["outcome"] == "pass", filters
    assert "ok     user_msr.msr_filter_deny" in filters["output"]
    assert code == 0


def test_the_default_is_there_and_compiles(updated: kbuild.KernelBuild) -> None:
    """What 6.12 has of guest_memfd, private memory and SEV is known by name, and was built."""
    built = build.build(updated)
    known = catalogue.load()
    default = {name for name in built.tests if known.rule(name).default}
    assert default >= {
        "guest_memfd_test",
        "pre_fault_memory_test",
        "private_mem_conversions_test",
        "private_mem_kvm_exits_test",
        "set_memory_region_test",
        "sev_init2_tests",
        "sev_migrate_tests",
        "sev_smoke_test",
    }
    assert len(default) < len(built.tests) / 2
    assert not default & built.failed.keys(), built.failed
    assert all(os.access(built.program(name), os.X_OK) for name in default)
