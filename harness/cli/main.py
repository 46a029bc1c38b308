# SPDX-License-Identifier: GPL-2.0-only
"""The commands and their options, stable: scripts and CI rely on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import history as history_commands
from harness.cli import machine as machine_commands
from harness.cli import options
from harness.cli import report as report_command
from harness.cli.kernels import DEFAULT_BASE, complete_base, complete_config, complete_kernel
from harness.errors import UsageError, UserError
from harness.report.outcome import ExitCode

app = typer.Typer(
    name="snptest",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Validate SEV-SNP patches for KVM: does a revision work; if not, which patch broke it?

\b
Examples:
  snptest run                         all suites on the emulated SNP host, no hardware needed
  snptest run psc gmem --revision v12
  snptest run launch -k id_block      the tests of a suite that match
  snptest build mine --base linux-source-6.12 --series ~/patches
  snptest run gmem --backend vng --kernel mine
  snptest boot mine -- uname -a       one command in that kernel
  snptest kselftest --kernel mine     upstream's own KVM selftests, of the same tree
  snptest compare old new gmem        what broke, what was fixed, what is flaky
  snptest bisect --series ~/patches gmem   which patch broke it?
  snptest history show last           what is new in the last run
  snptest report -o public            HTML pages of the newest runs, and an overview
  snptest nightly --dry-run           unattended runs over several hosts
  snptest machine build               QEMU with SEV-SNP, to run a kernel's SNP code on
  snptest doctor                      what this machine lacks, and how to get it

\b
Exit codes: 0 all passed, 1 a test failed or crashed, 2 usage,
            3 the harness, a build or a boot failed
""",
)

RUN_HELP = """Run test suites (all, unless named) against a kernel.

\b
SUITE is launch, psc, ap_creation, guest_req or gmem, or a test's id as a report prints it.

\b
Examples:
  snptest run                              five suites, emulator, all revisions
  snptest run psc -k 2m --revision merged  some tests, one revision
  snptest run --backend local              this machine's own /dev/kvm and /dev/sev
  snptest run gmem psc --kernel mine       in a kernel that was built, booted by virtme-ng
  snptest run --machine snp                in the distribution's kernel, built first, with SNP
  snptest run gmem --series ~/patches      built first, on linux-source-6.12
  snptest run --host milan1                on a host of ci/hosts.toml, in the kernel it runs
  snptest run --host milan1 --kernel mine  in one that was built, booted there first
  snptest run gmem -k hole --repeat 50     is it flaky?
  snptest run --junit out/junit.xml        for CI
  snptest run psc --ktap - | tee psc.ktap  KTAP to stdout, everything else to stderr
"""


@app.command(help=RUN_HELP)
def run(
    suites: Annotated[list[str] | None, typer.Argument(metavar="SUITE")] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="emulator (ssh where a host is named, vng where a kernel or a machine is), "
            "local, vng, ssh",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="only this one: v12, merged or 7.3")
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="kernel made by `snptest build` (vng, ssh)",
            autocompletion=complete_kernel,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="build a kernel of these sources first, as `snptest build` does, and run in it",
            autocompletion=complete_base,
        ),
    ] = None,
    series: Annotated[
        list[str] | None, typer.Option(metavar="SERIES", help="with the patches of these")
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="with this configuration", autocompletion=complete_config
        ),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="stock, or snp: the default where it was built and the kernel has SNP (vng)",
            autocompletion=machine_commands.complete_machine,
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="memory of that machine: 1G, the default")
    ] = None,
    host: options.Host = None,
    expression: options.Expression = None,
    workers: options.Workers = "auto",
    seed: options.Seed = 0,
    repeat: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=10000, help="runs of each test, in the same kernel"),
    ] = 1,
    junit: options.Junit = None,
    ktap: options.Ktap = None,
    json: options.JsonLines = None,
    label: Annotated[
        str, typer.Option(metavar="TEXT", help="what the history calls runs of this kind")
    ] = "",
    history: Annotated[
        bool, typer.Option("--history/--no-history", help="keep the run in the history")
    ] = True,
) -> None:
    """Run test suites."""
    from harness.cli.run import RunOptions, run_suites

    boots = kernel or base or series or config or machine
    wanted = RunOptions(
        suites=tuple(suites or ()),
        backend=backend or ("ssh" if host else "vng" if boots else "emulator"),
        revision=revision,
        kernel=kernel,
        base=base,
        series=tuple(series or ()),
        config=tuple(config or ()),
        machine=machine,
        memory=memory,
        host=host,
        expression=expression,
        workers=workers,
        seed=seed,
        repeat=repeat,
        junit=junit,
        ktap=ktap,
        json=json,
        label=label,
        history=history,
    )
    raise typer.Exit(run_suites(wanted))


