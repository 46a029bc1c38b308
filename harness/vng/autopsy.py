# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel died of, told from what is left: console, QEMU's end, its CPUs.

`judge` decides from evidence alone; harness/vng/scene.py collects the evidence.  The kernel's
words come first: a panic ends in a reset like a triple fault does, and a lockup that the
kernel has seen itself is more than CPUs that spin.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.kernel import STUCK_CALL, Death
from harness.report import sanitize
from harness.vng.init import MARK


class Kind(enum.StrEnum):
    """The ways to die."""

    PANIC = "panic"
    OOPS = "oops"
    """The kernel faulted or hit BUG(); it panics of that (oops=panic)."""
    SOFT_LOCKUP = "soft lockup"
    """The kernel saw a CPU that does not schedule."""
    HARD_LOCKUP = "hard lockup"
    """The kernel saw a CPU that takes no interrupts."""
    RCU_STALL = "RCU stall"
    HUNG_TASK = "hung task"
    HANG_INTERRUPTS_OFF = "hang, interrupts off"
    """A CPU spins with interrupts off, and the kernel has not said a word about it."""
    HANG_INTERRUPTS_ON = "hang, interrupts on"
    """A CPU spins in the kernel with interrupts on."""
    HANG_IDLE = "hang, idle"
    """Every CPU idles and the agent does not answer: somebody waits for ever."""
    STUCK = STUCK_CALL
    """The kernel and the agent answer; what the test waited for does not come."""
    TRIPLE_FAULT = "triple fault"
    RESET = "reset"
    """The machine was reset, and neither kernel nor CPU said why."""
    POWER_OFF = "power off"
    OOM = "out of memory"
    """The OOM killer took the agent, or found nothing to kill."""
    AGENT_KILLED = "agent killed"
    AGENT_EXITED = "agent exited"
    NO_SETUP = "no setup"
    """Process 1 could not set the system up: modules, mounts."""
    QEMU_DIED = "QEMU died"
    QEMU_STOPPED = "QEMU stopped"
    """The process was stopped, or the virtual machine was paused, from outside."""
    QEMU_HANGS = "QEMU hangs"
    """The monitor does not answer either."""
    FIRMWARE_DIED = "firmware died"
    """The process that is the SNP machine's PSP firmware: no fault of the kernel's."""
    CONSOLE_LOST = "console lost"
    """The console's file cannot be written: the disk is full."""


SymbolOf = Callable[[int], str]
"""Names an address of the kernel."""

_KERNEL = 1 << 63
"""Where the kernel's half of the address space begins."""


@dataclass(frozen=True, slots=True)
class CpuState:
    """One CPU at one moment."""

    rip: int
    interrupts: bool
    """RFLAGS.IF"""
    halted: bool
    user: bool
    """At CPL 3."""

    @property
    def busy(self) -> bool:
        """Whether it runs the kernel's own code: not user space, and no guest of KVM's."""
        return not self.halted and not self.user and self.rip >= _KERNEL


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is left of a target."""

    console: str
    exit_status: int | None = None
    """Of QEMU: 128 + signal where one killed it; None while it runs."""
    shutdown_reason: str | None = None
    """QEMU's word for it: guest-reset, guest-shutdown, host-signal..."""
    triple_fault: bool = False
    stopped: bool = False
    """The process is stopped, or the machine paused."""
    monitor_answers: bool = False
    agent_answers: bool = False
    samples: tuple[tuple[CpuState, ...], ...] = ()
    """Every CPU, several times in a row."""
    console_error: str | None = None
    firmware_death: str | None = None
    """What the PSP's firmware died of, where it did before QEMU ended."""


_TIMESTAMP = r"^(?:\[[ 0-9.]+\](?:\[ *[TC]\d+\])? ?)?"
_PANIC = re.compile(_TIMESTAMP + r"Kernel panic - not syncing: (.*)$", re.MULTILINE)
_OOPS = re.compile(
    _TIMESTAMP
    + r"((?:BUG: (?!soft lockup|workqueue)|kernel BUG at |Oops: |general protection fault"
    r"|stack segment: |divide error: |invalid opcode: |traps: PANIC).*)$",
    re.MULTILINE,
)
_OOM = re.compile(
    _TIMESTAMP + r"((?:Out of memory|Memory cgroup out of memory): Killed process .*)$",
    re.MULTILINE,
)
_REPORTS = (
    (Kind.SOFT_LOCKUP, re.compile(r"^.*?(watchdog: BUG: soft lockup - .*)$", re.MULTILINE)),
    (
        Kind.HARD_LOCKUP,
        re.compile(r"^.*?((?:NMI )?watchdog: .*hard LOCKUP on cpu .*)$", re.MULTILINE),
    ),
    (Kind.RCU_STALL, re.compile(r"^.*?(rcu: INFO: rcu_\w+ (?:self-)?detected .*stall.*)$", re.M)),
    (Kind.HUNG_TASK, re.compile(r"^.*?(INFO: task .* blocked for more than .*)$", re.MULTILINE)),
)
_PANICS = (
    ("softlockup: hung tasks", Kind.SOFT_LOCKUP),
    ("Hard LOCKUP", Kind.HARD_LOCKUP),
    ("hung_task: blocked tasks", Kind.HUNG_TASK),
    ("RCU Stall", Kind.RCU_STALL),
    ("System is deadlocked on memory", Kind.OOM),
    ("Out of memory", Kind.OOM),
    ("out of memory", Kind.OOM),
    ("Fatal exception", Kind.OOPS),
    ("Fatal hardware error", Kind.PANIC),
)
_INIT = re.compile(rf"{re.escape(MARK)}(.*)$", re.MULTILINE)


