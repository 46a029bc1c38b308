# SPDX-License-Identifier: GPL-2.0-only
"""Heads of splats, after the kernel's source: 6.12, and what newer kernels print instead.

A pattern matches from a message's first character on: what only mentions a splat (a command
line, a note on a mitigation) has other words in front.  Every repeat is bounded, and no two
repeats that stand next to each other match the same character: matching is linear.
"""

from __future__ import annotations

import enum
import re


class Kind(enum.StrEnum):
    """What sort of trouble."""

    WARNING = "warning"
    BUG = "bug"
    OOPS = "oops"
    GPF = "gpf"
    PANIC = "panic"
    KASAN = "kasan"
    KCSAN = "kcsan"
    KMSAN = "kmsan"
    KFENCE = "kfence"
    UBSAN = "ubsan"
    LOCKDEP = "lockdep"
    RCU_STALL = "rcu-stall"
    HUNG_TASK = "hung-task"
    SOFT_LOCKUP = "soft-lockup"
    HARD_LOCKUP = "hard-lockup"
    WORKQUEUE_LOCKUP = "workqueue-lockup"
    REFCOUNT = "refcount"
    LIST_CORRUPTION = "list-corruption"
    ATOMIC_SLEEP = "atomic-sleep"
    BAD_PAGE = "bad-page"
    SLAB = "slab"
    MEMORY_LEAK = "memory-leak"
    LEAKED_PAGE = "leaked-page"
    """Pages given up because the RMP or the firmware would not let go of them."""
    RMP = "rmp"
    """The RMP refused an update that the kernel thought right."""
    UNREAD = "unread"
    """More than the harness reads: what else there was is not known."""

    @property
    def fatal(self) -> bool:
        """Whether a kernel that printed this may well be dead or stuck."""
        return self in _FATAL


_FATAL = frozenset(
    (Kind.BUG, Kind.OOPS, Kind.GPF, Kind.PANIC, Kind.SOFT_LOCKUP, Kind.HARD_LOCKUP)
    + (Kind.HUNG_TASK, Kind.RCU_STALL, Kind.WORKQUEUE_LOCKUP, Kind.LIST_CORRUPTION)
)

