# SPDX-License-Identifier: GPL-2.0-only
"""`snptest run`: suites by name, reports to where they were asked for, an exit code to trust."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from _pytest.mark.expression import Expression
from rich.console import Console
from rich.text import Text

from harness import backends, cpus, places
from harness.backends.base import Backend
from harness.cli import faults, guest_parts, kselftest
from harness.cli.kernels import DEFAULT_BASE, build_kernel
from harness.cli.machine import need_machine, suggest_machine
from harness.cli.output import need_writable, to_stdout, write_text
from harness.console import make_console
from harness.errors import UsageError, UserError
from harness.history import identity, store
from harness.history.record import Recorder
from harness.places import ROOT
from harness.report import junit, ktap, live, sanitize, summary
from harness.report.events import Event
from harness.report.jsonl import JsonLines
from harness.report.outcome import BOOT, exit_code
from harness.report.words import counted
from harness.runner import SILENCE, Run
from harness.splats import known
from harness.target import Target
from harness.vng.accel import slowness
from harness.vng.kinds import STOCK
from harness.vng.machine import check_memory

SUITES = ROOT / "suites"
BUILT = "run"
"""What a kernel is called that `run` builds, unless --kernel says."""

ORDER = ("launch", "psc", "ap_creation", "guest_req", "gmem")
INCOMPLETE = "interrupted: the results are not complete"
NAMED = ("kselftest", guest_parts.SUITE, "host")
"""Suites that run only when named: programs that others wrote need a built kernel, and minutes;
`host` ends the kernel under test in each of its tests."""


@dataclass(frozen=True)
class RunOptions:
    """What the command line says."""

    target: Target = field(default_factory=Target)
    suites: tuple[str, ...] = ()
    base: str | None = None
    series: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    expression: str | None = None
    workers: str = "auto"
    repeat: int = 1
    maxfail: int | None = None
    junit: Path | None = None
    ktap: Path | None = None
    json: Path | None = None
    label: str = ""
    history: bool = True


def run_suites(options: RunOptions) -> int:
    """Run, report, and judge."""
    backend = backends.get(options.target.backend)
    paths = suite_paths(options.suites)
    _check(options, backend, paths)
    target, guest = _readied(options, _have(paths, guest_parts.SUITE))
    options = replace(options, target=target)
    workers = _workers(options.workers, backend)
    backend.check(target)
    if _have(paths, kselftest.SUITE):
        kselftest.prepare(target.backend, target.kernel)
    console = make_console(stderr=to_stdout(options.ktap, options.junit, options.json))
    folder = _results_folder()
    run = Run(
        arguments=_arguments(options, paths, workers),
        folder=folder,
        silence=backend.deadline + backend.open_deadline + SILENCE,
    )
    header = target.header(backend.interfaces) | {
        "guest": ", ".join(guest.values()) if guest else None,
        "workers": workers,
    }
    files = [JsonLines(folder / "results.jsonl")]
    fcntl.flock(files[0].file, fcntl.LOCK_EX)  # free again: nobody writes it any more
    if options.json:
        files.append(JsonLines(options.json))
    live.header(console, header)
    tell_slowness(target.machine, console)
    header |= {"folder": str(folder), "guest": guest} | identity.describe(
        backend=target.backend,
        kernel=target.kernel,
        label=options.label,
        command=sys.argv[1:],
    )
    for file in files:
        file.write("start", header)
    recorder = _recorder(options, folder, console)
    _execute(run, files, console, recorder)
    run.broken += [file.error for file in files if file.error]
    code = _report(options, run, console)
    for file in files:
        file.finish({"exit": int(code), "seconds": round(run.seconds, 3), "broken": run.broken})
    if recorder is not None:
        recorder.end()
    console.print(Text(f"results: {_shown(folder)}", style="dim"), soft_wrap=True)
    return code


def tell_slowness(machine: str | None, console: Console) -> None:
    """Say that all is emulated, where KVM could do it and cannot be used here."""
    if machine == STOCK.name and (slow := slowness()):
        console.print(Text(slow, style="yellow"), soft_wrap=True)


def _check(options: RunOptions, backend: Backend, paths: list[str]) -> None:
    """Raise UsageError for what is wrong with the options, before anything is built."""
    target = options.target
    if target.machine is not None:
        need_machine(target.machine)
    if target.memory is not None:
        check_memory(target.memory)
    backend.chosen(target.interface)
    _check_expression(options.expression)
    known.load()  # a mistake in it is the user's, and told at once
    guest_parts.check(target, _have(paths, guest_parts.SUITE))
    need_writable(options.junit, options.ktap, options.json)


def _have(paths: list[str], suite: str) -> bool:
    return any(path.startswith(f"suites/{suite}") for path in paths)


def _readied(options: RunOptions, runs_guests: bool) -> tuple[Target, dict[str, str] | None]:
    """Build and fetch what the target is to be made of; return it, and what its guests are."""
    target = _built(options)
    if target.machine is None and target.kernel is not None and target.backend == "vng":
        target = replace(target, machine=suggest_machine(target.kernel))
    return guest_parts.prepared(target) if runs_guests else (target, None)


def _built(options: RunOptions) -> Target:
    """Build the kernel that is asked for by its sources; it is known by a name afterwards.

    Where a kernel is to be booted and none is asked for, that is the distribution's, unmodified.
    """
    target = options.target
    asked = options.base or options.series or options.config
    if not asked and (target.backend != "vng" or target.kernel is not None):
        return target
    if target.backend not in ("vng", "ssh"):
        raise UsageError(
            f"backend {target.backend} boots no kernel that was built here", "--backend vng"
        )
    from harness.kbuild.cli import BuildOptions  # what only those need who build

    build = BuildOptions(
        name=target.kernel or BUILT,
        base=options.base or DEFAULT_BASE,
        series=options.series,
        config=options.config,
    )
    build_kernel(build)
    return replace(target, kernel=build.name)


def _recorder(options: RunOptions, folder: Path, console: Console) -> Recorder | None:
    """Return what keeps this run in the history, if it is to be kept."""
    path = store.default_path() if options.history else None
    if path is None:
        return None

    def say(text: str) -> None:
        console.print(Text(f"snptest: {text}", style="bold yellow"), soft_wrap=True)

    return Recorder(path, folder / "results.jsonl", say)


def _execute(run: Run, files: list[JsonLines], console: Console, recorder: Recorder | None) -> None:
    display = live.display(console)

    def listen(event: Event) -> None:
        if recorder is not None and event.kind not in ("start", "finish"):
            recorder.tick()  # the first time when there is something to run
        if event.result is not None:
            for file in files:
                file.result(event.result)
            display.result(event.result)
        match event.kind:
            case "about":
                for file in files:
                    file.write("about", event.fields)
            case "collected":
                display.collected(event.count("count"))
            case "begin":
                display.begin(event.text("id"))

    try:
        run.execute(listen)
    finally:
        display.close()


def _report(options: RunOptions, run: Run, console: Console) -> int:
    if not run.results and not run.collected and not run.broken and not run.interrupted:
        raise UsageError(
            "no test matches", f"-k {options.expression}" if options.expression else ""
        )
    target = options.target
    properties = {"backend": target.backend, "seed": str(target.seed)}
    if target.kernel:
        properties["kernel"] = target.kernel
    try:
        if options.junit:
            write_text(options.junit, junit.render(run.results, properties))
        if options.ktap:
            write_text(options.ktap, ktap.render(run.results))
    except UserError as error:
        run.broken.append(f"a report is missing: {error.message}")
    summary.show(console, run.results, run.seconds, target.words(short=True))
    for reason in run.broken:
        console.print(Text(f"snptest: {reason}", style="bold yellow"), soft_wrap=True)
    if run.broken and not run.results:
        log = sanitize.text(run.log.read_bytes()).splitlines()
        for line in log[-15:]:
            console.print(Text(f"  {line}"), soft_wrap=True)
    if run.interrupted:
        console.print(Text(INCOMPLETE, style="bold yellow"))
        run.broken.append(INCOMPLETE)
        return faults.INTERRUPTED
    missing = run.collected - sum(each.suite != BOOT for each in run.results)
    bad = sum(each.outcome.bad for each in run.results)
    if missing > 0 and options.maxfail is not None and bad >= options.maxfail:
        said = f"stopped by --maxfail {options.maxfail}: {counted(missing, 'test')} not run"
        console.print(Text(said, style="yellow"))
    elif missing > 0:
        reason = f"{counted(missing, 'test')} {'has' if missing == 1 else 'have'} no result"
        console.print(Text(f"snptest: {reason}", style="bold yellow"))
        run.broken.append(reason)
    return exit_code(run.results, broken=bool(run.broken))


def suite_paths(names: tuple[str, ...]) -> list[str]:
    """Return what pytest is given for suites and tests; UsageError where there is no such."""
    known = [name for name in (*ORDER, *NAMED) if (SUITES / name).is_dir()]
    if not names:
        if not known:
            raise UsageError("this tree has no suites yet")
        return [f"suites/{name}" for name in known if name in ORDER]
    paths = []
    for name in names:
        if (ROOT / name.partition("::")[0]).exists() and name.startswith("suites/"):
            paths.append(name)
        elif name.rstrip("/") in known:
            paths.append(f"suites/{name.rstrip('/')}")
        else:
            raise UsageError(f"no suite is called {name!r}", f"there are {', '.join(known)}")
    return paths


def _check_expression(text: str | None) -> None:
    """Raise UsageError for a -k that pytest would fail of, in each of its processes."""
    if text is None:
        return
    try:
        text.encode()
        Expression.compile(text)
    except UnicodeEncodeError:
        raise UsageError(f"-k {sanitize.line(text)} is not UTF-8") from None
    except SyntaxError as error:
        raise UsageError(
            f"-k {sanitize.line(text)} is no expression: {error.msg}",
            "names, or parts of them, with and, or, not and parentheses: -k 'psc and not hole'",
        ) from None


def _workers(text: str, backend: Backend) -> int:
    if text == "auto":
        cores = cpus.usable()
        return min(cores, backend.side_by_side or cores)
    if not text.isascii() or not text.isdigit() or int(text) > 1024:
        raise UsageError(f"-n takes a number or auto, not {text!r}")
    if int(text) > 1 and backend.side_by_side == 1:
        raise UsageError(f"backend {backend.name} drives one kernel at a time", "-n 1")
    return int(text)


def _arguments(options: RunOptions, paths: list[str], workers: int) -> list[str]:
    arguments = [
        *paths,
        *("-p", "no:cacheprovider"),
        *options.target.words(),
        f"--repeat={options.repeat}",
        "--continue-on-collection-errors",
        "--tb=short",
        "--color=no",
    ]
    # One worker is still a process of its own: what dies there is told by the one that lives.
    if workers:
        arguments += [f"--numprocesses={workers}", "--dist=loadscope", "--max-worker-restart=100"]
    if options.maxfail is not None:
        arguments.append(f"--maxfail={options.maxfail}")
    if options.expression is not None:
        # In one word, or an expression that begins with a hyphen would be an option.
        arguments.append(f"-k{options.expression}")
    return arguments


def _results_folder() -> Path:
    base = places.results() or ROOT / "results"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{number}" for number in range(1, 100))):
        folder = base / f"{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(
                f"cannot make {folder}: {error.strerror}",
                "SNPTEST_RESULTS names another folder for results",
            ) from error
        return folder
    raise UsageError(f"too many runs began in one second in {base}")


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
