# SPDX-License-Identifier: GPL-2.0-only
"""The memory that the firmware has reserved for the RMP: one table, or segments.

After snp_probe_rmptable_info() of arch/x86/virt/svm/sev.c, Linux 6.14 to 7.3: a segmented RMP
(CPUID 8000001F EAX[23], enabled by RMP_CFG[0]) has the base of its segment table in RMP_BASE,
and RMP_END is 0.  Older kernels know the one table only, and say that there is none.
"""

from __future__ import annotations

import re

from harness.preflight.evidence import Evidence
from harness.preflight.finding import PURPOSE, Finding, State

TOPIC = "RMP table"
_SEGMENTED = 1 << 23
_ENABLED = 1 << 0
_ADDRESS = ((1 << 52) - 1) & ~((1 << 13) - 1)
"""RMP_ADDR_MASK."""


def finding(evidence: Evidence) -> Finding | None:
    """Judge the registers; None where they could not be read."""
    base, end = evidence.number("msr", "rmp_base"), evidence.number("msr", "rmp_end")
    if base is None or end is None:
        return None
    if _capable(evidence) and evidence.number("msr", "rmp_cfg") is None and not end & _ADDRESS:
        found = "RMP_END is 0, and whether the RMP is segmented cannot be read (RMP_CFG)"
        return Finding(TOPIC, State.UNKNOWN, found, "look with this snptest's doctor", PURPOSE)
    if segmented(evidence):
        return _segments(evidence, base)
    if base & _ADDRESS and end > base:
        return Finding(TOPIC, State.OK, f"{(end + 1 - base) >> 20} MiB reserved", "", PURPOSE)
    remedy = "firmware: SNP memory (RMP table) coverage for all memory"
    return Finding(TOPIC, State.MISSING, "no memory reserved", remedy, PURPOSE)


def segmented(evidence: Evidence) -> bool:
    """Whether the firmware has set up a segmented RMP."""
    config = evidence.number("msr", "rmp_cfg")
    return _capable(evidence) and config is not None and bool(config & _ENABLED)


def unknown_to_kernel(evidence: Evidence) -> bool:
    """Whether the RMP is segmented, and the kernel took that for no RMP."""
    base = evidence.number("msr", "rmp_base") or 0
    blind = any("RMP table has not been reserved" in line for line in evidence.texts("log"))
    return segmented(evidence) and bool(base & _ADDRESS) and blind


def _capable(evidence: Evidence) -> bool:
    secure = evidence.leaf("0x8000001f")
    return secure is not None and bool(secure[0] & _SEGMENTED)


def _segments(evidence: Evidence, base: int) -> Finding:
    config = evidence.number("msr", "rmp_cfg") or 0
    shift = config >> 8 & 0x3F
    limits = evidence.leaf("0x80000025")
    least, most = (limits[0] & 0x3F, limits[0] >> 6 & 0x3F) if limits else (0, 0x3F)
    if not base & _ADDRESS:
        remedy = "firmware: SNP memory (RMP table) coverage for all memory"
        found = "segmented, and no memory reserved for it"
        return Finding(TOPIC, State.MISSING, found, remedy, PURPOSE)
    if not least <= shift <= most:
        found = f"segments of 2^{shift} bytes; the CPU takes 2^{least} to 2^{most}"
        return Finding(TOPIC, State.MISSING, found, "firmware: update; RMP segment size", PURPOSE)
    if unknown_to_kernel(evidence):
        release = re.sub(r"^(\d+\.\d+).*", r"\1", evidence.text("release"))
        found = f"segmented, which this kernel ({release}) does not know"
        remedy = "Linux 6.14 or later; or firmware: split RMP table disabled"
        return Finding(TOPIC, State.MISSING, found, remedy, PURPOSE)
    size = f"{1 << shift - 30} GiB" if shift >= 30 else f"2^{shift} bytes"
    return Finding(TOPIC, State.OK, f"segmented, {size} a segment", "", PURPOSE)