KSELFTEST_HELP = """Run upstream's KVM selftests, of the tree that a kernel was built from, in it.

\b
Those that touch guest_memfd, private memory, SEV and SNP run, unless TESTs are named.

\b
Examples:
  snptest kselftest --kernel mine
  snptest kselftest --kernel mine debug_regs 'vmx_*'
  snptest kselftest --kernel mine --list
  snptest run gmem kselftest --backend vng --kernel mine    with other suites, one report
"""


@app.command(help=KSELFTEST_HELP)
def kselftest(
    tests: Annotated[
        list[str] | None, typer.Argument(metavar="TEST", help="name, or pattern with * and ?")
    ] = None,
    kernel: Annotated[
        str | None, typer.Option(metavar="NAME", help="kernel made by `snptest build`")
    ] = None,
    backend: Annotated[str, typer.Option(metavar="NAME", help="vng or local")] = "vng",
    machine: options.MachineAsRun = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="of the machine: 1G, the default (vng)")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="list the tree's selftests")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="compile them again")] = False,
    junit: options.Junit = None,
    ktap: options.Ktap = None,
    json: options.JsonLines = None,
) -> None:
    """Run upstream's selftests."""
    from harness.cli import kselftest as command
    from harness.cli.run import RunOptions

    if show:
        raise typer.Exit(command.show_list(kernel))
    wanted = RunOptions(
        backend=backend,
        kernel=kernel,
        machine=machine,
        memory=memory,
        junit=junit,
        ktap=ktap,
        json=json,
    )
    raise typer.Exit(command.kselftest(wanted, tuple(tests or ()), again=rebuild))


DIFFER_HELP = """Compare the emulator with a real kernel on the SNP machine, operation by operation.

Random scripts of launch commands, page state changes, guest_memfd operations, guest requests,
AP creation, RMP instructions and vCPU runs, each from its seed, run on both.  Every errno,
firmware error, exit and RMP entry is compared.  Where they part, one of the two is wrong,
unless harness/differential/differences.toml says why.

\b
Examples:
  snptest differ --kernel mine                       50 scripts of 50 operations
  snptest differ --kernel mine --seed 1000 --count 500 --length 100
  snptest differ --kernel mine --shrink --save out   the shortest scripts that show it
  snptest differ --kernel mine --replay out/seed-7.json

\b
Exit codes: 0 nothing differs that is not documented, 1 something does, or the kernel
            died or logged a splat, 2 usage, 3 the kernel did not boot
"""


@app.command(help=DIFFER_HELP)
def differ(
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="made by `snptest build`", autocompletion=complete_kernel
        ),
    ] = None,
    machine: options.MachineAsRun = None,
    seed: Annotated[int, typer.Option(metavar="N", help="seed of the first script")] = 0,
    count: Annotated[int, typer.Option(metavar="N", help="scripts")] = 50,
    length: Annotated[int, typer.Option(metavar="N", help="operations of each")] = 50,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="make scripts that differ as short as they get")
    ] = False,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="run a script that was saved instead")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="keep scripts that differ there")
    ] = None,
) -> None:
    """Compare the emulator with a real kernel."""
    from harness.cli import differ as command

    wanted = command.DifferOptions(seed, count, length, kernel, machine, shrink, replay, save)
    raise typer.Exit(command.differ(wanted))


