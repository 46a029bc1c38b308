# SPDX-License-Identifier: GPL-2.0-only
"""What a running kernel says about itself: release, build id, firmware."""

from __future__ import annotations

import re
import struct

from harness.kernel import Kernel
from harness.operations import ReadFile, TargetError
from harness.report import sanitize
from harness.splats.watch import LogWatch

NOTES = "/sys/kernel/notes"
PARAMETER = "/sys/module/kvm_amd/parameters/sev_snp"
_COMPLAINT = re.compile(
    r"^(?:\[[ 0-9.]+\] ?)?"
    r"((?:ccp|kvm_amd|SEV|AMD-Vi)\b.*\b(?:fail|error|cannot|could not|not ).*)$",
    re.MULTILINE | re.IGNORECASE,
)
_HARMLESS = "MSI"
_BUILD_ID = 3
"""NT_GNU_BUILD_ID (elf.h)."""


def about(kernel: Kernel, watch: LogWatch) -> dict[str, str]:
    """Return release, build_id and firmware (API version and build of the PSP's SEV-SNP).

    "" where the kernel does not say.
    """
    try:
        notes = kernel.call(ReadFile(NOTES))
    except TargetError:
        return {}  # the test that opened it tells
    return {
        "release": kernel.release or watch.release,
        "build_id": build_id(notes.data) if notes.ok else "",
        "firmware": watch.firmware,
    }


def why_without_snp(kernel: Kernel, log: str) -> str | None:
    """Say why a kernel that knows SNP does not offer it on a machine that has it; None otherwise.

    All tests of SNP are skipped then, as they are where there is none: told once, with what the
    drivers complained of, as a failure of the boot.
    """
    if "snp" not in kernel.environment:
        return None
    try:
        found = kernel.call(ReadFile(PARAMETER))
    except TargetError:
        return None  # the test that opened it tells
    if not found.ok or found.data.strip() != b"N":
        return None
    complaints = [line for line in _COMPLAINT.findall(log) if _HARMLESS not in line]
    why = f": {sanitize.line(complaints[-1], 200)}" if complaints else ""
    return f"SEV-SNP is off (kvm_amd.sev_snp=N) on a machine that has it{why}"


def build_id(notes: bytes) -> str:
    """Find the GNU build id among ELF notes (elf(5), Elf64_Nhdr); "" where there is none."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name = at + 12
        content = name + (name_size + 3 & ~3)
        if kind == _BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            return notes[content : content + size].hex()
        at = content + (size + 3 & ~3)
    return ""