# Each with the file of 6.12 that prints it.  The order decides: the special ones come first.
_HEADS: tuple[tuple[Kind, str], ...] = (
    # kernel/panic.c
    (Kind.PANIC, r"Kernel panic - not syncing"),
    # __warn() in kernel/panic.c: up to 6.18, then since 6.19
    (Kind.WARNING, r"WARNING: CPU: \d{1,6} PID: \d{1,10} at "),
    (Kind.WARNING, r"WARNING: (?:[^ ]{1,200} )?at [^,]{1,300}, CPU#\d{1,6}: "),
    # arch/x86/kernel/unwind_frame.c, dumpstack_64.c, arch/x86/mm/extable.c
    (Kind.WARNING, r"WARNING: (?:kernel stack (?:regs|frame pointer) at|stack recursion on) "),
    (Kind.WARNING, r"unchecked MSR access error: "),
    # kernel/locking/lockdep.c, rtmutex.c
    (Kind.LOCKDEP, r"WARNING: possible [a-z ]{1,60} detected"),
    (Kind.LOCKDEP, r"WARNING: [\w-]{1,40}-safe -> [\w-]{1,40}-unsafe lock order detected"),
    (Kind.LOCKDEP, r"WARNING: (?:inconsistent lock state|[Nn]ested lock was not taken)"),
    (Kind.LOCKDEP, r"WARNING: (?:bad (?:unlock balance|contention) detected|held lock freed)!"),
    (Kind.LOCKDEP, r"WARNING: [^:\n]{1,64}/\d{1,10} still has locks held!"),
    (Kind.LOCKDEP, r"WARNING: (?:lock held when returning to user space!|chain_key collision)"),
    (Kind.LOCKDEP, r"WARNING: (?:suspicious RCU usage|circular locking deadlock detected!)"),
    (Kind.LOCKDEP, r"\[ BUG: [^\]\n]{1,80} \]"),
    (Kind.LOCKDEP, r"INFO: trying to register non-static key\."),
    (Kind.LOCKDEP, r"BUG: MAX_(?:STACK|LOCK)\w{1,40} too low!"),
    (Kind.LOCKDEP, r"BUG: (?:looking up invalid subclass|key [^ ]{1,40} has not been registered)"),
    # mm/kasan/report.c, kernel/kcsan/report.c, mm/kmsan/report.c, mm/kfence/report.c
    (Kind.KASAN, r"BUG: KASAN: "),
    (Kind.KCSAN, r"BUG: KCSAN: "),
    (Kind.KMSAN, r"BUG: KMSAN: "),
    (Kind.KFENCE, r"BUG: KFENCE: "),
    # lib/ubsan.c
    (Kind.UBSAN, r"UBSAN: [\w -]{1,80} in "),
    # kernel/rcu/tree_stall.h, tree_exp.h, tasks.h
    (Kind.RCU_STALL, r"INFO: rcu\w{1,40} (?:self-)?detected (?:expedited )?stall"),
    # kernel/hung_task.c; newer ones count "blocked in I/O wait", too
    (Kind.HUNG_TASK, r"INFO: task [^\n]{1,80}:\d{1,10} blocked (?:in I/O wait )?for more than \d"),
    # kernel/watchdog.c; "CPU1: " comes in 6.17
    (Kind.SOFT_LOCKUP, r"BUG: soft lockup - CPU#"),
    (Kind.HARD_LOCKUP, r"(?:CPU\d{1,6}: )?Watchdog detected hard LOCKUP on cpu "),
    # kernel/smp.c
    (Kind.HARD_LOCKUP, r"csd: (?:Detected|Continued) non-responsive CSD lock "),
    # kernel/workqueue.c
    (Kind.WORKQUEUE_LOCKUP, r"BUG: workqueue lockup - pool"),
    (Kind.ATOMIC_SLEEP, r"BUG: workqueue leaked (?:atomic|lock)"),
    # kernel/sched/core.c, lib/smp_processor_id.c
    (Kind.ATOMIC_SLEEP, r"BUG: (?:scheduling while atomic|scheduling in a non-blocking section)"),
    (Kind.ATOMIC_SLEEP, r"BUG: sleeping function called from invalid context at "),
    (Kind.ATOMIC_SLEEP, r"BUG: assuming (?:atomic|non migratable) context at "),
    (Kind.ATOMIC_SLEEP, r"BUG: using [\w()]{1,60} in preemptible "),
    # mm/page_alloc.c, mm/memory.c, mm/filemap.c, kernel/fork.c
    (Kind.BAD_PAGE, r"BUG: Bad (?:page (?:state|map|cache)|rss-counter state)"),
    (Kind.BAD_PAGE, r"BUG: non-zero pgtables_bytes on freeing mm"),
    # mm/slub.c
    (Kind.SLAB, r"BUG [^ \n]{1,64} \([^)\n]{1,60}\): "),
    # mm/kmemleak.c
    (Kind.MEMORY_LEAK, r"\d{1,9} new suspected memory leaks"),
    # arch/x86/virt/svm/sev.c, arch/x86/kvm/svm/sev.c, drivers/crypto/ccp/sev-dev.c
    (Kind.LEAKED_PAGE, r"Leaking PFN range 0x"),
    (Kind.LEAKED_PAGE, r"Failed to reclaim firmware-owned pages"),
    (Kind.RMP, r"RMPUPDATE failed for PFN "),
    (Kind.RMP, r"SEV: Failed to update RMP entry: "),
    # drivers/iommu/amd/init.c, iommu.c: a device was about to write a guest's page
    (Kind.RMP, r"PSMASH failed for IOMMU PFN "),
    (Kind.RMP, r"Event logged \[RMP_(?:HW_ERROR|PAGE_FAULT) "),
    # lib/bug.c
    (Kind.BUG, r"[kK]ernel BUG at "),
    # arch/x86/mm/fault.c, arch/x86/kernel/traps.c, dumpstack.c (before 6.10 without "Oops: ")
    (Kind.OOPS, r"BUG: (?:kernel NULL pointer dereference|unable to handle )"),
    (Kind.OOPS, r"BUG: [^\n]{0,40}stack guard page was hit at "),
    (Kind.OOPS, r"PANIC: double fault"),
    (Kind.GPF, r"(?:Oops: )?(?:segment-related )?general protection fault[,:]"),
    (Kind.OOPS, r"Oops: [^\n]{1,120}: [0-9a-f]{4} \[#\d"),
    (Kind.OOPS, r"(?:Oops|invalid opcode|divide error|stack segment): [0-9a-f]{4} \[#\d"),
)
# Everything else that calls itself a bug: kernel/locking/spinlock_debug.c and others.
_ANY_BUG = (Kind.BUG, r"BUG: ")

