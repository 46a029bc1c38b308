# SPDX-License-Identifier: GPL-2.0-only
"""The modelled SNP machine: physical memory, RMP, PSP, kernel log, counters.

Physical address space: [0, 2 MiB) is never handed out; the RMP lies at the top; all that is
left between them is RAM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from harness.emulator.memory import PAGE_SIZE, PAGE_SIZE_2M, FrameAllocator, PhysicalMemory
from harness.emulator.psp import Psp
from harness.emulator.psp.tcb import Tcb
from harness.emulator.rmp import Rmp
from harness.operations import TargetError

DEBUG_LINES = 10_000
MAX_SEV_ASID = 509
"""CPUID 0x8000001F ECX of EPYC Milan: the number of encrypted guests at a time."""
OLD_TCB = Tcb(boot_loader=3, tee=0, snp=20, microcode=209)
OLD_VERSION = (1, 54, 1)


class PanicError(TargetError):
    """The emulated kernel panicked."""


@dataclass(frozen=True)
class MachineConfig:
    """What a test may choose about the machine and its kernel."""

    seed: int | None = None
    memory: int = 64 << 30
    """Bytes of physical memory, RMP included."""
    asids: int = 99
    """SNP/SEV-ES guests get ASIDs 1 to this number (CPUID 0x8000001F ECX/EDX)."""
    sev: bool = True
    sev_es: bool = True
    sev_snp: bool = True
    """Parameters of kvm_amd."""
    machine_checks: bool = True
    """Whether the kernel handles them, and so has CR4.MCE set (CONFIG_X86_MCE, mce=off)."""
    gmem_max_order: int = 9
    """Largest folio that guest_memfd hands out: 0 as in Linux 6.12, 9 where 2 MiB is supported."""
    cbit: int = 51
    provisional: bool = False
    """The firmware is newer than what was committed (SNP_COMMIT)."""


class Machine:
    """The hardware below the emulated kernel."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        size = config.memory
        table = Rmp.BOOKKEEPING + 16 * (size // PAGE_SIZE)
        base = (size - table) & ~(PAGE_SIZE_2M - 1)
        self.memory = PhysicalMemory(size)
        self.rmp = Rmp(self.memory, base, base // PAGE_SIZE)
        self.frames = FrameAllocator(self.memory, PAGE_SIZE_2M, base)
        self.psp = Psp(
            self.memory,
            self.rmp,
            seed=config.seed or 0,
            max_asid=max(config.asids, MAX_SEV_ASID),
            es_asids=config.asids,
            caches=True,
            cbit=config.cbit,
        )
        if config.provisional:
            self.psp.platform.committed_tcb = OLD_TCB
            self.psp.platform.committed_version = OLD_VERSION
        self.counters: dict[str, int] = {}
        self.dead: str | None = None
        self.debug_lines: list[str] = []
        self._log: list[str] = []

    def count(self, event: str, times: int = 1) -> None:
        """Count an event (the counters that a test can read)."""
        self.counters[event] = self.counters.get(event, 0) + times

    def printk(self, line: str) -> None:
        """Write a line to the kernel log."""
        self._log.append(line)

    def debug(self, line: str) -> None:
        """Write a line at debug level (vcpu_unimpl, pr_debug): kept apart from the log."""
        if len(self.debug_lines) < DEBUG_LINES:
            self.debug_lines.append(line)

    def log(self) -> str:
        """The kernel log."""
        return "".join(f"{line}\n" for line in self._log)

    def clear(self, pa: int, length: int) -> None:
        """clear_highpage over a range: a write by the host, so the RMP has its say."""
        self.check_host_write(pa, length)
        self.memory.zero(pa, length)

    def check_host_write(self, pa: int, length: int) -> None:
        """Panic where the host may not write: #PF with the RMP bit in kernel mode is fatal."""
        for page in range(pa & ~(PAGE_SIZE - 1), pa + length, PAGE_SIZE):
            if not self.rmp.check_host_write(page):
                self.panic(f"BUG: unable to handle page fault: RMP violation, PFN {page >> 12:x}")

    def panic(self, why: str) -> NoReturn:
        """The emulated kernel dies: every operation fails from now on."""
        self.printk(why)
        self.printk("Kernel panic - not syncing: Fatal exception")
        self.dead = why
        raise PanicError(why)

    def close(self) -> None:
        """Give the memory back."""
        self.memory.close()
