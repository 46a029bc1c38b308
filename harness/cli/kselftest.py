# SPDX-License-Identifier: GPL-2.0-only
"""`snptest kselftest`: upstream's KVM selftests of a kernel's own tree, as one of the suites."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable
from pathlib import PurePosixPath

from rich.console import Console
from rich.table import Table

from harness.errors import UsageError
from harness.report.outcome import ExitCode
from harness.target import Target

SUITE = "kselftest"
NODE = "suites/kselftest/test_kselftest.py::test_kselftest[{backend}-{name}]"


def suites(target: Target, tests: tuple[str, ...], *, again: bool) -> tuple[str, ...]:
    """Build the selftests; return what `run` is to run: the default ones, or those named."""
    prepare(target.backend, target.kernel, again=again)
    if not tests:
        return (SUITE,)
    names = choose(_listing(target.kernel), tests)  # a pattern may name several
    return tuple(NODE.format(backend=target.backend, name=name) for name in names)


def prepare(backend: str, kernel: str | None, *, again: bool = False) -> None:
    """Build the selftests, showing how far it is; UsageError where they cannot be run at all."""
    from harness import kbuild
    from harness.kbuild.progress import ConsoleProgress
    from harness.kselftest import build

    if backend == "emulator":
        raise UsageError(
            "selftests are programs, and the emulated host runs none",
            "--backend vng --kernel NAME",
        )
    if backend == "ssh":
        raise UsageError(
            "selftests are programs, and they are not copied to hosts yet",
            "--backend vng --kernel NAME",
        )
    _check_kernel(kernel)
    if backend == "vng":
        build.check_visible()
    chosen = kbuild.get(str(kernel))
    if not again and build.find(chosen) is not None:
        return
    console = Console(stderr=True)
    with ConsoleProgress(console) as progress:
        built = build.build(chosen, again=again, progress=progress, say=console.print)
    if built.failed:
        names = ", ".join(built.failed)
        console.print(
            f"{len(built.failed)} of {len(built.tests)} selftests did not compile: {names}",
            markup=False,
            soft_wrap=True,
        )


def show_list(kernel: str | None) -> int:
    """List what a kernel's tree has, what runs by default first."""
    from harness.console import make_console
    from harness.kselftest import catalogue

    known = catalogue.load()
    tests = _listing(kernel)
    table = Table(box=None, pad_edge=False)
    for title in ("test", "folder", "runs"):
        table.add_column(title, no_wrap=True)
    table.add_column("timeout", justify="right", no_wrap=True)
    table.add_column("why")
    for name in sorted(tests, key=lambda name: (not known.rule(name).default, name)):
        rule = known.rule(name)
        folder = str(PurePosixPath(tests[name]).parent)
        runs = "by default" if rule.default else "if named"
        table.add_row(name, folder, runs, f"{rule.timeout:g} s", rule.why)
    make_console().print(table)
    return ExitCode.PASSED


def choose(known: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Return the tests that names or patterns mean; UsageError for one that means none."""
    names = list(known)
    chosen: list[str] = []
    for each in wanted:
        # As its path in the tree, too: x86_64/sev_smoke_test.
        last = PurePosixPath(each).name
        found = fnmatch.filter(names, each) or fnmatch.filter(names, last)
        if not found:
            close = difflib.get_close_matches(last, names, 3)
            hint = f"did you mean {', '.join(close)}?" if close else "--list shows what there is"
            raise UsageError(f"the tree has no selftest {each!r}", hint)
        chosen += [name for name in found if name not in chosen]
    return chosen


def _listing(kernel: str | None) -> dict[str, str]:
    from harness import kbuild
    from harness.kselftest import build

    _check_kernel(kernel)
    return build.listing(kbuild.get(str(kernel)))


def _check_kernel(kernel: str | None) -> None:
    if kernel is None:
        from harness import kbuild

        known = ", ".join(each.name for each in kbuild.list_kernels()) or "none was built yet"
        raise UsageError("--kernel NAME says whose selftests to run", f"known: {known}")