# pr_fmt of the printing file: "watchdog: ", "rcu: ", "SEV-SNP: ", "AMD-Vi: ", "ccp 0000:22:00.1: "
_SUBSYSTEM = r"(?:[A-Za-z][\w./-]{0,30}(?: [\w:.]{1,20})?: )?"
_HEAD = re.compile(
    f"{_SUBSYSTEM}(?:{'|'.join(f'({head})' for _, head in (*_HEADS, _ANY_BUG))})",
)

HINT = re.compile(
    r"WARNING: |BUG: |BUG at |BUG |Oops|UBSAN: |Kernel panic|INFO: |LOCKUP on|CSD lock"
    r"|general protection|double fault|suspected memory|Leaking PFN|reclaim firmware"
    r"|RMPUPDATE failed|update RMP entry|PSMASH failed|logged \[RMP_|MSR access error"
    r"|invalid opcode: |divide error: |stack segment: "
)
"""Without one of these a line is no head; found fast in much text."""

# What a WARN or BUG says besides: lib/refcount.c, lib/list_debug.c (6.12).
_REFINED: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (Kind.REFCOUNT, re.compile(r"refcount_t: ")),
    (Kind.LIST_CORRUPTION, re.compile(r"list_(?:add|del)(?: |_)(?:corruption|double add)")),
    (Kind.HARD_LOCKUP, re.compile(r"Watchdog detected hard LOCKUP")),
)

# Panics that only end what another splat began: kernel/panic.c, hung_task.c, watchdog.c,
# rcu/tree_stall.h, arch/x86/kernel/dumpstack.c (6.12).
ECHO = re.compile(
    r"Kernel panic - not syncing: (?:Fatal exception|[\w ]{1,20}: panic_on_warn set"
    r"|softlockup: hung tasks|hung_task: blocked tasks|Hard LOCKUP|RCU Stall|NMI: Not continuing)"
)

LIST_MESSAGE = _REFINED[1][1]


def classify(message: str, *, stamped: bool) -> Kind | None:
    """Tell which kind of splat a message is the head of, None where of none.

    stamped: it has a time or caller in front.  What has not may come from a program that
    writes to the console, and is believed only where its words are the kernel's alone.
    """
    match = _HEAD.match(message) if HINT.search(message) else None
    if match is None:
        return None
    assert match.lastindex is not None  # one group an alternative, and no other groups
    if match.lastindex > len(_HEADS):
        return Kind.BUG if stamped else None
    return _HEADS[match.lastindex - 1][0]


def refine(kind: Kind, message: str) -> Kind:
    """Tell the kind of a WARN or BUG from what was printed with it."""
    if kind in (Kind.WARNING, Kind.BUG):
        for better, pattern in _REFINED:
            if pattern.search(message):
                return better
    return kind
