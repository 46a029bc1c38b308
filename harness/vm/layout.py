# SPDX-License-Identifier: GPL-2.0-only
"""Where everything lies in the guest's physical and virtual address space.

The single home of these numbers: `harness.guestimage` renders them into the header that
the guest's C and assembly sources include.

GPA             what                                                state at launch
0x00100000      image: code and constants                           private, measured
0x00110000      one page per vCPU: GDT, TSS, stacks                 private, zero page
0x001e0000      page tables                                         private, measured
0x001f0000      secrets page                                        private
0x001f1000      CPUID page                                          private
0x00200000      mailboxes, one page per vCPU                        shared
0x00280000      buffers, two pages per vCPU                         shared
0x00300000      GHCBs, one page per vCPU                            shared
0x00380000      shared pages that tests use as they like            shared
0x00400000      memory that tests use as they like                  private, nothing validated

Virtual addresses: VA = GPA is the private view of the low 512 GiB (C-bit set), VA =
SHARED_VIEW + GPA the shared view (C-bit clear).  A plain guest has no C-bit, there both
views are the same memory.
"""

from __future__ import annotations

from typing import Final

PAGE_SIZE: Final = 0x1000
PAGE_SIZE_2M: Final = 0x200000

MAX_VCPUS: Final = 64

IMAGE_GPA: Final = 0x100000
IMAGE_LIMIT: Final = 0x10000
CPU_GPA: Final = 0x110000
PAGE_TABLES_GPA: Final = 0x1E0000
SECRETS_GPA: Final = 0x1F0000
CPUID_GPA: Final = 0x1F1000

SHARED_WINDOW_GPA: Final = 0x200000
SHARED_WINDOW_SIZE: Final = 0x200000
MAILBOX_GPA: Final = 0x200000
BUFFER_GPA: Final = 0x280000
BUFFER_SIZE: Final = 0x2000
GHCB_GPA: Final = 0x300000
SHARED_FREE_GPA: Final = 0x380000
SHARED_FREE_SIZE: Final = 0x80000
FREE_GPA: Final = 0x400000

VIEW_SIZE: Final = 1 << 39
"""How much of the guest's physical address space each view maps."""

SHARED_VIEW: Final = 1 << 39
"""Virtual address of GPA 0 in the shared view."""

NOTIFY_PORT: Final = 0x5E0
"""The guest writes the number of commands it has done to this port after each batch."""

CPU_STACK_TOP: Final = PAGE_SIZE
CPU_IST_TOP: Final = 0x600
CPU_DATA: Final = 0xC0
CPU_TSS: Final = 0x40

CODE_SELECTOR: Final = 0x08
DATA_SELECTOR: Final = 0x10
TSS_SELECTOR: Final = 0x18


def cpu_page(index: int) -> int:
    """The GPA of the private page that holds vCPU `index`'s GDT, TSS and stacks."""
    return CPU_GPA + _checked(index) * PAGE_SIZE


def stack_top(index: int) -> int:
    """The initial RSP of vCPU `index`."""
    return cpu_page(index) + CPU_STACK_TOP


def mailbox(index: int) -> int:
    """The GPA of vCPU `index`'s mailbox."""
    return MAILBOX_GPA + _checked(index) * PAGE_SIZE


def buffer(index: int) -> int:
    """The GPA of vCPU `index`'s shared buffer of BUFFER_SIZE bytes."""
    return BUFFER_GPA + _checked(index) * BUFFER_SIZE


def ghcb(index: int) -> int:
    """The GPA of vCPU `index`'s GHCB."""
    return GHCB_GPA + _checked(index) * PAGE_SIZE


def private(gpa: int) -> int:
    """The virtual address of `gpa` in the private view."""
    return gpa


def shared(gpa: int) -> int:
    """The virtual address of `gpa` in the shared view."""
    return SHARED_VIEW + gpa


def constants() -> dict[str, int]:
    """All numbers of this module by name, for the guest's header."""
    return {
        name: value for name, value in globals().items() if name.isupper() and type(value) is int
    }


def _checked(index: int) -> int:
    if not 0 <= index < MAX_VCPUS:
        raise ValueError(f"vCPU index {index} is not in 0..{MAX_VCPUS - 1}")
    return index
