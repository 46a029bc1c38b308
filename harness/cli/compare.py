# SPDX-License-Identifier: GPL-2.0-only
"""`snptest compare`: two kernels, revisions or stored runs; exit code 1 where B broke something."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from harness import backends
from harness.cli.kernels import DEFAULT_BASE, build_kernel
from harness.cli.output import ResultsBar, write_text
from harness.cli.run import make_console
from harness.compare import diff, render, stored
from harness.compare.diff import Side
from harness.compare.live import Target, repeat
from harness.errors import UsageError
from harness.report.outcome import Result
from harness.report.summary import patch_subjects

REPEATS = 2


@dataclass(frozen=True)
class CompareOptions:
    """What the command line says."""

    a: str
    b: str
    suites: tuple[str, ...] = ()
    backend: str | None = None
    base: str | None = None
    series_a: tuple[str, ...] = ()
    series_b: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    machine: str | None = None
    memory: str | None = None
    host: str | None = None
    expression: str | None = None
    workers: str = "auto"
    seed: int = 0
    repeat: int = REPEATS
    markdown: Path | None = None


def compare(options: CompareOptions) -> int:
    """Run or read both sides, repeat what differs, show it; the code to exit with."""
    if options.base or options.series_a or options.series_b or options.config:
        _build(options)
    a, b = _side(options, options.a), _side(options, options.b)
    to_stdout = options.markdown == Path("-")
    console = make_console(stderr=to_stdout)
    with _Display(console) as display:
        for target in (a, b):
            if isinstance(target, Target):
                display.begin(target.label)
                target.run(display.result)
        display.begin("again, what differs")
        repeat(a, b, options.repeat, display.result)
    sides = [each.side if isinstance(each, Target) else each for each in (a, b)]
    if not any(side.results for side in sides):
        raise UsageError("neither side has a result", "; ".join(sides[0].broken + sides[1].broken))
    found = diff.compare(sides[0], sides[1])
    render.show(console, found, sides[0], sides[1], patch_subjects())
    if options.markdown is not None:
        text = render.mail(found, sides[0], sides[1], patch_subjects())
        if to_stdout:
            sys.stdout.write(text)
        else:
            write_text(options.markdown, text)
    return diff.exit_code(found, sides[0], sides[1])


def _build(options: CompareOptions) -> None:
    """Build A and B of the base, each with its series."""
    from harness.kbuild.cli import BuildOptions

    if options.a == options.b:
        raise UsageError("A and B are built, and need a name each")
    for name, series in ((options.a, options.series_a), (options.b, options.series_b)):
        base = options.base or DEFAULT_BASE
        build_kernel(BuildOptions(name, base, series=series, config=options.config))


def _side(options: CompareOptions, word: str) -> Target | Side:
    """Find out what A or B is: a stored run, a revision on the emulator, or a built kernel."""
    if (path := stored.find(word)) is not None:
        if options.expression:
            raise UsageError(f"{word} is a stored run: -k cannot choose among its tests")
        return stored.load(path, options.suites)
    words = [*options.suites, "-n", options.workers, "--seed", str(options.seed)]
    if options.expression:
        words += ["-k", options.expression]
    emulator = backends.get("emulator")
    if options.backend in (None, emulator.name) and word in emulator.revisions:
        return Target(word, ("--revision", word), tuple(words))
    if options.backend == emulator.name:
        raise UsageError(
            f"the emulator has no revision {word!r}", f"it has {', '.join(emulator.revisions)}"
        )
    from harness import kbuild

    kernel = kbuild.get(word)
    chosen = ["--backend", options.backend or "vng", "--kernel", word]
    for name in ("machine", "memory", "host"):
        value = getattr(options, name)
        if value is not None:
            chosen += [f"--{name}", value]
    label = f"{word} {kernel.release}"
    return Target(label, tuple(chosen), tuple(words))


class _Display:
    """How far the runs are: a bar on a terminal, a line a run elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = ResultsBar(console)

    def begin(self, what: str) -> None:
        """Name what runs now."""
        if not self._console.is_terminal:
            self._console.print(f"running {what}", soft_wrap=True)
        self._bar.begin(what)

    def result(self, result: Result) -> None:
        """Count a result."""
        self._bar.result(result)

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *details: object) -> None:
        self._bar.stop()
