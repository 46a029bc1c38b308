# SPDX-License-Identifier: GPL-2.0-only
"""Dying kernels: told apart from evidence, and in a campaign that kills a real one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness import kbuild
from harness.kbuild import cache
from harness.vng.autopsy import CpuState, Evidence, Kind, judge
from harness.vng.scene import Symbols
from tests import test_vng
from tests.marks import real_test, skip_without_cache_in_guests
from tests.mutants.mutant import ROOT
from tests.runs import run

CAMPAIGN = Path(__file__).parent / "data/campaign/deaths.py"
RUN_TIMEOUT = 1500.0

update = test_vng.update

KERNEL = 0xFFFFFFFF81000000
IDLE = CpuState(rip=KERNEL, interrupts=True, halted=True, user=False)
PANIC = "[    6.04] Kernel panic - not syncing: "


def spins(*, interrupts: bool, rip: int = KERNEL, user: bool = False) -> CpuState:
    return CpuState(rip=rip, interrupts=interrupts, halted=False, user=user)


def samples(*cpus: CpuState) -> tuple[tuple[CpuState, ...], ...]:
    return (cpus,) * 5


RUNNING: dict[str, Any] = {"console": "", "monitor_answers": True}
GONE: dict[str, Any] = {"exit_status": 0, "shutdown_reason": "guest-reset"}


@pytest.mark.parametrize(
    ("kind", "summary", "evidence"),
    [
        (Kind.PANIC, "sysrq triggered crash", GONE | {"console": PANIC + "sysrq triggered crash"}),
        # A panic ends in whatever resets the machine, a triple fault if need be.
        (Kind.PANIC, "VFS: no", GONE | {"console": PANIC + "VFS: no", "triple_fault": True}),
        (
            Kind.OOPS,
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            GONE
            | {
                "console": "[    1.0] BUG: kernel NULL pointer dereference, address: "
                "0000000000000008\n[    1.1] Oops: Oops: 0002 [#1] SMP\n"
                + PANIC
                + "Fatal exception"
            },
        ),
        (
            Kind.SOFT_LOCKUP,
            "watchdog: BUG: soft lockup - CPU#0 stuck for 6s! [python3:42]",
            GONE
            | {
                "console": "[    9.0] watchdog: BUG: soft lockup - CPU#0 stuck for 6s! "
                "[python3:42]\n" + PANIC + "softlockup: hung tasks"
            },
        ),
        (
            Kind.HUNG_TASK,
            "INFO: task python3:43 blocked for more than 5 seconds.",
            GONE
            | {
                "console": "[   12.1] INFO: task python3:43 blocked for more than 5 seconds.\n"
                + PANIC
                + "hung_task: blocked tasks"
            },
        ),
        (
            Kind.RCU_STALL,
            "rcu: INFO: rcu_sched self-detected stall on CPU",
            RUNNING
            | {
                "console": "[   27.1] rcu: INFO: rcu_sched self-detected stall on CPU\n",
                "samples": samples(spins(interrupts=True), IDLE),
            },
        ),
        (
            Kind.HARD_LOCKUP,
            "watchdog: Watchdog detected hard LOCKUP on cpu 1",
            RUNNING
            | {
                "console": "[   27.1] watchdog: Watchdog detected hard LOCKUP on cpu 1\n",
                "samples": samples(IDLE, spins(interrupts=False)),
            },
        ),
        (Kind.TRIPLE_FAULT, "a CPU faulted", GONE | {"console": "", "triple_fault": True}),
        (Kind.RESET, "without a word", GONE | {"console": ""}),
        (
            Kind.POWER_OFF,
            "switched the machine off",
            {"console": "", "exit_status": 0, "shutdown_reason": "guest-shutdown"},
        ),
        (Kind.QEMU_DIED, "killed by signal 9", {"console": "", "exit_status": 137}),
        (Kind.QEMU_DIED, "status 1", {"console": "", "exit_status": 1}),
        (Kind.QEMU_STOPPED, "stopped", {"console": "", "stopped": True}),
        (Kind.QEMU_HANGS, "neither", {"console": ""}),
        (
            Kind.OOM,
            "Out of memory: Killed process 40 (python3)",
            {
                "console": "[    8.1] Out of memory: Killed process 40 (python3) total-vm:1kB\n"
                "snptest-init: the agent was killed by signal 9\n",
                "exit_status": 0,
                "shutdown_reason": "guest-shutdown",
            },
        ),
        # The OOM killer took something else, the agent ended by itself.
        (
            Kind.AGENT_EXITED,
            "status 2",
            {
                "console": "[    8.1] Out of memory: Killed process 40 (tail) total-vm:1kB\n"
                "snptest-init: the agent ended with status 2\n",
                "exit_status": 0,
            },
        ),
        (
            Kind.AGENT_KILLED,
            "signal 9",
            {"console": "snptest-init: the agent was killed by signal 9\n", "exit_status": 0},
        ),
        (
            Kind.NO_SETUP,
            "kvm.ko",
            {
                "console": "snptest-init: the system could not be set up: OSError: [Errno 8] "
                "Exec format error: '/x/kvm.ko'\n",
                "exit_status": 0,
            },
        ),
        (
            Kind.HANG_INTERRUPTS_OFF,
            "CPU 1 spins at 0xffffffff81000000 with interrupts off",
            RUNNING | {"samples": samples(IDLE, spins(interrupts=False))},
        ),
        (
            Kind.HANG_INTERRUPTS_ON,
            "CPU 0 spins at 0xffffffff81000000; the agent answers",
            RUNNING | {"agent_answers": True, "samples": samples(spins(interrupts=True), IDLE)},
        ),
        # A guest of KVM's spins, not the kernel; user space may.
        (
            Kind.STUCK,
            "answer",
            RUNNING
            | {
                "agent_answers": True,
                "samples": samples(
                    spins(interrupts=False, rip=0x1000), spins(interrupts=True, user=True)
                ),
            },
        ),
        (Kind.HANG_IDLE, "no CPU is busy", RUNNING | {"samples": samples(IDLE, IDLE)}),
        # Interrupts are off for a moment in every kernel.
        (
            Kind.HANG_IDLE,
            "no CPU is busy",
            RUNNING | {"samples": ((spins(interrupts=False), IDLE), (IDLE, IDLE))},
        ),
        (
            Kind.CONSOLE_LOST,
            "No space left",
            RUNNING | {"console_error": "x.log: No space left on device"},
        ),
    ],
    ids=lambda each: each.value.replace(" ", "-") if isinstance(each, Kind) else "",
)
def test_a_death_is_told_from_what_is_left(
    kind: Kind, summary: str, evidence: dict[str, Any]
) -> None:
    death = judge(Evidence(**evidence))
    assert death.kind == kind
    assert summary in death.summary


def test_a_console_cannot_forge_a_summary() -> None:
    death = judge(Evidence(console=PANIC + "\x1b[2Jgone\u202e" + "x" * 5000, exit_status=0))
    assert death.kind == Kind.PANIC
    assert "\x1b" not in death.summary
    assert len(death.summary) <= 300


def test_addresses_are_named_by_system_map(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text(
        "ffffffff81000000 T _stext\nffffffff81000100 t spin\nffffffff81000140 D data\n"
        "ffffffff81000200 T after\nffffffff81000300 T _etext\n"
    )
    symbols = Symbols(path)
    assert symbols(0xFFFFFFFF81000123) == "spin+0x23"
    assert symbols(0xFFFFFFFFA0000000) == "0xffffffffa0000000"
    assert symbols(0x1000) == "0x1000"


# On a real kernel.

on_a_kernel = real_test("boots kernels", RUN_TIMEOUT + 60)


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


EXPECTED = {
    "panic": "panic: sysrq triggered crash",
    "oops": "oops: BUG: kernel NULL pointer dereference",
    "bug": "oops: kernel BUG at .*lkdtm",
    "soft_lockup": "soft lockup: watchdog: BUG: soft lockup - CPU#",
    # By the kernel's own word, where its detector has its turn on a busy machine; else it is seen.
    "hard_lockup": "hard lockup: .*hard LOCKUP on cpu|hang, interrupts off: CPU . spins at",
    "hang_interrupts_on": "hang, interrupts on: CPU . spins at",
    "hang_interrupts_off": "hang, interrupts off: CPU . spins at .* with interrupts off",
    "hung_task": "hung task: INFO: task .* blocked for more than 4 seconds",
    "triple_fault": "triple fault: ",
    "reset": "reset: ",
    "power_off": "power off: ",
    "out_of_memory": "out of memory: Out of memory: Killed process .*python3",
    "agent_killed": "agent killed: the agent was killed by signal 9",
    "qemu_killed": "QEMU died: QEMU was killed by signal 9",
    "qemu_stopped": "QEMU stopped: ",
    "machine_paused": "QEMU stopped: ",
    "stuck_call": "stuck call: ",
}


def step_of(id: str) -> str:
    """Return the parameter of a step, else the test's name."""
    step = re.search(r"\[vng-(.*)\]$", id)
    return step[1] if step else id.rpartition("::")[2]


