# SPDX-License-Identifier: GPL-2.0-only
"""The commands of a guest's vCPU in words, for messages."""

from __future__ import annotations

from typing import Final

from harness.uapi import kvm as uapi
from harness.uapi.svm import SVM_VMGEXIT_PSC, svm_exit_name
from harness.vm import layout
from harness.vm.mailbox import Command, Op

_AT_ADDRESS: Final = frozenset(
    {
        *(Op.PVALIDATE, Op.RMPADJUST, Op.RMPQUERY, Op.LOAD, Op.STORE, Op.FILL, Op.CHECKSUM),
        *(Op.VERIFY, Op.COPY, Op.BUILD_VMSA, Op.SPIN_UNTIL, Op.LOCKED_ADD, Op.STORE_LOOP),
        Op.LOAD_LOOP,
    }
)
"""Commands whose first argument is a virtual address."""


_HYPERCALLS: Final = {
    value: name for name, value in vars(uapi).items() if name.startswith("KVM_HC_")
}


def exit_code(code: int) -> str:
    """Name a VMGEXIT: `VMGEXIT 0x80000010 (PSC)`."""
    name = svm_exit_name(code).removeprefix("SVM_EXIT_").removeprefix("SVM_VMGEXIT_")
    return f"VMGEXIT {code:#x}" + (f" ({name})" if name.isupper() else "")


def describe(command: Command) -> str:
    """Say what a command does: `LOAD of private GPA 0x400000`."""
    op, args = command.op, command.args
    first = args[0] if args else 0
    if op in _AT_ADDRESS:
        shared = first >= layout.SHARED_VIEW
        gpa = first - layout.SHARED_VIEW if shared else first
        return f"{op.name} of {'shared' if shared else 'private'} GPA {gpa:#x}"
    match op:
        case Op.VMGEXIT:
            return exit_code(first)
        case Op.PSC:
            return exit_code(SVM_VMGEXIT_PSC)
        case Op.VMGEXIT_MSR:
            return f"GHCB MSR request {first:#x}"
        case Op.HYPERCALL:
            name = _HYPERCALLS.get(first, str(first))
            return f"hypercall {name}"
        case Op.CPUID | Op.RDMSR | Op.WRMSR | Op.IN | Op.OUT:
            return f"{op.name} {first:#x}"
        case _:
            return op.name
