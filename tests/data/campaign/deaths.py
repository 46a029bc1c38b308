# SPDX-License-Identifier: GPL-2.0-only
"""A campaign against a booted kernel: tests that kill it, and innocent ones between them.

tests/test_death.py runs it and looks at what is told.  lkdtm is upstream's own module for
crashing on purpose; what it cannot do is done through sysrq, sysctl and signals to QEMU.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import kbuild
from harness.kernel import Kernel
from harness.operations import ReadFile, TargetError, WriteFile
from harness.vng.boot import VngKernel

pytestmark = pytest.mark.deadline(20)

LKDTM = "/sys/kernel/debug/provoke-crash/DIRECT"
SYSRQ = "/proc/sysrq-trigger"


def put(kernel: Kernel, path: str, text: str) -> None:
    kernel.check(WriteFile(path, text.encode()), timeout=15)


def crash(kernel: VngKernel, how: str) -> None:
    """Have lkdtm crash the kernel; the module is loaded first."""
    put(kernel, LKDTM, how)


def settle(kernel: Kernel, **settings: str) -> None:
    for name, value in settings.items():
        put(kernel, f"/proc/sys/kernel/{name}", value)


def qemu_of(kernel: VngKernel) -> int:
    leash = kernel.qemu.leash.pid
    return int(Path(f"/proc/{leash}/task/{leash}/children").read_text().split()[0])


def panic(kernel: VngKernel) -> None:
    put(kernel, SYSRQ, "c")


def oops(kernel: VngKernel) -> None:
    crash(kernel, "EXCEPTION")


def bug(kernel: VngKernel) -> None:
    crash(kernel, "BUG")


def soft_lockup(kernel: VngKernel) -> None:
    settle(kernel, watchdog_thresh="2")
    crash(kernel, "SOFTLOCKUP")


def hard_lockup(kernel: VngKernel) -> None:
    settle(kernel, watchdog_thresh="2")
    crash(kernel, "HARDLOCKUP")


def hang_interrupts_on(kernel: VngKernel) -> None:
    settle(kernel, watchdog="0")
    put(kernel, "/sys/module/rcupdate/parameters/rcu_cpu_stall_suppress", "1")
    crash(kernel, "SOFTLOCKUP")


def hang_interrupts_off(kernel: VngKernel) -> None:
    settle(kernel, watchdog="0")
    put(kernel, "/sys/module/rcupdate/parameters/rcu_cpu_stall_suppress", "1")
    crash(kernel, "HARDLOCKUP")


def hung_task(kernel: VngKernel) -> None:
    settle(kernel, hung_task_timeout_secs="4", hung_task_panic="1")
    crash(kernel, "HUNG_TASK")


def triple_fault(kernel: VngKernel) -> None:
    put(kernel, "/sys/kernel/reboot/type", "triple")
    put(kernel, SYSRQ, "b")


def reset(kernel: VngKernel) -> None:
    put(kernel, SYSRQ, "b")


def power_off(kernel: VngKernel) -> None:
    put(kernel, SYSRQ, "o")
    time.sleep(10)
    kernel.call(ReadFile("/proc/uptime"))


def out_of_memory(kernel: VngKernel) -> None:
    """The OOM killer is called by hand; the agent is what it likes best."""
    put(kernel, f"/proc/{kernel.hello['pid']}/oom_score_adj", "1000")
    put(kernel, SYSRQ, "f")
    kernel.call(ReadFile("/proc/uptime"))


def agent_killed(kernel: VngKernel) -> None:
    kernel.run_program(["kill", "-9", str(kernel.hello["pid"])])


def qemu_killed(kernel: VngKernel) -> None:
    os.kill(qemu_of(kernel), signal.SIGKILL)
    kernel.call(ReadFile("/proc/uptime"))


def qemu_stopped(kernel: VngKernel) -> None:
    os.kill(qemu_of(kernel), signal.SIGSTOP)
    kernel.call(ReadFile("/proc/uptime"), timeout=5)


def machine_paused(kernel: VngKernel) -> None:
    kernel.qemu.monitor.ask("stop")
    kernel.call(ReadFile("/proc/uptime"), timeout=5)


def stuck_call(kernel: VngKernel) -> None:
    """The kernel is well; what is waited for does not come."""
    kernel.run_program(["mkfifo", "/tmp/fifo"])
    kernel.call(ReadFile("/tmp/fifo"), thread=7, timeout=5)


DEATHS: tuple[Callable[[VngKernel], None], ...] = (
    panic,
    oops,
    bug,
    soft_lockup,
    hard_lockup,
    hang_interrupts_on,
    hang_interrupts_off,
    hung_task,
    triple_fault,
    reset,
    power_off,
    out_of_memory,
    agent_killed,
    qemu_killed,
    qemu_stopped,
    machine_paused,
    stuck_call,
)


@pytest.fixture
def target(kernel: Kernel) -> VngKernel:
    """The kernel, with lkdtm in it."""
    assert isinstance(kernel, VngKernel)
    if not kernel.call(ReadFile("/sys/module/lkdtm/refcnt")).ok:
        built = kbuild.get(kernel.name)
        # The root file system is this machine's; the folder of kernels is seen as it is.
        done = kernel.run_program(["insmod", str(built.directory / "lkdtm.ko")])
        assert done.status == 0, done.output
    return kernel


@pytest.mark.parametrize("step", [*itertools.chain(*((each, None) for each in DEATHS))])
def test_step(target: VngKernel, step: Callable[[VngKernel], None] | None) -> None:
    if step is not None:
        step(target)
        raise TargetError("the kernel should be dead")
    assert target.read_file("/proc/uptime")


def test_warning(target: VngKernel) -> None:
    """The kernel lives on, but what it said counts."""
    crash(target, "WARNING")


def test_after_the_warning(target: VngKernel) -> None:
    """It was the other test's."""
    assert target.read_file("/proc/uptime")
