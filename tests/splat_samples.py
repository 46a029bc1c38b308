# SPDX-License-Identifier: GPL-2.0-only
"""What kernels print, shortened: one log a kind of splat, as on the serial console."""

from __future__ import annotations

from harness.splats import Kind

TRACE = """\
[   12.000002] CPU: 1 UID: 0 PID: 214 Comm: agent Not tainted 6.12.117-snptest #1
[   12.000003] Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.2 04/01/2014
[   12.000004] Call Trace:
[   12.000005]  <TASK>
[   12.000006]  dump_stack_lvl+0x4b/0x70
[   12.000007]  ? kvm_gmem_release+0x3c/0x110 [kvm]
[   12.000008]  </TASK>
"""
REGISTERS = """\
[   12.000002] Modules linked in: kvm_amd kvm
[   12.000003] CPU: 1 UID: 0 PID: 214 Comm: agent Not tainted 6.12.117-snptest #1
[   12.000004] RIP: 0010:sev_gmem_invalidate+0x11c/0x150 [kvm_amd]
[   12.000005] Code: 48 89 df e8 4b 2f ff ff <0f> 0b eb c4 66 90
[   12.000006] RSP: 0018:ffffc900003d7c40 EFLAGS: 00010286
[   12.000007] Call Trace:
[   12.000008]  <TASK>
[   12.000009]  kvm_gmem_free_folio+0x2e/0x40 [kvm]
[   12.000010]  </TASK>
[   12.000011] ---[ end trace 0000000000000000 ]---
"""
CUT = "[   12.000000] ------------[ cut here ]------------\n"
RULE = "[   12.000000] ==================================================================\n"
AFTER = "[   13.000000] kvm: the next line has nothing to do with it\n"


def line(text: str) -> str:
    return f"[   12.000001] {text}\n"


WARN = line("WARNING: CPU: 1 PID: 214 at arch/x86/kvm/svm/sev.c:4998 sev_gmem_invalidate+0x11c/0x1")
WARN_619 = line(
    "WARNING: arch/x86/kvm/svm/sev.c:4998 at sev_gmem_invalidate+0x11c/0x150, CPU#1: agent/214"
)
BUG_AT = line("kernel BUG at mm/page_alloc.c:1234!")

