# SPDX-License-Identifier: GPL-2.0-only
"""What `snptest build` and `snptest kernels` print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import kbuild
from harness.errors import UsageError
from harness.kbuild import collect, toolchain
from harness.kbuild.kernel import stale_names
from harness.kbuild.progress import ConsoleProgress, sayer
from harness.report import sanitize
from harness.report.outcome import ExitCode
from harness.report.words import counted


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What `snptest build` was told."""

    name: str
    base: str
    revision: str | None = None
    series: Sequence[str] = ()
    until: int | None = None
    config: Sequence[str] = ()
    every: bool = False
    keep_going: bool = False
    dry_run: bool = False


def build(options: BuildOptions) -> int:
    """Build a kernel, or one after each patch, and say what came out."""
    if options.every:
        if options.dry_run:
            raise UsageError("--dry-run builds nothing", "leave out --every")
        return _build_every(options)
    if options.keep_going:
        raise UsageError("--keep-going says what to do after a patch that fails", "with --every")
    if options.dry_run:
        return _dry_run(options)
    console = Console(stderr=True)
    with ConsoleProgress(console) as progress:
        kernel = kbuild.build(
            options.name,
            options.base,
            options.series,
            revision=options.revision,
            until=options.until,
            fragments=options.config,
            progress=progress,
            say=sayer(console),
        )
    by = toolchain.brief(kernel.compiler)
    print(
        f"{kernel.name}: Linux {kernel.release}, {_content(kernel)}, by {by}, in {kernel.directory}"
    )
    return ExitCode.PASSED


def _dry_run(options: BuildOptions) -> int:
    """List what would be built, patch by patch."""
    console = Console(stderr=True)
    with ConsoleProgress(console) as progress:
        plan = kbuild.plan(
            options.name,
            options.base,
            options.series,
            revision=options.revision,
            until=options.until,
            fragments=options.config,
            progress=progress,
            say=sayer(console),
        )
    print(f"base: {plan.base} ({plan.commit[:12]})")
    if plan.named:
        same = plan.commit.startswith(plan.named)
        print(f"the series names base {plan.named[:12]}{', this one' * same}")
    version = f" ({plan.label})" * bool(plan.label)
    print(f"{counted(len(plan.patches), 'patch', 'patches')}{version}, applied in this order:")
    table = Table("", "patch", "author", box=None)
    for number, patch in enumerate(plan.patches, 1):
        table.add_row(str(number), Text(patch.subject or patch.name), Text(patch.author))
    if plan.patches:
        _show(table)
    return ExitCode.PASSED


def _build_every(options: BuildOptions) -> int:
    """Build after each patch; a line for each as it ends, errors below."""
    console = Console(stderr=True)
    failed = 0
    results = []
    with ConsoleProgress(console) as progress:
        for result in kbuild.build_every(
            options.name,
            options.base,
            options.series,
            revision=options.revision,
            until=options.until,
            fragments=options.config,
            keep_going=options.keep_going,
            progress=progress,
            say=sayer(console),
        ):
            results.append(result)
            failed += result.error is not None
            outcome = "built" if result.error is None else "failed"
            outcome = outcome if result.judged else "not judged, failed"
            line = f"{result.number}: {outcome} in {result.seconds:.0f} s: {result.patch}"
            console.print(Text(line))
    table = Table("", "patch", "result", "s", box=None)
    for result in results:
        outcome = "built" if result.error is None else sanitize.text(result.error)
        table.add_row(
            str(result.number), Text(result.patch), Text(outcome), f"{result.seconds:.0f}"
        )
    _show(table)
    return ExitCode.BROKEN if failed else ExitCode.PASSED


def kernels(as_json: bool) -> int:
    """List what was built."""
    found = kbuild.list_kernels()
    if as_json:
        print(json.dumps([_record(kernel) for kernel in found], indent=2))
        return ExitCode.PASSED
    table = Table(
        *("name", "release", "base", "series", "config", "compiler", "built", "MB"), box=None
    )
    for kernel in found:
        table.add_row(
            kernel.name,
            Text(kernel.release),
            Text(kernel.base),
            _series(kernel),
            "+".join(kernel.fragments),
            Text(toolchain.brief(kernel.compiler)),
            kernel.created[:16].replace("T", " "),
            f"{kernel.size / 1e6:.0f}",
        )
    if table.row_count:
        _show(table)
    else:
        print("no kernel was built yet: snptest build NAME --base linux-source-6.12")
    if stale := stale_names():
        print(f"left by an older snptest, or without files: {', '.join(stale)}")
        print("  hint: build them again, or snptest kernels --collect")
    return ExitCode.PASSED


def collect_kernels(
    names: Sequence[str], keep: int | None, older: float | None, dry_run: bool
) -> int:
    """Remove old kernels and what only they needed; say what that frees."""
    console = Console(stderr=True)
    freed = collect.collect(names, keep=keep, older=older, dry_run=dry_run, say=sayer(console))
    for item in freed:
        print(f"{'would remove' if dry_run else 'removed'} {item.what} ({item.size / 1e6:.0f} MB)")
    total = sum(item.size for item in freed)
    print(f"{total / 1e6:.0f} MB {'would be ' if dry_run else ''}freed; {collect.holds()}")
    return ExitCode.PASSED


def _show(table: Table) -> None:
    """Print a table; into a file or pipe without breaking its lines."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    console.print(table)


def _record(kernel: kbuild.KernelBuild) -> dict[str, object]:
    return {
        "name": kernel.name,
        "release": kernel.release,
        "version": ".".join(map(str, kernel.version)),
        "base": kernel.base,
        "source": kernel.source,
        "series": list(kernel.series),
        "config": list(kernel.fragments),
        "created": kernel.created,
        "bytes": kernel.size,
        "key": kernel.key,
        "tree": kernel.tree,
        "compiler": kernel.compiler,
        "modules": list(kernel.modules),
        "extra_modules": list(kernel.extra_modules),
        "directory": str(kernel.directory),
    }


def _series(kernel: kbuild.KernelBuild) -> str:
    count = len(kernel.series)
    return counted(count, "patch", "patches") if count else ""


def _content(kernel: kbuild.KernelBuild) -> str:
    return kernel.base + (f" + {_series(kernel)}" if kernel.series else "")