@on_a_kernel
def test_a_campaign_that_kills_the_kernel(update: test_vng.Update, tmp_path: Path) -> None:
    """Every death is one crash, rightly named; what runs between the deaths passes."""
    skip_without_cache_in_guests()
    results = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "pytest", str(CAMPAIGN), "--backend=vng"]
    command.append("--machine=stock")
    command += [f"--kernel={update.kernel.name}", f"--results={results}", f"--stacks={tmp_path}"]
    done = subprocess.run(
        [*command, "-n1", "--dist=loadscope", "-p", "no:cacheprovider", "-q"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT,
        check=False,
    )
    events = events_of(results)
    outcomes = {step_of(each["id"]): each for each in events if each["event"] == "result"}
    told = {name: (each["outcome"], each.get("reason", "")) for name, each in outcomes.items()}
    warned, after = told.pop("test_warning[vng]"), told.pop("test_after_the_warning[vng]")
    assert set(told) == EXPECTED.keys() | {f"None{n}" for n in range(len(EXPECTED))}, done.stdout
    for name, reason in EXPECTED.items():
        assert told[name][0] == "crash", (name, told[name])
        assert re.match(reason, told[name][1]), (name, told[name])
        assert "Linux version" not in outcomes[name]["console"], "only the test's own part"
        assert f"test_step[vng-{name}]" in outcomes[name]["console"]
    for number in range(len(EXPECTED)):
        assert told[f"None{number}"] == ("pass", "")
    # A warning kills nothing, and is its own test's.
    assert warned[0] == "fail"
    assert "the kernel warned: WARNING: " in warned[1]
    assert after == ("pass", "")
    # Traces have files and lines, those of modules, too.
    assert re.search(r"\[lkdtm\] \(drivers/misc/lkdtm/core\.c:\d+\)", outcomes["oops"]["details"])
    # The NMI, which goes to the first CPU, has the kernel trace itself.
    assert "NMI: Not continuing" in outcomes["hang_interrupts_off"]["console"]


@on_a_kernel
def test_a_kernel_that_never_boots_ends_the_run(update: test_vng.Update, tmp_path: Path) -> None:
    """Three boots, exit 3, the console; the tests that were left are not tried."""
    kernels = tmp_path / "cache/snptest/kernels"
    shutil.copytree(update.kernel.directory, kernels / update.kernel.key)
    (kernels / update.kernel.key / "kvm.ko").write_bytes(b"not a module")
    names = cache.root() / "names"
    (tmp_path / "cache/snptest/names").mkdir()
    shutil.copy(names / f"{update.kernel.name}.json", tmp_path / "cache/snptest/names")
    done = run(
        *("gmem", "--kernel", update.kernel.name),
        folder=tmp_path,
        timeout=RUN_TIMEOUT,
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert done.code == 3, done.text
    assert "no setup: the system could not be set up" in done.text
    assert "Exec format error" in done.text
    assert [each["outcome"] for each in done.results] == ["error"]
    assert "3 boots failed" in done.results[0]["details"]
    consoles = list((tmp_path / "cache/snptest/consoles").glob("*.log"))
    assert len(consoles) == 3


@on_a_kernel
def test_killing_a_run_leaves_nothing_but_its_results(
    update: test_vng.Update, tmp_path: Path
) -> None:
    """No QEMU and no scratch folder; the results so far can be read."""
    output, scratch = tmp_path / "results.jsonl", tmp_path / "tmp"
    scratch.mkdir()
    victim = subprocess.Popen(
        [sys.executable, "-m", "harness", "run", "gmem", "--backend", "vng"]
        + ["--machine", "stock", "-n", "1"]
        + ["--kernel", update.kernel.name, "--json", str(output)],
        cwd=ROOT,
        env={
            **os.environ,
            "TMPDIR": str(scratch),
            "SNPTEST_RESULTS": str(tmp_path / "results"),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 240
        while not output.exists() or output.read_bytes().count(b'"event": "result"') < 3:
            assert time.monotonic() < until, "no three results in 240 s"
            assert victim.poll() is None
            time.sleep(0.2)
        running = test_vng.qemu_of(victim.pid)
        assert len(running) == 1
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in running) or any(scratch.glob("snptest*")):
        assert time.monotonic() < until, f"left behind: {running}, {list(scratch.iterdir())}"
        time.sleep(0.1)
    results = [each for each in events_of(output) if each["event"] == "result"]
    assert len(results) >= 3
    assert kbuild.get(update.kernel.name).bzimage.exists()


@on_a_kernel
def test_a_full_disk_is_told_and_loses_no_result(update: test_vng.Update, tmp_path: Path) -> None:
    """The console has no room: QEMU is not held up, all results come, the run says so."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a small file system takes root and unshare")
    consoles = cache.root() / "consoles"
    consoles.mkdir(parents=True, exist_ok=True)
    words = ["run", "suites/gmem/test_lifetime.py", "--backend", "vng", "--machine", "stock"]
    words += ["--kernel", update.kernel.name, "--json", str(tmp_path / "results.jsonl")]
    script = 'mount -t tmpfs -o size=8k none "$0" || exit 77; exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(consoles), sys.executable, "-m", "harness"]
        + words,
        cwd=ROOT,
        env={**os.environ, "SNPTEST_RESULTS": str(tmp_path / "results")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 3, done.stdout
    assert "the console could not be kept: " in done.stdout
    assert "No space left on device" in done.stdout
    outcomes = {
        each["outcome"]
        for each in events_of(tmp_path / "results.jsonl")
        if each["event"] == "result"
    }
    assert outcomes <= {"pass", "skip"}
    assert "pass" in outcomes