# (kind, a word of the head, the log); what must be in the block besides: its last line.
SAMPLES: dict[str, tuple[Kind, str, str]] = {
    "warn": (Kind.WARNING, "sev.c:4998", CUT + WARN + REGISTERS),
    "warn-6.19": (Kind.WARNING, "sev.c:4998", CUT + WARN_619 + REGISTERS),
    "warn-without-file": (
        Kind.WARNING,
        "CPU#0",
        CUT + line("WARNING: at 0xffffffff81001234, CPU#0: swapper/0/0") + REGISTERS,
    ),
    "warn-message": (
        Kind.WARNING,
        "bugs.c",
        CUT
        + line("Unpatched return thunk in use. This should not happen!")
        + line("WARNING: CPU: 0 PID: 1 at arch/x86/kernel/cpu/bugs.c:3107 __warn_thunk+0x62/0x70")
        + REGISTERS,
    ),
    "refcount": (
        Kind.REFCOUNT,
        "refcount.c:28",
        CUT
        + line("refcount_t: underflow; use-after-free.")
        + line("WARNING: CPU: 1 PID: 4 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110")
        + REGISTERS,
    ),
    "list-warn": (
        Kind.LIST_CORRUPTION,
        "list_debug.c",
        CUT
        + line("list_del corruption. prev->next should be ffff888003d7c400, but was 0000000000.")
        + line("WARNING: CPU: 1 PID: 4 at lib/list_debug.c:62 __list_del_entry_valid_or_report+0x")
        + REGISTERS,
    ),
    "list-bug": (
        Kind.LIST_CORRUPTION,
        "kernel BUG at lib/list_debug.c",
        line("list_add corruption. next->prev should be prev (ffff888003), but was ffff8880.")
        + CUT
        + line("kernel BUG at lib/list_debug.c:29!")
        + line("Oops: invalid opcode: 0000 [#1] PREEMPT SMP NOPTI")
        + REGISTERS,
    ),
    "bug": (
        Kind.BUG,
        "kernel BUG at mm",
        CUT + BUG_AT + line("Oops: invalid opcode: 0000 [#1] PREEMPT SMP NOPTI") + REGISTERS,
    ),
    "oops": (
        Kind.OOPS,
        "NULL pointer",
        line("BUG: kernel NULL pointer dereference, address: 0000000000000010")
        + line("#PF: supervisor write access in kernel mode")
        + line("#PF: error_code(0x0002) - not-present page")
        + line("PGD 0 P4D 0")
        + line("Oops: Oops: 0002 [#1] SMP NOPTI")
        + REGISTERS,
    ),
    "oops-rmp": (
        Kind.OOPS,
        "unable to handle page fault",
        line("BUG: unable to handle page fault for address: ffff9a8b40000000")
        + line("#PF: supervisor write access in kernel mode")
        + line("#PF: error_code(0x80000003) - RMP violation")
        + line("SEV-SNP: PFN 0x140000, RMP entry: [0x0000000000001000 - 0x0000000000000000]")
        + line("Oops: Oops: 80000003 [#1] PREEMPT SMP NOPTI".replace("80000003", "0003"))
        + REGISTERS,
    ),
    "stack-guard": (
        Kind.OOPS,
        "stack guard page",
        line("BUG: TASK stack guard page was hit at ffffc900003d7ff8 (stack is ffffc900003d8000..)")
        + line("Oops: stack guard page: 0000 [#1] SMP NOPTI")
        + REGISTERS,
    ),
    "double-fault": (
        Kind.OOPS,
        "double fault",
        line("traps: PANIC: double fault, error_code: 0x0")
        + line("Oops: double fault: 0000 [#1] SMP NOPTI")
        + REGISTERS,
    ),
    "gpf": (
        Kind.GPF,
        "non-canonical",
        line(
            "Oops: general protection fault, probably for non-canonical address "
            "0xdffffc0000000002: 0000 [#1] PREEMPT SMP KASAN NOPTI"
        )
        + line("KASAN: null-ptr-deref in range [0x0000000000000010-0x0000000000000017]")
        + REGISTERS,
    ),
    "gpf-before-6.10": (
        Kind.GPF,
        "general protection fault: 0000",
        line("general protection fault: 0000 [#1] SMP NOPTI") + REGISTERS,
    ),
    "panic": (
        Kind.PANIC,
        "Attempted to kill init",
        line("Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b")
        + TRACE
        + "[   12.000020] Kernel Offset: disabled\n"
        + "[   12.000021] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\n",
    ),
    "kasan": (
        Kind.KASAN,
        "slab-use-after-free",
        RULE
        + line("BUG: KASAN: slab-use-after-free in kvm_gmem_release+0x3c/0x110 [kvm]")
        + line("Write of size 8 at addr ffff888003d7c400 by task agent/214")
        + line("")
        + TRACE
        + line("Allocated by task 214:")
        + line(" kasan_save_stack+0x33/0x60")
        + line("Memory state around the buggy address:")
        + line(">ffff888003d7c400: fa fb fb fb fb fb fb fb fc fc fc fc fc fc fc fc")
        + line("                   ^")
        + RULE,
    ),
    "kcsan": (
        Kind.KCSAN,
        "data-race",
        RULE
        + line("BUG: KCSAN: data-race in kvm_vcpu_kick / vcpu_enter_guest")
        + line("write to 0xffff888003d7c400 of 4 bytes by task 214 on cpu 1:")
        + line(" kvm_vcpu_kick+0x33/0x60")
        + line("value changed: 0x00000001 -> 0x00000002")
        + RULE,
    ),
    "kmsan": (
        Kind.KMSAN,
        "uninit-value",
        RULE.replace("=============]", "]")
        + line("BUG: KMSAN: uninit-value in sev_launch_update+0x33/0x60")
        + line(" sev_launch_update+0x33/0x60")
        + RULE,
    ),
    "kfence": (
        Kind.KFENCE,
        "out-of-bounds",
        RULE
        + line("BUG: KFENCE: out-of-bounds read in sev_launch_update+0x33/0x60")
        + line("Out-of-bounds read at 0xffff888003d7bfff (1B left of kfence-#72):")
        + line(" sev_launch_update+0x33/0x60")
        + RULE,
    ),
    "ubsan": (
        Kind.UBSAN,
        "shift-out-of-bounds",
        CUT
        + line("UBSAN: shift-out-of-bounds in arch/x86/kvm/svm/sev.c:2297:10")
        + line("shift exponent 64 is too large for 64-bit type 'long unsigned int'")
        + TRACE
        + line("---[ end trace ]---"),
    ),
    "lockdep-circular": (
        Kind.LOCKDEP,
        "possible circular locking dependency",
        RULE.replace("============\n", "\n")
        + line("WARNING: possible circular locking dependency detected")
        + line("6.12.117-snptest #1 Not tainted")
        + line("------------------------------------------------------")
        + line("agent/214 is trying to acquire lock:")
        + line("ffff888003d7c400 (&kvm->lock){+.+.}-{4:4}, at: sev_mem_enc_ioctl+0x40/0x9b0")
        + line("")
        + line("but task is already holding lock:")
        + line("ffff888003d7c500 (&vcpu->mutex){+.+.}-{4:4}, at: kvm_vcpu_ioctl+0x80/0x6d0 [kvm]")
        + line("the existing dependency chain (in reverse order) is:")
        + line("-> #1 (&vcpu->mutex){+.+.}-{4:4}:")
        + line("       __mutex_lock+0x96/0xcf0")
        + line(" Possible unsafe locking scenario:")
        + line("       CPU0                    CPU1")
        + line("       ----                    ----")
        + line("  lock(&kvm->lock);")
        + line(" *** DEADLOCK ***")
        + line("1 lock held by agent/214:")
        + line(" #0: ffff888003d7c500 (&vcpu->mutex){+.+.}-{4:4}, at: kvm_vcpu_ioctl+0x80/0x6d0")
        + line("stack backtrace:")
        + TRACE,
    ),
    "lockdep-recursive": (
        Kind.LOCKDEP,
        "recursive",
        line("WARNING: possible recursive locking detected") + TRACE,
    ),
    "lockdep-inversion": (
        Kind.LOCKDEP,
        "inversion",
        line("WARNING: possible irq lock inversion dependency detected") + TRACE,
    ),
    "lockdep-order": (
        Kind.LOCKDEP,
        "SOFTIRQ-safe",
        line("WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected") + TRACE,
    ),
    "lockdep-state": (Kind.LOCKDEP, "state", line("WARNING: inconsistent lock state") + TRACE),
    "lockdep-balance": (
        Kind.LOCKDEP,
        "balance",
        line("WARNING: bad unlock balance detected!") + TRACE,
    ),
    "lockdep-freed": (Kind.LOCKDEP, "freed", line("WARNING: held lock freed!") + TRACE),
    "lockdep-held": (
        Kind.LOCKDEP,
        "still has locks held",
        line("WARNING: agent/214 still has locks held!") + TRACE,
    ),
    "lockdep-user": (
        Kind.LOCKDEP,
        "user space",
        line("WARNING: lock held when returning to user space!") + TRACE,
    ),
    "lockdep-rcu": (Kind.LOCKDEP, "RCU", line("WARNING: suspicious RCU usage") + TRACE),
    "lockdep-context": (
        Kind.LOCKDEP,
        "wait context",
        line("[ BUG: Invalid wait context ]") + TRACE,
    ),
    "lockdep-key": (
        Kind.LOCKDEP,
        "non-static key",
        line("INFO: trying to register non-static key.") + TRACE,
    ),
    "rcu": (
        Kind.RCU_STALL,
        "self-detected stall",
        line("rcu: INFO: rcu_preempt self-detected stall on CPU")
        + line("rcu: \t1-....: (20999 ticks this GP) idle=1f34/1/0x4000000000000000")
        + line("rcu: \t(t=21000 jiffies g=2105 q=54 ncpus=2)")
        + REGISTERS.rpartition("[   12.000011]")[0],
    ),
    "rcu-other": (
        Kind.RCU_STALL,
        "detected stalls",
        line("rcu: INFO: rcu_sched detected stalls on CPUs/tasks:")
        + line("rcu: \t1-...!: (0 ticks this GP) idle=1f34/1/0x4000000000000000")
        + TRACE,
    ),
    "rcu-expedited": (
        Kind.RCU_STALL,
        "expedited",
        line("rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-...D } 6500")
        + TRACE,
    ),
    "hung-task": (
        Kind.HUNG_TASK,
        "blocked for more than 120",
        line("INFO: task agent:214 blocked for more than 120 seconds.")
        + line("      Not tainted 6.12.117-snptest #1")
        + line('"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.')
        + line(
            "task:agent           state:D stack:0     pid:214   tgid:214   ppid:1      flags:0x0"
        )
        + TRACE,
    ),
    "soft-lockup": (
        Kind.SOFT_LOCKUP,
        "CPU#1",
        line("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [agent:214]")
        + REGISTERS.rpartition("[   12.000011]")[0],
    ),
    "hard-lockup": (
        Kind.HARD_LOCKUP,
        "cpu 1",
        line("watchdog: Watchdog detected hard LOCKUP on cpu 1")
        + REGISTERS.rpartition("[   12.000011]")[0],
    ),
    "hard-lockup-6.17": (
        Kind.HARD_LOCKUP,
        "cpu 3",
        line("watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3")
        + REGISTERS.rpartition("[   12.000011]")[0],
    ),
    "csd": (
        Kind.HARD_LOCKUP,
        "CSD lock",
        line("smp: csd: Detected non-responsive CSD lock (#1) on CPU#0, waiting 5000000000 ns for")
        + TRACE,
    ),
    "workqueue-lockup": (
        Kind.WORKQUEUE_LOCKUP,
        "pool cpus=1",
        line("BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 32s!")
        + line("Showing busy workqueues and worker pools:")
        + line("workqueue events: flags=0x0")
        + line("  pwq 6: cpus=1 node=0 flags=0x0 nice=0 active=1 refcnt=2"),
    ),
    "atomic-sleep": (
        Kind.ATOMIC_SLEEP,
        "invalid context",
        line("BUG: sleeping function called from invalid context at kernel/locking/mutex.c:585")
        + line("in_atomic(): 1, irqs_disabled(): 0, non_block: 0, pid: 214, name: agent")
        + line("preempt_count: 1, expected: 0")
        + TRACE,
    ),
    "atomic-schedule": (
        Kind.ATOMIC_SLEEP,
        "scheduling while atomic",
        line("BUG: scheduling while atomic: agent/214/0x00000002") + TRACE,
    ),
    "preemptible": (
        Kind.ATOMIC_SLEEP,
        "smp_processor_id",
        line("BUG: using smp_processor_id() in preemptible [00000000] code: agent/214") + TRACE,
    ),
    "workqueue-atomic": (
        Kind.ATOMIC_SLEEP,
        "workqueue leaked",
        line("BUG: workqueue leaked atomic, lock or RCU: kworker/1:1[42]") + TRACE,
    ),
    "bad-page": (
        Kind.BAD_PAGE,
        "Bad page state",
        line("BUG: Bad page state in process agent  pfn:03d7c")
        + line("page: refcount:-1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x3d7c")
        + line("page dumped because: nonzero _refcount")
        + TRACE,
    ),
    "rss": (
        Kind.BAD_PAGE,
        "rss-counter",
        line("BUG: Bad rss-counter state mm:00000000d0a1 type:MM_FILEPAGES val:2"),
    ),
    "slab": (
        Kind.SLAB,
        "kmalloc-64",
        RULE
        + line("BUG kmalloc-64 (Not tainted): Poison overwritten")
        + line("-----------------------------------------------------------------------------")
        + line("0xffff888003d7c400-0xffff888003d7c407 @offset=1024. First byte 0x0 instead of 0x6b")
        + line("Slab 0xffffea00000f5f00 objects=64 used=3 fp=0xffff888003d7c440 flags=0x200")
        + TRACE,
    ),
    "memory-leak": (
        Kind.MEMORY_LEAK,
        "3 new suspected",
        line("kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)"),
    ),
    "leaked-page": (
        Kind.LEAKED_PAGE,
        "0x3d7c-0x3d7d",
        line("SEV-SNP: Leaking PFN range 0x3d7c-0x3d7d")
        + line("SEV-SNP: PFN 0x3d7c, RMP entry: [0x0000000000100001 - 0x0000000000000001]"),
    ),
    "leaked-firmware-page": (
        Kind.LEAKED_PAGE,
        "reclaim",
        line("Failed to reclaim firmware-owned pages while issuing SEV legacy command."),
    ),
    "rmpupdate": (
        Kind.RMP,
        "PFN 3d7c",
        line("SEV-SNP: RMPUPDATE failed for PFN 3d7c, pg_level: 1, ret: 2")
        + line("SEV-SNP: PFN 0x3d7c, RMP entry: [0x0000000000100001 - 0x0000000000000001]")
        + TRACE,
    ),
    "iommu-rmp": (
        Kind.RMP,
        "RMP_PAGE_FAULT",
        line("AMD-Vi: Event logged [RMP_PAGE_FAULT device=0000:22:00.1, vmg_tag=0x0000, gpa=0x0]"),
    ),
    "kvm-rmp": (
        Kind.RMP,
        "Failed to update RMP entry",
        line("kvm_amd: SEV: Failed to update RMP entry: GFN 100 PFN 3d7c level 1 error -14"),
    ),
    "msr": (
        Kind.WARNING,
        "MSR access",
        line(
            "unchecked MSR access error: WRMSR to 0xc0010130 (tried to write 0x0000000000001000) "
            "at rIP: 0xffffffff81071234 (svm_vcpu_run+0x22/0x50)"
        )
        + TRACE,
    ),
    "spinlock": (
        Kind.BUG,
        "bad magic",
        line("BUG: spinlock bad magic on CPU#1, agent/214")
        + line(" lock: 0xffff888003d7c400, .magic: 00000000, .owner: <none>/-1, .owner_cpu: 0")
        + TRACE,
    ),
}

