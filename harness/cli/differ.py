# SPDX-License-Identifier: GPL-2.0-only
"""`snptest differ`: the emulator against a real kernel; exit code 1 where they differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from harness import backends
from harness.console import make_console
from harness.differential.compare import Difference, documented
from harness.differential.generate import generate
from harness.differential.operations import Script, load
from harness.differential.session import Lost, Session
from harness.errors import UsageError
from harness.kernel import Kernel
from harness.report import sanitize
from harness.report.live import animated
from harness.splats import find_splats
from harness.target import Target


@dataclass(frozen=True)
class DifferOptions:
    """What the command line says."""

    target: Target
    seed: int = 0
    count: int = 50
    length: int = 50
    shrink: bool = False
    replay: Path | None = None
    save: Path | None = None


def differ(options: DifferOptions) -> int:
    """Compare scripts; show what differs, one of each kind; the code to exit with."""
    scripts = _scripts(options)
    documented()  # a damaged file is told before a kernel is booted
    console = make_console()
    kinds: dict[str, tuple[Script, Difference]] = {}
    found: Counter[str] = Counter()
    known: Counter[str] = Counter()
    lost: list[tuple[Script, str]] = []
    operations = 0
    splats: list[str] = []
    with Session(lambda: _open(options)) as session, _progress(console) as bar:
        task = bar.add_task("scripts", total=len(scripts), bad=0)
        for script in scripts:
            try:
                done = session.check(script)
            except Lost as error:
                lost.append((script, str(error)))
            else:
                operations += done.operations
                known += done.documented
                if done.difference is not None:
                    found[done.difference.kind] += 1
                    kinds.setdefault(done.difference.kind, (script, done.difference))
            bar.update(task, advance=1, bad=sum(found.values()) + len(lost))
        if options.shrink:
            bar.update(task, description="shrinking")
            for kind, (script, difference) in kinds.items():
                small = session.shrink(script, kind)
                again = session.check(small).difference
                kinds[kind] = (small, again or difference)
        splats = [each.head for each in find_splats(session.target.kernel.log())]
    for kind, (script, difference) in kinds.items():
        console.print(
            f"{kind}: in {found[kind]} scripts, first of seed {script.seed}", soft_wrap=True
        )
        console.print(sanitize.text(difference.describe()), soft_wrap=True)
    for script, why in lost:
        text = f"the kernel was lost in the script of seed {script.seed}: {sanitize.line(why)}"
        console.print(text, soft_wrap=True)
    for splat in splats:
        console.print(f"the kernel logged: {splat}", soft_wrap=True)
    if options.save is not None:
        _save(options.save, [*(each for each, _ in kinds.values()), *(each for each, _ in lost)])
    _summary(console, len(scripts), operations, found, known)
    return 1 if found or lost or splats else 0


def _scripts(options: DifferOptions) -> list[Script]:
    if options.replay is not None:
        return [load(options.replay)]
    if options.count < 1 or options.length < 1:
        raise UsageError("--count and --length are at least 1")
    return [
        generate(seed, options.length) for seed in range(options.seed, options.seed + options.count)
    ]


def _open(options: DifferOptions) -> Kernel:
    target = options.target
    kernel = backends.open(replace(target, machine=target.machine or "snp"))
    if kernel.inspector is None:
        kernel.shutdown()
        raise UsageError("the RMP of this kernel can't be looked at", "it needs --machine snp")
    return kernel


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}, {task.fields[bad]} differ"),
        TimeElapsedColumn(),
        console=console,
        disable=not animated(console),
        transient=True,
    )


def _save(folder: Path, scripts: list[Script]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for script in scripts:
            (folder / f"seed-{script.seed}.json").write_text(script.encode())
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error


def _summary(
    console: Console, scripts: int, operations: int, found: Counter[str], known: Counter[str]
) -> None:
    text = f"{scripts} scripts, {operations} operations alike, {sum(found.values())} scripts differ"
    console.print(text, soft_wrap=True)
    for entry in documented():
        if known[entry.id]:
            line = f"  documented, {known[entry.id]} times: {entry.id}: {entry.reason}"
            console.print(line, soft_wrap=True)
