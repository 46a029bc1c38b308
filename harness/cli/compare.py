# SPDX-License-Identifier: GPL-2.0-only
"""`snptest compare`: kernels, interfaces or stored runs; exit code 1 where B broke something."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness import backends
from harness.cli.kernels import DEFAULT_BASE
from harness.cli.output import ResultsBar, need_writable, to_stdout, write_text
from harness.cli.run import suite_paths
from harness.compare import diff, render, stored
from harness.compare.diff import Side
from harness.compare.live import LiveSide, assure, repeat
from harness.console import make_console
from harness.errors import UsageError
from harness.history import runs
from harness.report.live import animated
from harness.report.outcome import Result
from harness.report.summary import patch_subjects
from harness.target import Target, usual_backend

REPEATS = 2


@dataclass(frozen=True)
class CompareOptions:
    """What the command line says."""

    target: Target
    """Without backend and kernel: A and B decide."""
    a: str
    b: str
    suites: tuple[str, ...] = ()
    backend: str | None = None
    base: str | None = None
    series_a: tuple[str, ...] = ()
    series_b: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    expression: str | None = None
    workers: str = "auto"
    repeat: int = REPEATS
    markdown: Path | None = None

    @property
    def builds(self) -> bool:
        """Whether A and B are built first."""
        return bool(self.base or self.series_a or self.series_b or self.config)


def compare(options: CompareOptions) -> int:
    """Run or read both sides, repeat what differs, show it; the code to exit with."""
    need_writable(options.markdown)
    console = make_console(stderr=to_stdout(options.markdown))
    suite_paths(options.suites)
    if options.builds:
        _build(options, console)
    a, b = _side(options, options.a), _side(options, options.b)
    with _Display(console) as display:
        for live in (a, b):
            if isinstance(live, LiveSide):
                display.begin(live.label)
                live.run(display.result)
        repeat(a, b, options.repeat, display.result, display.begin)
        if options.repeat:
            assure(a, b, display.result, display.begin)
    sides = [each.side if isinstance(each, LiveSide) else each for each in (a, b)]
    if not any(side.results for side in sides):
        raise UsageError("neither side has a result", "; ".join(sides[0].broken + sides[1].broken))
    found = diff.compare(sides[0], sides[1])
    render.show(console, found, sides[0], sides[1], patch_subjects())
    if options.markdown is not None:
        text = render.mail(found, sides[0], sides[1], patch_subjects())
        write_text(options.markdown, text)
    return diff.exit_code(found, sides[0], sides[1])


def _build(options: CompareOptions, console: Console) -> None:
    """Build A and B of the base, each with its series."""
    from harness import kbuild
    from harness.kbuild.kernel import check_name
    from harness.kbuild.progress import ConsoleProgress, sayer

    if options.a == options.b:
        raise UsageError("A and B are built, and need a name each")
    base = options.base or DEFAULT_BASE
    sides = ((options.a, options.series_a), (options.b, options.series_b))
    commits = {}
    with ConsoleProgress(console) as progress:
        for name, series in sides:  # what does not apply is told before minutes of building
            check_name(name)
            steps = kbuild.applied(base, series, progress=progress, say=sayer(console))
            commits[name] = [commit for commit, _ in steps]
    for name, series in sides:
        with ConsoleProgress(console) as progress:
            kernel = kbuild.build(
                name,
                base,
                series,
                fragments=options.config,
                commits=commits[name],
                progress=progress,
                say=sayer(console),
            )
        console.print(Text(f"built {name}: Linux {kernel.release}", style="dim"), soft_wrap=True)


def _side(options: CompareOptions, word: str) -> LiveSide | Side:
    """Find out what A or B is: a stored run, an interface of the emulator, or a built kernel."""
    if (path := stored.find(word)) is not None:
        _no_expression(options, word)
        return stored.load(path, options.suites)
    if options.backend is None and not options.builds and runs.is_name(word):
        return _of_history(options, word)
    emulator = backends.get("emulator")
    if options.backend in (None, emulator.name) and word in emulator.interfaces:
        # Machine, memory and host are the other side's.
        target = Target(emulator.name, interface=word, seed=options.target.seed)
        return _live(options, word, target)
    if options.backend == emulator.name:
        raise UsageError(
            f"the emulator has no interface {word!r}", f"it has {', '.join(emulator.interfaces)}"
        )
    from harness import kbuild

    if "/" in word or Path(word).is_dir():
        raise UsageError(
            f"{word} holds no stored run" if Path(word).exists() else f"{word} does not exist",
            "a stored run is results/TIME, or what `run --json FILE` wrote",
        )
    kernel = kbuild.get(word)
    backend = options.backend or usual_backend(host=bool(options.target.host), boots=True)
    target = replace(options.target, backend=backend, kernel=word)
    return _live(options, f"{word} {kernel.release}", target)


def _live(options: CompareOptions, label: str, target: Target) -> LiveSide:
    words = [*options.suites]
    if options.expression:
        words += ["-k", options.expression]
    return LiveSide(label, target, ("-n", options.workers), tuple(words))


def _of_history(options: CompareOptions, word: str) -> Side:
    """Read a run of the history by its number, or last, last-1."""
    from harness.cli.history import opened

    _no_expression(options, word)
    with opened(None) as history, history.reading():
        found = stored.of_history(history, runs.find(history, word))
    return stored.of_suites(found, options.suites)


def _no_expression(options: CompareOptions, word: str) -> None:
    if options.expression:
        raise UsageError(
            f"{word} is a stored run: -k cannot choose among its tests", "name suites or tests"
        )


class _Display:
    """How far the runs are: a bar on a terminal, a line a run elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = ResultsBar(console)

    def begin(self, what: str) -> None:
        """Name what runs now."""
        if not animated(self._console):
            self._console.print(f"running {what}", soft_wrap=True)
        self._bar.begin(what)

    def result(self, result: Result) -> None:
        """Count a result."""
        self._bar.result(result)

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *details: object) -> None:
        self._bar.stop()