COMPARE_HELP = """Compare two revisions: what is broken, fixed, flaky, skipped, slower.

A and B are kernels that `snptest build` made, the emulator (v12, merged, 7.3), or stored runs
(results/TIME, or a file of `run --json`).  What differs runs again, so that flaky tests are
told from changed ones.  With --base or --series-a or --series-b, A and B are built first.

\b
Examples:
  snptest compare old new                       all suites in both kernels
  snptest compare old new gmem -k hole          some tests
  snptest compare v12 merged psc                two revisions of the interfaces
  snptest compare results/20261123-081337 new   a run of the past against a kernel
  snptest compare v1 v2 --base ~/linux@v6.16 --series-a v1.mbox --series-b v2.mbox
  snptest compare old new --markdown reply.txt  for a mail, 72 columns; - is stdout

\b
"Slower" passes in both, and takes 1.5 times as long and half a second more.
Exit codes: 0 nothing broken, 1 B fails what A does not, 2 usage,
            3 a side, or a test that differs, could not be judged
"""


@app.command(help=COMPARE_HELP)
def compare(
    a: Annotated[str, typer.Argument(metavar="A", autocompletion=complete_kernel)],
    b: Annotated[str, typer.Argument(metavar="B", autocompletion=complete_kernel)],
    suites: Annotated[list[str] | None, typer.Argument(metavar="SUITE")] = None,
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="of kernels: vng; emulator for v12, merged, 7.3"),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="BASE", help="build A and B of these first", autocompletion=complete_base
        ),
    ] = None,
    series_a: Annotated[
        list[str] | None, typer.Option(metavar="SERIES", help="A has the patches of these")
    ] = None,
    series_b: Annotated[
        list[str] | None, typer.Option(metavar="SERIES", help="B has the patches of these")
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="of both builds", autocompletion=complete_config),
    ] = None,
    machine: options.MachineAsRun = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="of that machine: 1G, the default")
    ] = None,
    host: options.Host = None,
    expression: options.Expression = None,
    workers: options.Workers = "auto",
    seed: options.Seed = 0,
    repeat: Annotated[
        int, typer.Option(metavar="N", min=0, max=50, help="runs more of what differs")
    ] = 2,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write plain text for a mail; - is stdout")
    ] = None,
) -> None:
    """Compare two revisions."""
    from harness.cli import compare as command

    wanted = command.CompareOptions(
        a=a,
        b=b,
        suites=tuple(suites or ()),
        backend=backend,
        base=base,
        series_a=tuple(series_a or ()),
        series_b=tuple(series_b or ()),
        config=tuple(config or ()),
        machine=machine,
        memory=memory,
        host=host,
        expression=expression,
        workers=workers,
        seed=seed,
        repeat=repeat,
        markdown=markdown,
    )
    raise typer.Exit(command.compare(wanted))


BISECT_HELP = """Find the patch of a series, or the commit of a range, that broke a test.

TESTs are suites, or ids as reports print them.  A revision is bad if one of them fails or
crashes in it; what fails at the good end too does not count.  What does not build or boot is
skipped.  The first failure is followed: from then on only those tests run, several times in
each boot, so that a flaky test does not mislead.  Meanwhile the kernels that may be next are
built.  The ends are taken on trust, and run only where the answer hangs on them.

\b
A series:  --series SERIES on --base BASE, as for `snptest build`; --good and --bad are
           numbers of patches: 0, the base, and the last one, unless given.
A range:   --base REPOSITORY (here, unless given); --good and --bad (HEAD) are revisions.

\b
Examples:
  snptest bisect --series ~/patches gmem
  snptest bisect --base ~/linux@v6.16 --series v1.mbox --good 3 --bad 11 launch psc -k hole
  snptest bisect --base ~/linux --good v6.16 --bad topic gmem
  snptest bisect --base ~/linux --good v6.16 suites/gmem/test_binding.py::test_every_page_of_a_hole
  snptest bisect --series ~/patches gmem --runs 20      a test that seldom fails

\b
Killed or interrupted, the same command goes on where it was; --restart begins anew.
Exit codes: 0 found, 1 nothing fails at the bad end that passes at the good one, 2 usage,
            3 only revisions that cannot be judged are left, or nothing could be run
"""
RUNS_HELP = "clean runs that make a revision good, as long as no bad one has passed"


