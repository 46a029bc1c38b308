# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel log says about the kernel's health."""

from __future__ import annotations

import re

# The heads of what the kernel prints when something is wrong with itself: kernel/panic.c,
# lib/bug.c, arch/x86/kernel/dumpstack.c, mm/kasan/report.c, kernel/locking/lockdep.c,
# kernel/rcu/tree_stall.h, kernel/watchdog.c, kernel/hung_task.c, lib/ubsan.c (6.12).
_SPLAT = re.compile(
    r"^.*?(?:WARNING: (?:CPU: |possible |inconsistent |suspicious |bad )|BUG: |Oops: "
    r"|kernel BUG at |general protection fault|Kernel panic|UBSAN: |KCSAN: "
    r"|rcu: INFO: rcu_\w+ (?:self-)?detected|INFO: task .* blocked for more than"
    r"|watchdog: BUG|unable to handle kernel|RMPUPDATE failed|Leaking PFN range).*$",
    re.MULTILINE,
)


def find_splat(log: str) -> str | None:
    """Return the first line that shows the kernel in trouble, None where there is none."""
    match = _SPLAT.search(log)
    return match.group().strip() if match else None
