# SPDX-License-Identifier: GPL-2.0-only
"""struct kvm_run and the exits of KVM_RUN.

include/uapi/linux/kvm.h, Linux 6.12.  KVM_EXIT_VMGEXIT and struct kvm_user_vmgexit are those
of the series' v12 (patches 14, 15 and 29 of 29); they never reached a release.
"""

from __future__ import annotations

from harness.uapi.kvm_regs import kvm_debug_exit_arch, kvm_sync_regs
from harness.uapi.layout import Struct, Union, u8, u16, u32, u64

KVM_EXIT_UNKNOWN = 0
KVM_EXIT_EXCEPTION = 1
KVM_EXIT_IO = 2
KVM_EXIT_HYPERCALL = 3
KVM_EXIT_DEBUG = 4
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_IRQ_WINDOW_OPEN = 7
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_FAIL_ENTRY = 9
KVM_EXIT_INTR = 10
KVM_EXIT_SET_TPR = 11
KVM_EXIT_TPR_ACCESS = 12
KVM_EXIT_NMI = 16
KVM_EXIT_INTERNAL_ERROR = 17
KVM_EXIT_WATCHDOG = 21
KVM_EXIT_SYSTEM_EVENT = 24
KVM_EXIT_IOAPIC_EOI = 26
KVM_EXIT_HYPERV = 27
KVM_EXIT_X86_RDMSR = 29
KVM_EXIT_X86_WRMSR = 30
KVM_EXIT_DIRTY_RING_FULL = 31
KVM_EXIT_AP_RESET_HOLD = 32
KVM_EXIT_X86_BUS_LOCK = 33
KVM_EXIT_XEN = 34
KVM_EXIT_NOTIFY = 37
KVM_EXIT_MEMORY_FAULT = 39
KVM_EXIT_VMGEXIT = 40  # v12 only
KVM_EXIT_SNP_REQ_CERTS = 43  # Linux 7.0

KVM_EXIT_IO_IN = 0
KVM_EXIT_IO_OUT = 1

KVM_EXIT_HYPERCALL_LONG_MODE = 1 << 0

KVM_MEMORY_EXIT_FLAG_PRIVATE = 1 << 3

KVM_INTERNAL_ERROR_EMULATION = 1
KVM_INTERNAL_ERROR_SIMUL_EX = 2
KVM_INTERNAL_ERROR_DELIVERY_EV = 3
KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4

KVM_SYSTEM_EVENT_SHUTDOWN = 1
KVM_SYSTEM_EVENT_RESET = 2
KVM_SYSTEM_EVENT_CRASH = 3
KVM_SYSTEM_EVENT_WAKEUP = 4
KVM_SYSTEM_EVENT_SUSPEND = 5
KVM_SYSTEM_EVENT_SEV_TERM = 6

KVM_USER_VMGEXIT_PSC_MSR = 1
KVM_USER_VMGEXIT_PSC = 2
KVM_USER_VMGEXIT_EXT_GUEST_REQ = 3
KVM_USER_VMGEXIT_PSC_MSR_OP_PRIVATE = 1
KVM_USER_VMGEXIT_PSC_MSR_OP_SHARED = 2

SYNC_REGS_SIZE_BYTES = 2048
KVM_PIO_PAGE_OFFSET = 1
"""Page of the vCPU's mapping that holds the data of a KVM_EXIT_IO."""


class kvm_run_hw(Struct):
    _fields_ = (("hardware_exit_reason", u64),)


class kvm_run_fail_entry(Struct):
    _fields_ = (("hardware_entry_failure_reason", u64), ("cpu", u32))


class kvm_run_ex(Struct):
    _fields_ = (("exception", u32), ("error_code", u32))


class kvm_run_io(Struct):
    _fields_ = (
        ("direction", u8),
        ("size", u8),
        ("port", u16),
        ("count", u32),
        ("data_offset", u64),
    )


class kvm_run_debug(Struct):
    _fields_ = (("arch", kvm_debug_exit_arch),)


class kvm_run_mmio(Struct):
    _fields_ = (("phys_addr", u64), ("data", u8 * 8), ("len", u32), ("is_write", u8))


class kvm_run_hypercall(Struct):
    _fields_ = (("nr", u64), ("args", u64 * 6), ("ret", u64), ("flags", u64))