@app.command(help=BISECT_HELP)
def bisect(
    tests: Annotated[list[str], typer.Argument(metavar="TEST")],
    good: Annotated[
        str | None, typer.Option(metavar="A", help="revision, or number of a patch (0)")
    ] = None,
    bad: Annotated[
        str | None, typer.Option(metavar="B", help="revision (HEAD), or number of a patch (last)")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="what the series applies to, or a git repository",
            autocompletion=complete_base,
        ),
    ] = None,
    series: Annotated[
        list[str] | None, typer.Option(metavar="SERIES", help="the patches; again: more on top")
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="of all builds", autocompletion=complete_config),
    ] = None,
    backend: Annotated[str, typer.Option(metavar="NAME", help="vng or ssh")] = "vng",
    machine: options.MachineAsRun = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="of that machine: 1G, the default")
    ] = None,
    host: options.Host = None,
    expression: options.Expression = None,
    workers: options.Workers = "auto",
    seed: options.Seed = 0,
    runs: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help=RUNS_HELP)] = 1,
    restart: Annotated[
        bool, typer.Option("--restart", help="forget what was found for this question before")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the answer and its evidence")
    ] = None,
) -> None:
    """Find the patch or commit that broke a test."""
    from harness.cli import bisect as command

    wanted = command.BisectOptions(
        tests=tuple(tests),
        good=good,
        bad=bad,
        base=base,
        series=tuple(series or ()),
        config=tuple(config or ()),
        backend=backend,
        machine=machine,
        memory=memory,
        host=host,
        expression=expression,
        workers=workers,
        seed=seed,
        runs=runs,
        restart=restart,
        json=json,
    )
    raise typer.Exit(command.bisect(wanted))


BISECT_STEP_HELP = """Judge the kernel sources here, for `git bisect run`.

The work tree is built as it is, --series (a fix that it needs, say) on top, and TESTs are run.

\b
Examples:
  git bisect start topic v6.16
  git bisect run snptest bisect-step gmem
  git bisect run snptest bisect-step gmem -k hole --runs 20 --series ~/build-fix.patch
  git bisect run snptest bisect-step psc --backend emulator    no kernel: snptest itself

\b
Exit codes: 0 good, 1 bad, 125 it does not build or boot, or the harness failed,
            128 and above end the bisection: usage, ^C, an error of snptest
"""


@app.command("bisect-step", help=BISECT_STEP_HELP)
def bisect_step(
    tests: Annotated[list[str], typer.Argument(metavar="TEST")],
    base: Annotated[
        str | None, typer.Option(metavar="DIR", help="another work tree than this directory")
    ] = None,
    series: Annotated[
        list[str] | None, typer.Option(metavar="SERIES", help="patches on top of each revision")
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="of the build", autocompletion=complete_config),
    ] = None,
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="vng, ssh; emulator and local build nothing")
    ] = "vng",
    machine: options.MachineAsRun = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="of that machine: 1G, the default")
    ] = None,
    host: options.Host = None,
    expression: options.Expression = None,
    workers: options.Workers = "auto",
    seed: options.Seed = 0,
    runs: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="runs of each test, in one boot")
    ] = 1,
) -> None:
    """Judge the sources here."""
    from harness.cli import bisect as command

    wanted = command.BisectOptions(
        tests=tuple(tests),
        base=base,
        series=tuple(series or ()),
        config=tuple(config or ()),
        backend=backend,
        machine=machine,
        memory=memory,
        host=host,
        expression=expression,
        workers=workers,
        seed=seed,
        runs=runs,
    )
    raise typer.Exit(command.step(wanted))


NIGHTLY_HELP = """Run a whole night unattended: revisions times places times suites.

FILE says what (ci/nightly.toml, which explains every key).  Each host works through its own
jobs, all at once; kernels are built meanwhile.  A job that a host is lost with goes to its
equals, and a host that is lost twice is left alone.  What fails runs again; in the end every
job is held against the nights before it in the history: new failures, those that still fail,
flaky ones, known issues, fixed ones.

\b
Examples:
  snptest nightly --dry-run                what would run, and where
  snptest nightly ~/farm.toml --markdown night.md --json night.json
  snptest nightly --only gmem --only launch
  snptest history test NAME                one test, night after night
  systemctl enable --now snptest-nightly.timer     the units are in ci/systemd

\b
Killed at any moment, the same command goes on with the night; --restart begins a new one.
Exit codes: 0 nothing fails but what is known or flaky, 1 something does, 2 usage,
            3 jobs without an answer: a build, a boot or a host failed
"""


