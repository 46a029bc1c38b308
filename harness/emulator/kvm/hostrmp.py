# SPDX-License-Identifier: GPL-2.0-only
"""What the host kernel does with the RMP (arch/x86/virt/svm/sev.c, Linux 6.12).

Every change of the RMP by the emulated kernel goes through here, so that counters and the
accounting of leaked pages have one home.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np

from harness.emulator.kvm.errors import KvmError
from harness.emulator.memory import PAGE_SIZE, PAGE_SIZE_2M
from harness.emulator.rmp import PageSize, RmpCode

if TYPE_CHECKING:
    from harness.emulator.machine import Machine


class HostRmp:
    """rmp_make_private, rmp_make_shared, psmash and the list of leaked pages."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._rmp = machine.rmp
        self.leaked_pages = 0

    def make_private(
        self, pa: int, gpa: int, size: PageSize, asid: int, *, immutable: bool = False
    ) -> None:
        """Assign a page to a guest (rmp_make_private); EFAULT when RMPUPDATE refuses."""
        self._machine.count("rmpupdate")
        code = self._rmp.rmpupdate(
            pa, assigned=True, gpa=gpa, asid=asid, size=size, immutable=immutable
        )
        if code != RmpCode.SUCCESS:
            self._failed(pa, code)

    def make_firmware_range(self, pa: int, npages: int) -> int:
        """Hand pages to the firmware (ASID 0, immutable); how many went before one failed."""
        self._machine.count("rmpupdate", npages)
        code, done = self._rmp.rmpupdate_range(pa, npages, assigned=True, immutable=True)
        if code != RmpCode.SUCCESS:
            self._say_failed(pa + done * PAGE_SIZE, code)
        return done

    def make_shared(self, pa: int, size: PageSize) -> None:
        """Give a page back to the hypervisor (rmp_make_shared)."""
        self._machine.count("rmpupdate")
        code = self._rmp.rmpupdate(pa, assigned=False, size=size)
        if code != RmpCode.SUCCESS:
            self._failed(pa, code)

    def make_shared_range(self, pa: int, npages: int) -> None:
        """Give consecutive 4 KiB pages back to the hypervisor."""
        self._machine.count("rmpupdate", npages)
        code, done = self._rmp.rmpupdate_range(pa, npages, assigned=False)
        if code != RmpCode.SUCCESS:
            self._failed(pa + done * PAGE_SIZE, code)

    def reclaim_range(self, pa: int, npages: int) -> int:
        """Give what is assigned of a range of 4 KiB entries back to the hypervisor; how many.

        As sev_gmem_invalidate: a page that RMPUPDATE refuses is warned about, the rest goes on.
        """
        pfn, freed = pa >> 12, 0
        assigned = np.flatnonzero(self._rmp.lo[pfn : pfn + npages] & 1)
        for run in np.split(assigned, np.flatnonzero(np.diff(assigned) > 1) + 1):
            first, left = int(run[0]) if len(run) else 0, len(run)
            while left:
                self._machine.count("rmpupdate", left)
                start = pa + first * PAGE_SIZE
                code, done = self._rmp.rmpupdate_range(start, left, assigned=False)
                freed += done
                if code != RmpCode.SUCCESS:
                    self.warn_invalidate(start + done * PAGE_SIZE)
                    done += 1
                first, left = first + done, left - done
        return freed

    def warn_invalidate(self, pa: int) -> None:
        """WARN_ONCE of sev_gmem_invalidate for a page that cannot be given back."""
        self._machine.printk(
            "WARNING: CPU: 0 PID: 1 at arch/x86/kvm/svm/sev.c sev_gmem_invalidate: "
            f"Failed to update RMP entry for PFN 0x{pa >> 12:x}"
        )

    def psmash(self, pa: int) -> None:
        """Split a 2 MiB entry into 512 entries of 4 KiB."""
        self._machine.count("psmash")
        code = self._rmp.psmash(pa & ~(PAGE_SIZE_2M - 1))
        if code != RmpCode.SUCCESS:
            self._failed(pa, code, "PSMASH")

    def leak(self, pa: int, npages: int) -> None:
        """Never use pages again whose RMP entry cannot be given back (snp_leak_pages)."""
        self.leaked_pages += npages
        pfn = pa >> 12
        self._machine.printk(f"SEV-SNP: Leaking PFN range 0x{pfn:x}-0x{pfn + npages:x}")

    def _failed(self, pa: int, code: RmpCode, what: str = "RMPUPDATE") -> None:
        self._say_failed(pa, code, what)
        raise KvmError(errno.EFAULT)

    def _say_failed(self, pa: int, code: RmpCode, what: str = "RMPUPDATE") -> None:
        self._machine.printk(f"SEV-SNP: {what} failed for PFN {pa >> 12:x}, ret: {int(code)}")

    def assigned(self, pa: int, npages: int) -> int:
        """How many pages of a range are assigned."""
        pfn = pa >> 12
        return int(np.count_nonzero(self._rmp.lo[pfn : pfn + npages] & 1))
