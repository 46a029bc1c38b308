# SPDX-License-Identifier: GPL-2.0-only
"""A kernel built by `snptest build`, booted by virtme-ng: see harness/vng."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any, ClassVar

from harness import kbuild
from harness.backends.base import ATTEMPTS, Backend, kvm_amd_parameters
from harness.errors import UsageError
from harness.hostcpu import why_not_x86_64
from harness.kernel import Kernel
from harness.target import Target
from harness.vng.boot import BOOT_TIMEOUT, boot
from harness.vng.kinds import STOCK
from harness.vng.machine import DEFAULT_MEMORY, virtme_run
from harness.vng.snp import choose


class VngBackend(Backend):
    """Boots kernels under virtme-ng."""

    name: ClassVar[str] = "vng"
    reusable: ClassVar[bool] = True
    side_by_side: ClassVar[int | None] = 4  # each has its memory, and boots for some seconds
    open_deadline: ClassVar[float] = ATTEMPTS * (BOOT_TIMEOUT + 30)

    def open(self, target: Target, parameters: Mapping[str, Any] | None = None) -> Kernel:
        """Boot the kernel that `--kernel` names; its code decides the interface."""
        if target.kernel is None:
            known = ", ".join(each.name for each in kbuild.list_kernels()) or "none was built yet"
            raise UsageError("--backend vng needs --kernel NAME", f"known: {known}")
        kernel = kbuild.get(target.kernel)
        machine = choose(target.machine, kernel)
        memory = target.memory or DEFAULT_MEMORY
        changes = dict(parameters or {})
        # Stock QEMU has no SNP whose guests could be counted.
        asids = changes.pop("asids", None) if machine.psp else None
        crash_memory = changes.pop("crashkernel", None)
        words = tuple(f"kvm_amd.{each}" for each in kvm_amd_parameters(changes))
        if crash_memory is not None:
            words += (f"crashkernel={crash_memory}",)
        return boot(kernel, machine=machine, memory=memory, parameters=words, asids=asids)

    def unavailable(self) -> str | None:
        """Without QEMU or a kernel nothing can be booted."""
        if reason := why_not_x86_64("backend vng, whose kernels use this machine's programs,"):
            return reason
        if virtme_run() is None:
            return "virtme-ng is not there: start snptest by ./snptest, which installs it"
        if shutil.which(STOCK.qemu) is None and shutil.which("apt-get") is None:
            return f"{STOCK.qemu} is missing: install QEMU for x86"
        if not kbuild.list_kernels():
            return "no kernel was built yet: ./snptest build NAME --base linux-source-6.12"
        return None