@app.command(help=NIGHTLY_HELP)
def nightly(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="the schedule (ci/nightly.toml)")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="only jobs of this revision, place or suite; again: or"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the jobs, run none")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="begin a new night, whatever was done")
    ] = False,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write what is printed, as Markdown")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="write it as JSON")] = None,
) -> None:
    """Run a whole night."""
    from harness.cli import nightly as command

    wanted = command.NightlyOptions(
        file=file or command.FILE,
        only=tuple(only or ()),
        dry_run=dry_run,
        restart=restart,
        markdown=markdown,
        json=json,
    )
    raise typer.Exit(command.nightly(wanted))


@app.command()
def check(
    quick: Annotated[
        bool, typer.Option("--quick", help="leave out what builds or boots kernels")
    ] = False,
) -> None:
    """Pass the project's own tests (lint, types, harness)."""
    from harness.cli.check import check as run_checks

    raise typer.Exit(run_checks(quick=quick))


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="write the figures")] = None,
) -> None:
    """Measure performance, as ratios, against its bars."""
    from harness.cli.bench import bench as run_benchmarks

    raise typer.Exit(run_benchmarks(tuple(names or ()), json))


DOCTOR_HELP = """Tell what this machine, or a host, has and lacks, and how to get it.

With --host, only why SNP guests do or do not run there: firmware settings, IOMMU, kernel,
module parameters, PSP firmware, permissions.  The first line that is not ok comes first in
the kernel's own order, too: put that right and look again.  Nothing is changed or installed.

\b
Examples:
  snptest doctor                   this machine: tools, kernels, space, SNP
  snptest doctor --host milan1     a host of ci/hosts.toml, or USER@ADDRESS[:PORT]

\b
Exit codes: 0 ready; 2 usage; 3 the emulator cannot run here, SNP guests not on the host,
            or no connection to it
"""


@app.command(help=DOCTOR_HELP)
def doctor(host: options.Host = None) -> None:
    """Tell what there is."""
    from harness.doctor import show

    raise typer.Exit(show(host))


BUILD_HELP = """Build a kernel: a base, your series on top, and a small configuration.

\b
NAME is what `run --kernel` will call it.
BASE is  linux-source-6.12             Debian's source package, the newest
         linux-source-6.12=6.12.107    a point release of it
         linux-source-7.x              the newest 7 that Debian has
         ~/linux                       a source directory as it is, edits and all
         ~/linux@v6.16                 a revision of a git repository (or --rev v6.16)
         https://HOST/linux.git@v6.16  the same, fetched
         linux-6.16.tar.xz             a tarball, as kernel.org has them
SERIES is a folder of patches, a quilt series, an mbox, a maildir, a patch,
         REPOSITORY:A..B (A..B alone: of the base's), or a message id of lore.kernel.org.

\b
Examples:
  snptest build mine --base linux-source-6.12 --series ~/patches
  snptest build mine --base ~/linux               edit, build, run; seconds each time
  snptest build mine --base ~/linux@v6.16 --series v6.16..topic
  snptest build v12 --base ~/linux@kvm/next --series 20240329225835.400662-1-michael.roth@amd.com
  snptest build mine --series ~/patches --every   does it build after each patch?
  snptest build slow --base ~/linux --config debug   lockdep, KASAN, KVM's own assertions
"""


@app.command(help=BUILD_HELP)
def build(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_kernel)],
    base: Annotated[
        str,
        typer.Option(metavar="BASE", help="sources to build on", autocompletion=complete_base),
    ] = DEFAULT_BASE,
    rev: Annotated[
        str | None,
        typer.Option(metavar="REVISION", help="branch, tag or commit, where BASE is git's"),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(metavar="SERIES", help="patches to apply; again: more of them on top"),
    ] = None,
    until: Annotated[
        int | None, typer.Option(metavar="N", help="apply the first N patches only")
    ] = None,
    every: Annotated[
        bool, typer.Option("--every", help="build after each patch in turn; 3 if one fails")
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="with --every: go on after one that fails")
    ] = False,
    config: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="configuration on top of base: debug, selftest, or a file of CONFIG_ lines",
            autocompletion=complete_config,
        ),
    ] = None,
) -> None:
    """Build a kernel."""
    from harness.cli.kernels import build_kernel
    from harness.kbuild.cli import BuildOptions

    wanted = BuildOptions(
        name=name,
        base=base,
        revision=rev,
        series=tuple(series or ()),
        until=until,
        config=tuple(config or ()),
        every=every,
        keep_going=keep_going,
    )
    raise typer.Exit(build_kernel(wanted))