class kvm_run_internal(Struct):
    _fields_ = (("suberror", u32), ("ndata", u32), ("data", u64 * 16))


class kvm_run_emulation_failure(Struct):
    _fields_ = (
        ("suberror", u32),
        ("ndata", u32),
        ("flags", u64),
        ("insn_size", u8),
        ("insn_bytes", u8 * 15),
    )


class kvm_run_system_event(Struct):
    _fields_ = (("type", u32), ("ndata", u32), ("data", u64 * 16))


class kvm_run_eoi(Struct):
    _fields_ = (("vector", u8),)


class kvm_run_msr(Struct):
    _fields_ = (("error", u8), ("pad", u8 * 7), ("reason", u32), ("index", u32), ("data", u64))


class kvm_run_notify(Struct):
    _fields_ = (("flags", u32),)


class kvm_run_memory_fault(Struct):
    _fields_ = (("flags", u64), ("gpa", u64), ("size", u64))


class kvm_user_vmgexit_psc_msr(Struct):
    _fields_ = (("gpa", u64), ("op", u8), ("ret", u32))


class kvm_user_vmgexit_psc(Struct):
    _fields_ = (("shared_gpa", u64), ("ret", u64))


class kvm_user_vmgexit_ext_guest_req(Struct):
    _fields_ = (("data_gpa", u64), ("data_npages", u64), ("ret", u32))


class kvm_user_vmgexit_union(Union):
    _fields_ = (
        ("psc_msr", kvm_user_vmgexit_psc_msr),
        ("psc", kvm_user_vmgexit_psc),
        ("ext_guest_req", kvm_user_vmgexit_ext_guest_req),
    )


class kvm_user_vmgexit(Struct):
    """What a KVM_EXIT_VMGEXIT of v12 asks of userspace, by `type` (KVM_USER_VMGEXIT_*)."""

    _anonymous_ = ("u",)
    _fields_ = (("type", u32), ("u", kvm_user_vmgexit_union))


class kvm_exit_snp_req_certs(Struct):
    """Asks userspace for certificates once KVM_SEV_SNP_ENABLE_REQ_CERTS was given (Linux 7.0)."""

    _fields_ = (("gpa", u64), ("npages", u64), ("ret", u64))


class kvm_run_exit(Union):
    _fields_ = (
        ("hw", kvm_run_hw),
        ("fail_entry", kvm_run_fail_entry),
        ("ex", kvm_run_ex),
        ("io", kvm_run_io),
        ("debug", kvm_run_debug),
        ("mmio", kvm_run_mmio),
        ("hypercall", kvm_run_hypercall),
        ("internal", kvm_run_internal),
        ("emulation_failure", kvm_run_emulation_failure),
        ("system_event", kvm_run_system_event),
        ("eoi", kvm_run_eoi),
        ("msr", kvm_run_msr),
        ("notify", kvm_run_notify),
        ("memory_fault", kvm_run_memory_fault),
        ("vmgexit", kvm_user_vmgexit),
        ("snp_req_certs", kvm_exit_snp_req_certs),
        ("padding", u8 * 256),
    )


class kvm_run_sync(Union):
    _fields_ = (("regs", kvm_sync_regs), ("padding", u8 * SYNC_REGS_SIZE_BYTES))


class kvm_run(Struct):
    """The start of a vCPU's mapping; the exit structures are its own fields, as in C."""

    _anonymous_ = ("exit",)
    _fields_ = (
        ("request_interrupt_window", u8),
        ("immediate_exit", u8),
        ("padding1", u8 * 6),
        ("exit_reason", u32),
        ("ready_for_interrupt_injection", u8),
        ("if_flag", u8),
        ("flags", u16),
        ("cr8", u64),
        ("apic_base", u64),
        ("exit", kvm_run_exit),
        ("kvm_valid_regs", u64),
        ("kvm_dirty_regs", u64),
        ("s", kvm_run_sync),
    )


_EXIT_NAMES = {
    value: name
    for name, value in list(globals().items())
    if name.startswith("KVM_EXIT_") and not name.startswith(("KVM_EXIT_IO_", "KVM_EXIT_HYPERCALL_"))
}


def exit_name(reason: int) -> str:
    """Name of an exit reason, the number where it has none."""
    return _EXIT_NAMES.get(reason, f"exit reason {reason}")
