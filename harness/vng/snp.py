# SPDX-License-Identifier: GPL-2.0-only
"""The SNP machine as one to boot kernels on: QEMU's options, and the firmware of its PSP."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

from harness.errors import UsageError, UserError
from harness.kbuild import KernelBuild
from harness.machine import installed
from harness.vng.kinds import MACHINES, SNP, STOCK, Machine

CPU = (
    "EPYC-Milan",
    # Linux looks for SNP where it is no guest.
    "-hypervisor",
    # What KVM asks for before it offers SEV (sev_hardware_setup, 6.12), and more of SVM.
    *("+svm", "+flushbyasid", "+decodeassists", "+lbrv", "+nrip-save"),
    "x-snp-host=on",
    # What this model has and TCG hasn't: QEMU would say so for each CPU.
    *("-pcid", "-invpcid", "-fxsr-opt", "-misalignsse", "-osvw", "-perfctr-core", "-clzero"),
    *("-ibpb", "-ibrs", "-amd-stibp", "-amd-ssbd"),
)
_PARAMETER = b"parmtype=sev_snp:"
GRACE = 1.0
"""Seconds that a machine whose firmware has died gets, to say so on its console."""


def find() -> Machine:
    """Return the machine; UserError where it was not built."""
    build = installed.find()
    if build is None:
        raise UserError("the SNP machine was not built yet", "snptest machine build")
    if not build.snp:
        raise UserError(
            f"the SNP machine was built without its patches: it is plain QEMU {build.version}",
            "snptest machine build",
        )
    return Machine(SNP, str(build.qemu), ("-L", str(build.firmware)), None, psp=True)


def supports(kernel: KernelBuild) -> bool:
    """Whether a kernel's KVM has SNP for hosts: kvm_amd then has a parameter for it."""
    module = kernel.directory / "kvm-amd.ko"
    return module.is_file() and _PARAMETER in module.read_bytes()


def options(socket: Path, *, memory: str, cpus: int, asids: int | None = None) -> list[str]:
    """Return QEMU's options on top of a PC's, which virtme-ng has composed; the last word counts.

    `socket` is where the PSP's firmware listens.  The guests' memory (1G) is shared with it.
    `asids` is how many ASIDs SNP and SEV-ES guests have; None: the machine's default.
    """
    # Linux 6.12 demands policies that allow SMT where SMT is on: have it on, as hosts do.
    threads = 2 if cpus % 2 == 0 else 1
    cpu = CPU if asids is None else (*CPU, f"x-snp-asids={asids}")
    return [
        # SeaBIOS spends half a minute on a drive without a medium that QEMU 10 adds.
        "-nodefaults",
        *("-object", f"memory-backend-memfd,id=ram,size={memory},share=on"),
        *("-machine", "q35,accel=tcg,x-snp-host=on,memory-backend=ram"),
        *("-cpu", ",".join(cpu)),
        *("-smp", f"{cpus},threads={threads}"),
        *("-device", "amd-iommu,intremap=on,x-snpsup=on"),
        *("-chardev", f"socket,id=psp,path={socket}"),
        *("-device", "snp-psp,id=psp,chardev=psp"),
    ]


def find_machine(name: str) -> Machine:
    """Return the machine of that name; UsageError where there is none, UserError if not built."""
    if name == SNP:
        return find()
    if name != STOCK.name:
        raise UsageError(f"no machine is called {name!r}", f"there are {', '.join(MACHINES)}")
    return STOCK


def choose(name: str | None, kernel: KernelBuild) -> Machine:
    """Return the machine of a name; without one, the one that suits the kernel best.

    That is the SNP machine where it is built and the kernel has a use for it.
    """
    if name is not None:
        return find_machine(name)
    build = installed.find()
    return find() if build is not None and build.snp and supports(kernel) else STOCK


class Firmware:
    """The process that is the PSP's firmware, beside one QEMU.

    It ends when QEMU does, or this process.  Where it dies first, the machine has a second to
    say what it makes of that, and is ended: no result after that would mean anything.
    """

    def __init__(self, socket: Path, log: Path) -> None:
        """Start it: `socket` is what QEMU connects to, `log` where it complains."""
        from harness.machine.psp_process import PspProcess  # with it comes all of the model

        self._log = log
        self._log.unlink(missing_ok=True)  # of another process that had our number
        self._process = PspProcess(socket, self._log)
        self._ended = os.pidfd_open(self._process.pid)
        self._watcher: threading.Thread | None = None
        self._stopping = False
        self.death: str | None = None
        """What it died of, in a line, while QEMU lived."""

    def watch(self, qemu_runs: Callable[[float], bool], end_qemu: Callable[[], None]) -> None:
        """See to it that QEMU does not go on without it; `qemu_runs` waits that many seconds."""
        self._watcher = threading.Thread(
            target=self._watch, args=(qemu_runs, end_qemu), name="firmware", daemon=True
        )
        self._watcher.start()

    def stop(self) -> None:
        """End it, whatever it does; a log in which nothing stands goes, too."""
        self._stopping = True
        self._process.stop()
        if self._watcher is None:
            os.close(self._ended)
        else:
            self._watcher.join(GRACE + 10)
        if self._log.exists() and not self._log.stat().st_size:
            self._log.unlink(missing_ok=True)

    def _watch(self, qemu_runs: Callable[[float], bool], end_qemu: Callable[[], None]) -> None:
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        poll.poll()  # as long as the machine runs; it ends with us
        os.close(self._ended)
        if self._stopping:
            return
        status = self._process.wait()
        # 0: QEMU has gone; 1 as well, where that cut a frame in two.
        if status == 0 or (not qemu_runs(GRACE) and status > 0):
            return
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        said = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        self.death = f"the PSP's firmware {how}" + (f": {said[-1]}" if said and status > 0 else "")
        end_qemu()