BOOT_HELP = """Boot a kernel that `snptest build` made, for one command or for a look around.

The root file system is this machine's, read-only; /tmp, /var/tmp and /run are the guest's
own.  KVM's modules are loaded.  What the command prints and its exit status are passed on; the
console is kept apart, in a file.

\b
Examples:
  snptest boot mine -- uname -a
  snptest boot mine -p kvm_amd.sev_snp=0 -- dmesg
  snptest boot mine --machine snp -- dmesg      on the machine of `snptest machine build`
  snptest boot mine                     a root shell on this terminal

\b
Exit codes: the command's; 2 usage, 3 where the kernel died or the command did not end.
"""


@app.command(help=BOOT_HELP)
def boot(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_kernel)],
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- CMD...]")] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="stock, or snp: the default where it was built and the kernel has SNP",
            autocompletion=machine_commands.complete_machine,
        ),
    ] = None,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="of the machine: 2G")] = "1G",
    cpus: Annotated[int, typer.Option(metavar="N", help="of the machine", min=1, max=64)] = 2,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="P", help="for the kernel's command line"),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="that the command may take, boot included")
    ] = 3600.0,
) -> None:
    """Boot a kernel."""
    from harness.cli import boot as command_boot

    parameters = tuple(parameter or ())
    raise typer.Exit(
        command_boot.boot(name, command or [], machine, memory, cpus, parameters, timeout)
    )


KERNELS_HELP = """List the kernels that `snptest build` has made, or remove old ones.

\b
Examples:
  snptest kernels                          name, release, base, series, config, date, size
  snptest kernels --collect                remove what no name refers to
  snptest kernels --collect mine old       these two, and what only they needed
  snptest kernels --collect --keep 3       all but the newest three
  snptest kernels --collect --older 14 --dry-run   what two weeks would free

\b
A kernel that is booted just now stays.  Objects and sources are kept as long as a kernel
of the same configuration and version is: without them the next build takes minutes.
"""


@app.command(help=KERNELS_HELP)
def kernels(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="kernels to collect", autocompletion=complete_kernel),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="list as JSON, with all details")] = False,
    collect: Annotated[
        bool, typer.Option("--collect", help="remove NAMEs and what nothing refers to")
    ] = False,
    keep: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="collect all but the newest N")
    ] = None,
    older: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="collect those built before that")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only say what would be removed")
    ] = False,
) -> None:
    """List kernels, or remove some."""
    from harness.cli.kernels import collect_kernels, list_kernels

    if collect:
        raise typer.Exit(collect_kernels(tuple(names or ()), keep, older, dry_run))
    if names or keep is not None or older is not None or dry_run:
        raise UsageError("NAME, --keep, --older and --dry-run are for --collect")
    raise typer.Exit(list_kernels(json))


KNOWN_HELP = """List known issues: what is wrong already, and where each entry counts.

A failure that an entry explains is reported as xfail, with the entry's id, reason and link.
Entries live in kernels/known-issues.toml, which says how to write one.

\b
Examples:
  snptest known-issues
  snptest known-issues my.toml     check and list another file
"""


@app.command("known-issues", help=KNOWN_HELP)
def known_issues(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="instead of kernels/known-issues.toml")
    ] = None,
) -> None:
    """List known issues."""
    from harness.cli.known import show

    raise typer.Exit(show(file))


app.add_typer(machine_commands.app, name="machine")
app.add_typer(history_commands.app, name="history")
app.command("report", help=report_command.HELP)(report_command.report)


def main() -> int:
    """Run a command; return its exit code."""
    if sys.argv[1:2] == ["bisect-step"]:
        from harness.cli.bisect import guarded

        return guarded(_main)
    return _main()


def _main() -> int:
    """Do so; user errors are one line and a hint."""
    try:
        app(prog_name="snptest")
    except UserError as error:
        print(f"snptest: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.BROKEN
    except KeyboardInterrupt:
        return 130
    return ExitCode.PASSED