# Words of splats in lines that are none.
HARMLESS = """\
[    0.000000] Command line: console=ttyS0 panic=-1 oops=panic hung_task_panic=1 softlockup_panic=1
[    0.056558] Kernel command line: ro BUG: Oops: WARNING: CPU: 1 PID: 2 at x panic_on_warn=1
[    0.000000] calibrate_delay_direct() failed to get a good estimate for loops_per_jiffy.
[    0.004000] ..MP-BIOS bug: 8254 timer not connected to IO-APIC
[    0.657274] PCI: Using host bridge windows from ACPI; if necessary, report a bug
[    0.100000] Speculative Return Stack Overflow: WARNING: See https://kernel.org/doc/html/latest/
[    0.100001] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible
[    0.100002] active return thunk: srso_alias_return_thunk
[    0.200000] SEV-SNP: RMP table physical range [0x0000000035600000 - 0x0000000075bfffff]
[    0.200001] SEV-SNP: Reserving start/end of RMP table on a 2MB boundary [0x0000000035600000]
[    0.300000] kvm_amd: SEV-SNP enabled (ASIDs 1 - 99)
[    0.300001] lockdep: fixing up alternatives. INFO: lockdep is turned off.
[    0.300002] rcu: INFO: Stall ended before state dump start
[    0.400000] perf: interrupt took too long (2511 > 2500), lowering the rate
[   24.150845] KVM: debugfs: duplicate directory 68-9
[   25.000000] snptest: in this test the word Oops: or Kernel panic - not syncing means nothing
[   26.000000] kvm_amd: SEV: Unexpected RMP fault for non-private GPA 0x1000
BUG: this line was printed by a program
"""
