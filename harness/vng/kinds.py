# SPDX-License-Identifier: GPL-2.0-only
"""The kinds of machines that a kernel can be booted on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of machine: which QEMU, and the options that make it one."""

    name: str
    qemu: str
    options: tuple[str, ...]
    """QEMU options where nothing accelerates."""
    accelerated: tuple[str, ...] | None
    """QEMU options under KVM; None where KVM cannot run it."""
    psp: bool = False
    """Whether it has a PSP, whose firmware runs beside QEMU (harness/vng/snp.py)."""


STOCK = Machine(
    name="stock",
    qemu="qemu-system-x86_64",
    options=("-cpu", "max,+svm"),
    accelerated=("-cpu", "host"),
)
"""QEMU as distributions have it: SVM, but neither SEV nor SNP."""

SNP = "snp"
"""The name of the SNP machine, which `snptest machine build` makes."""

MACHINES = (STOCK.name, SNP)