def judge(evidence: Evidence, symbol: SymbolOf = hex) -> Death:
    """Say what a target died of, from everything that is left of it."""
    for kind, summary in _findings(evidence, symbol):
        return Death(kind.value, sanitize.line(summary, 300))
    raise AssertionError("_findings always ends in one")


def _findings(evidence: Evidence, symbol: SymbolOf) -> Iterator[tuple[Kind, str]]:
    if evidence.firmware_death is not None:  # whatever the kernel said, it is of that
        yield Kind.FIRMWARE_DIED, evidence.firmware_death
    yield from _of_kernel(evidence)
    yield from _of_init(evidence)
    if evidence.exit_status is not None:
        yield from _of_end(evidence)
    yield from _of_machine(evidence)
    yield from _of_reports(evidence)
    yield from _of_cpus(evidence, symbol)
    if evidence.agent_answers:
        yield Kind.STUCK, "the kernel and the agent answer; what the test waited for did not come"
    yield Kind.HANG_IDLE, "no CPU is busy in the kernel, and the agent does not answer"


def _of_kernel(evidence: Evidence) -> Iterator[tuple[Kind, str]]:
    """What the kernel said before it panicked."""
    panic = _last(_PANIC, evidence.console)
    if panic is None:
        return
    why = panic[1].strip()
    kind = next((kind for text, kind in _PANICS if text in why), Kind.PANIC)
    if kind is Kind.OOPS:
        oops = _OOPS.search(evidence.console)
        yield kind, oops[1].strip() if oops else why
    for reported, pattern in _REPORTS:
        report = _last(pattern, evidence.console)
        if kind is reported and report:
            yield kind, report[1].strip()
    yield kind, why


def _of_init(evidence: Evidence) -> Iterator[tuple[Kind, str]]:
    """What process 1 said about the agent."""
    last = _last(_INIT, evidence.console)
    if last is None:
        return
    why = last[1].strip()
    if why.startswith("the agent was killed"):
        oom = _last(_OOM, evidence.console)
        if oom is not None:
            yield Kind.OOM, oom[1].strip()
        yield Kind.AGENT_KILLED, why
    if why.startswith("the agent"):
        yield Kind.AGENT_EXITED, why
    if why.startswith("the system could not be set up"):
        yield Kind.NO_SETUP, why


def _of_end(evidence: Evidence) -> Iterator[tuple[Kind, str]]:
    """How QEMU ended, where the guest said nothing."""
    status = evidence.exit_status
    assert status is not None
    if evidence.triple_fault:
        yield Kind.TRIPLE_FAULT, "a CPU faulted while it took a double fault"
    if evidence.shutdown_reason == "guest-reset":
        yield Kind.RESET, "the machine was reset without a word from the kernel"
    if evidence.shutdown_reason == "guest-shutdown":
        yield Kind.POWER_OFF, "the kernel switched the machine off"
    if status > 128:
        yield Kind.QEMU_DIED, f"QEMU was killed by signal {status - 128}"
    if evidence.shutdown_reason:
        yield Kind.QEMU_DIED, f"QEMU ended with status {status}: {evidence.shutdown_reason}"
    yield Kind.QEMU_DIED, f"QEMU ended with status {status}"


def _of_machine(evidence: Evidence) -> Iterator[tuple[Kind, str]]:
    """What keeps the machine from running at all."""
    if evidence.stopped:
        yield Kind.QEMU_STOPPED, "QEMU was stopped from outside"
    if evidence.console_error is not None:
        yield Kind.CONSOLE_LOST, f"the console could not be kept: {evidence.console_error}"
    if not evidence.monitor_answers and not evidence.agent_answers:
        yield Kind.QEMU_HANGS, "QEMU runs, but neither the agent nor its monitor answers"


def _of_reports(evidence: Evidence) -> Iterator[tuple[Kind, str]]:
    """What the kernel's watchdogs said, without a panic."""
    found = [
        (match.start(), kind, match[1].strip())
        for kind, pattern in _REPORTS
        if (match := pattern.search(evidence.console))
    ]
    for _, kind, line in sorted(found):
        yield kind, line


def _of_cpus(evidence: Evidence, symbol: SymbolOf) -> Iterator[tuple[Kind, str]]:
    """What the CPUs do all the time."""
    also = "; the agent answers" if evidence.agent_answers else ""
    spinning = []
    for cpu, states in enumerate(zip(*evidence.samples, strict=True)):
        if not all(state.busy for state in states):
            continue
        where = f"CPU {cpu} spins at {symbol(states[-1].rip)}"
        if not any(state.interrupts for state in states):
            yield Kind.HANG_INTERRUPTS_OFF, f"{where} with interrupts off{also}"
        spinning.append(where)
    if spinning:
        yield Kind.HANG_INTERRUPTS_ON, "; ".join(spinning) + also


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for match in pattern.finditer(text):
        last = match
    return last
