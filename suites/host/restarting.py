# SPDX-License-Identifier: GPL-2.0-only
"""Ends of the host's kernel, and what has to work behind them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import kexec as program
from harness.kernel import Kernel
from harness.linuxguest.placement import place
from harness.uapi.interfaces import Interface
from harness.vm import layout
from harness.vm.host import Host
from suites.launch.launching import launch_guest

NEXT_BOOT = 300.0
"""Seconds from the end of a kernel to the next one's agent: 10 to 25 on two idle cores."""
LOAD = 120.0
CRASH_MEMORY = "256M"
MARK = "snptest.next"
"""On the command line of a kernel that was started by kexec: a reset leads to one without it."""

PANIC = ("sh", "-c", "echo c > /proc/sysrq-trigger")
CALLED = "sysrq triggered crash"
"""What the panic says that PANIC calls for."""


def target_program(*words: str) -> list[str]:
    """Return the command that has harness/kexec.py do something on the target."""
    return ["python3", "-I", "-S", "-c", Path(program.__file__).read_text(), *words]


def load(kernel: Kernel, what: str = "load", *parameters: str) -> None:
    """Load the kernel that runs once more, with its own command line and some parameters."""
    assert kernel.image is not None, "image of the kernel that runs: none, want one"
    line = kernel.read_file("/proc/cmdline")
    assert line is not None, "/proc/cmdline: no such file, want one"
    # Parameters behind "--" are init's own.
    own, dashes, init = line.strip().partition(" -- ")
    words = [word for word in own.split(" ") if not word.startswith("crashkernel=")]
    line = " ".join([*words, MARK, *parameters]) + dashes + init
    done = kernel.run_program(target_program(what, place(kernel, kernel.image), line), LOAD)
    said = done.failure or done.output.decode(errors="replace").strip()
    if done.status == 1 and "Function not implemented" in said:
        pytest.skip("this kernel has no kexec_file_load(2): CONFIG_KEXEC_FILE")
    assert done.status == 0, f"kexec_file_load: {said}, want success"


def marked(kernel: Kernel) -> bool:
    """Whether the kernel that runs was started by kexec."""
    line = kernel.read_file("/proc/cmdline")
    assert line is not None, "/proc/cmdline: no such file, want one"
    return MARK in line.split()


def kexec(kernel: Kernel) -> None:
    """Start the kernel that runs once more, by kexec."""
    load(kernel)
    kernel.boot_anew(target_program("go"), NEXT_BOOT)
    assert marked(kernel), "kexec: the machine was reset, want the kernel that was loaded"


@dataclass
class State:
    """What SNP holds in a host: the same after each boot."""

    guests: int
    assigned: int
    """Pages of guests; 0 where nobody can look."""
    firmware: int
    """Pages of the firmware; 0 where nobody can look."""

    def __str__(self) -> str:
        """What is held, in words."""
        return f"{self.guests} guests, {self.assigned} + {self.firmware} pages"

    @classmethod
    def of(cls, host: Host) -> State:
        """Look at a host."""
        inspector = host.kernel.inspector
        guests = int(host.sev.platform_status().guest_count)
        if inspector is None:
            return cls(guests, 0, 0)
        return cls(guests, inspector.assigned_pages(), inspector.firmware_pages() or 0)


def snp_works(kernel: Kernel, interface: Interface) -> State:
    """Assert that a guest launches, runs and ends; return what SNP held before and holds after."""
    host = Host(kernel, interface)
    before = State.of(host)
    assert before.guests == 0, f"guests in the firmware: {before.guests}, want none"
    assert before.assigned == 0, f"pages assigned to guests: {before.assigned}, want none"
    with launch_guest(host) as guest:
        guest.cpu().boot()
    after = State.of(host)
    assert after == before, f"after the guest: {after}, want {before}"
    host.close()
    return before


def running_guest(host: Host) -> None:
    """Leave a guest behind that runs in its own code: it ends with the kernel."""
    guest = launch_guest(host)
    cpu = guest.cpu()
    cpu.boot()
    cpu.start(cpu.spin_until(layout.SHARED_FREE_GPA, 1, limit=1 << 62))
