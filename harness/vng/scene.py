# SPDX-License-Identifier: GPL-2.0-only
"""Collecting the evidence about a target that was lost or hangs: see harness/vng/autopsy.py."""

from __future__ import annotations

import bisect
import contextlib
import re
import time
from functools import cached_property
from operator import itemgetter
from pathlib import Path

from harness.kernel import Death, Kernel
from harness.operations import ReadFile, TargetError
from harness.vng.autopsy import CpuState, Evidence, Kind, judge
from harness.vng.monitor import MonitorError
from harness.vng.qemu import Qemu

END_TIMEOUT = 10.0
"""Seconds in which a QEMU whose guest has gone ends."""

ANSWER_TIMEOUT = 5.0
SAMPLES = 5
SAMPLE_GAP = 0.3
NMI_WAIT = 5.0
_LAST_THREAD = 0xFFFF
_CPU = re.compile(r"^CPU#\d+", re.MULTILINE)
_STATE = re.compile(r"^[RE]IP=([0-9a-f]+) [RE]FL=([0-9a-f]+) .*CPL=(\d) .*HLT=(\d)", re.MULTILINE)
_INTERRUPT_FLAG = 1 << 9
_HANGS = (
    Kind.HANG_INTERRUPTS_OFF,
    Kind.HANG_INTERRUPTS_ON,
    Kind.HANG_IDLE,
    Kind.SOFT_LOCKUP,
    Kind.HARD_LOCKUP,
    Kind.RCU_STALL,
)


def autopsy(kernel: Kernel, qemu: Qemu, system_map: Path) -> Death:
    """Find out what became of a booted kernel, in its QEMU."""
    # The agent's end of the stream closes a little before QEMU ends, if it does.
    lost = not _agent_answers(kernel)
    return examine(qemu, system_map, lost=lost, agent_answers=not lost)


def examine(qemu: Qemu, system_map: Path, *, lost: bool, agent_answers: bool = False) -> Death:
    """Find out what became of a QEMU's guest; `lost` where its end is to be expected."""
    stopped = qemu.stopped()
    status = None
    if lost and not stopped:
        status = qemu.ended(END_TIMEOUT if qemu.guest_has_gone() else 0.5)
    answers, samples = False, []
    if status is None and not stopped:
        try:
            stopped = qemu.monitor.ask("query-status")["status"] == "paused"
            answers = True
            samples = _samples(qemu)
        except MonitorError:
            answers = False
        status = qemu.ended(0)
    qemu.console.settle()
    death = judge(
        Evidence(
            console=qemu.console.text(),
            exit_status=status,
            shutdown_reason=qemu.monitor.shutdown_reason,
            triple_fault=qemu.triple_fault(),
            stopped=stopped,
            monitor_answers=answers,
            agent_answers=agent_answers,
            samples=tuple(samples),
            console_error=qemu.console.error,
            firmware_death=qemu.firmware_death,
        ),
        Symbols(system_map),
    )
    if death.kind in _HANGS:
        _ask_for_a_trace(qemu)
    return death


def _agent_answers(kernel: Kernel) -> bool:
    try:
        kernel.call(ReadFile("/proc/uptime"), thread=_LAST_THREAD, timeout=ANSWER_TIMEOUT)
    except (TargetError, ValueError):
        return False
    return True


def _samples(qemu: Qemu) -> list[tuple[CpuState, ...]]:
    """Look at every CPU a few times."""
    samples: list[tuple[CpuState, ...]] = []
    for _ in range(SAMPLES):
        text = qemu.monitor.human("info registers -a")
        states = tuple(
            CpuState(
                rip=int(match[1], 16),
                interrupts=bool(int(match[2], 16) & _INTERRUPT_FLAG),
                user=match[3] == "3",
                halted=match[4] == "1",
            )
            for match in _STATE.finditer(text)
        )
        if states and len(states) == len(_CPU.findall(text)):
            samples.append(states)
        time.sleep(SAMPLE_GAP)
    return samples


def _ask_for_a_trace(qemu: Qemu) -> None:
    """Send an NMI: a kernel booted with unknown_nmi_panic says where it was, and panics."""
    before = len(qemu.console.text())
    with contextlib.suppress(MonitorError):  # it may end before it answers
        qemu.monitor.ask("inject-nmi")
    until = time.monotonic() + NMI_WAIT
    while time.monotonic() < until and qemu.ended(0.1) is None:
        if "end Kernel panic" in qemu.console.text()[before:]:
            break


class Symbols:
    """Names of the kernel's functions, from its System.map, read when the first is asked for."""

    def __init__(self, system_map: Path) -> None:
        self._path = system_map

    @cached_property
    def _functions(self) -> list[tuple[int, str]]:
        """Address and name, in order."""
        lines = (line.split(maxsplit=2) for line in self._path.read_text().splitlines())
        return sorted((int(address, 16), name) for address, kind, name in lines if kind in "tT")

    def __call__(self, address: int) -> str:
        """Return function+offset; the bare address where it is none of the kernel's."""
        at = bisect.bisect_right(self._functions, address, key=itemgetter(0)) - 1
        if at < 0 or at + 1 == len(self._functions):
            return hex(address)
        start, name = self._functions[at]
        return f"{name}+{address - start:#x}"
