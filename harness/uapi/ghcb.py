# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: F403 - guest_message and svm share this name space
"""The guest-hypervisor communication block and its protocols.

arch/x86/include/asm/svm.h, sev-common.h and sev.h, Linux 6.12; GHCB specification 56421
rev 2.03.  Exit codes are in svm, guest messages and pages in guest_message; their names are
also found here.
"""

from __future__ import annotations

from enum import IntEnum

from harness.uapi.guest_message import *
from harness.uapi.layout import PAGE_SIZE, PackedStruct, Struct, offset, u8, u16, u32, u64
from harness.uapi.svm import *

GHCB_PROTOCOL_MIN = 1
GHCB_PROTOCOL_MAX = 2
GHCB_DEFAULT_USAGE = 0
GHCB_SHARED_BUF_SIZE = 2032

# MSR protocol: bits 11:0 say what the other bits of the GHCB MSR mean.
MSR_AMD64_SEV_ES_GHCB = 0xC0010130
GHCB_DATA_LOW = 12
GHCB_MSR_INFO_MASK = (1 << GHCB_DATA_LOW) - 1
GHCB_MSR_SEV_INFO_RESP = 0x001
GHCB_MSR_SEV_INFO_REQ = 0x002
GHCB_MSR_CPUID_REQ = 0x004
GHCB_MSR_CPUID_RESP = 0x005
GHCB_MSR_AP_RESET_HOLD_REQ = 0x006
GHCB_MSR_AP_RESET_HOLD_RESP = 0x007
GHCB_MSR_PREF_GPA_REQ = 0x010
GHCB_MSR_PREF_GPA_RESP = 0x011
GHCB_MSR_PREF_GPA_NONE = 0xFFFFFFFFFFFFF
GHCB_MSR_REG_GPA_REQ = 0x012
GHCB_MSR_REG_GPA_RESP = 0x013
GHCB_MSR_PSC_REQ = 0x014
GHCB_MSR_PSC_RESP = 0x015
GHCB_MSR_PSC_RESP_ERROR = 1 << 63 | GHCB_MSR_PSC_RESP
GHCB_MSR_VMPL_REQ = 0x016
GHCB_MSR_VMPL_RESP = 0x017
GHCB_MSR_HV_FT_REQ = 0x080
GHCB_MSR_HV_FT_RESP = 0x081
GHCB_MSR_TERM_REQ = 0x100

GHCB_MSR_CPUID_FUNC_POS = 32
GHCB_MSR_CPUID_REG_POS = 30
GHCB_CPUID_REQ_EAX, GHCB_CPUID_REQ_EBX, GHCB_CPUID_REQ_ECX, GHCB_CPUID_REQ_EDX = range(4)
GHCB_MSR_GPA_VALUE_POS = 12
GHCB_MSR_HV_FT_POS = 12
GHCB_MSR_TERM_REASON_SET_POS = 12
GHCB_MSR_TERM_REASON_POS = 16

# Hypervisor features; bits without a kernel name are of the specification, section 4.1.7.
GHCB_HV_FT_SNP = 1 << 0
GHCB_HV_FT_SNP_AP_CREATION = 1 << 1
GHCB_HV_FT_SNP_RESTRICTED_INJECTION = 1 << 2
GHCB_HV_FT_SNP_RESTRICTED_INJECTION_TIMER = 1 << 3
GHCB_HV_FT_APIC_ID_LIST = 1 << 4
GHCB_HV_FT_SNP_MULTI_VMPL = 1 << 5
GHCB_HV_FT_SUPPORTED = GHCB_HV_FT_SNP | GHCB_HV_FT_SNP_AP_CREATION
"""What 6.12's KVM offers (arch/x86/kvm/svm/sev.c)."""

# Termination reasons.
SEV_TERM_SET_GEN = 0
GHCB_SEV_ES_GEN_REQ = 0
GHCB_SEV_ES_PROT_UNSUPPORTED = 1
GHCB_SNP_UNSUPPORTED = 2
SEV_TERM_SET_LINUX = 1
GHCB_TERM_REGISTER = 0
GHCB_TERM_PSC = 1
GHCB_TERM_PVALIDATE = 2
GHCB_TERM_NOT_VMPL0 = 3
GHCB_TERM_CPUID = 4
GHCB_TERM_CPUID_HV = 5
GHCB_TERM_SECRETS_PAGE = 6

# SW_EXITINFO1[31:0] of an answer, and the reasons in SW_EXITINFO2 when it is 2.
GHCB_SW_EXITINFO1_OK = 0
GHCB_SW_EXITINFO1_EXCEPTION = 1
GHCB_SW_EXITINFO1_MALFORMED_INPUT = 2


class GhcbError(IntEnum):
    """Why the hypervisor calls the input of a VMGEXIT malformed (SW_EXITINFO2)."""

    NONE = 0  # ours: the input is not malformed
    GHCB_ERR_NOT_REGISTERED = 1
    GHCB_ERR_INVALID_USAGE = 2
    GHCB_ERR_INVALID_SCRATCH_AREA = 3
    GHCB_ERR_MISSING_INPUT = 4
    GHCB_ERR_INVALID_INPUT = 5
    GHCB_ERR_INVALID_EVENT = 6

    @staticmethod
    def name_of(value: int) -> str:
        """Name of a reason with its number; "none" is 0."""
        if not value:
            return "none"
        known = value in set(GhcbError)
        return f"{GhcbError(value).name} ({value})" if known else f"reason {value}"


GHCB_ERR_NOT_REGISTERED = GhcbError.GHCB_ERR_NOT_REGISTERED
GHCB_ERR_INVALID_USAGE = GhcbError.GHCB_ERR_INVALID_USAGE
GHCB_ERR_INVALID_SCRATCH_AREA = GhcbError.GHCB_ERR_INVALID_SCRATCH_AREA
GHCB_ERR_MISSING_INPUT = GhcbError.GHCB_ERR_MISSING_INPUT
GHCB_ERR_INVALID_INPUT = GhcbError.GHCB_ERR_INVALID_INPUT
GHCB_ERR_INVALID_EVENT = GhcbError.GHCB_ERR_INVALID_EVENT

# Page state change.
SNP_PAGE_STATE_PRIVATE = 1
SNP_PAGE_STATE_SHARED = 2
VMGEXIT_PSC_OP_PRIVATE = 1
VMGEXIT_PSC_OP_SHARED = 2
VMGEXIT_PSC_OP_PSMASH = 3  # GHCB specification, page state change entry
VMGEXIT_PSC_OP_UNSMASH = 4
VMGEXIT_PSC_MAX_ENTRY = 64
VMGEXIT_PSC_MAX_COUNT = 253
VMGEXIT_PSC_ERROR_GENERIC = 0x100 << 32
VMGEXIT_PSC_ERROR_INVALID_HDR = 1 << 32 | 1
VMGEXIT_PSC_ERROR_INVALID_ENTRY = 1 << 32 | 2

# AP reset hold: how a vCPU waits (arch/x86/kvm/svm/sev.c, 6.12).
AP_RESET_HOLD_NONE = 0
AP_RESET_HOLD_NAE_EVENT = 1
AP_RESET_HOLD_MSR_PROTO = 2

# SW_EXITINFO1 of SVM_EXIT_IOIO: arch/x86/include/asm/svm.h, 6.12.
SVM_IOIO_TYPE_MASK = 1
SVM_IOIO_STR_SHIFT = 2
SVM_IOIO_REP_SHIFT = 3
SVM_IOIO_SIZE_SHIFT = 4
SVM_IOIO_ASIZE_SHIFT = 7
SVM_IOIO_STR_MASK = 1 << SVM_IOIO_STR_SHIFT
SVM_IOIO_REP_MASK = 1 << SVM_IOIO_REP_SHIFT
SVM_IOIO_SIZE_MASK = 7 << SVM_IOIO_SIZE_SHIFT
SVM_IOIO_ASIZE_MASK = 7 << SVM_IOIO_ASIZE_SHIFT


class ghcb_save_area(PackedStruct):
    _fields_ = (
        ("reserved_0x0", u8 * 203),
        ("cpl", u8),
        ("reserved_0xcc", u8 * 116),
        ("xss", u64),
        ("reserved_0x148", u8 * 24),
        ("dr7", u64),
        ("reserved_0x168", u8 * 16),
        ("rip", u64),
        ("reserved_0x180", u8 * 88),
        ("rsp", u64),
        ("reserved_0x1e0", u8 * 24),
        ("rax", u64),
        ("reserved_0x200", u8 * 264),
        ("rcx", u64),
        ("rdx", u64),
        ("rbx", u64),
        ("reserved_0x320", u8 * 8),
        ("rbp", u64),
        ("rsi", u64),
        ("rdi", u64),
        ("r8", u64),
        ("r9", u64),
        ("r10", u64),
        ("r11", u64),
        ("r12", u64),
        ("r13", u64),
        ("r14", u64),
        ("r15", u64),
        ("reserved_0x380", u8 * 16),
        ("sw_exit_code", u64),
        ("sw_exit_info_1", u64),
        ("sw_exit_info_2", u64),
        ("sw_scratch", u64),
        ("reserved_0x3b0", u8 * 56),
        ("xcr0", u64),
        ("valid_bitmap", u8 * 16),
        ("x87_state_gpa", u64),
    )


class ghcb(PackedStruct):
    """The GHCB page."""

    _fields_ = (
        ("save", ghcb_save_area),
        ("reserved_save", u8 * (2048 - 1032)),
        ("shared_buffer", u8 * GHCB_SHARED_BUF_SIZE),
        ("reserved_0xff0", u8 * 10),
        ("protocol_version", u16),
        ("ghcb_usage", u32),
    )


class psc_hdr(Struct):
    _fields_ = (("cur_entry", u16), ("end_entry", u16), ("reserved", u32))


class psc_entry(Struct):
    _fields_ = (
        ("cur_page", u64, 12),
        ("gfn", u64, 40),
        ("operation", u64, 4),
        ("pagesize", u64, 1),
        ("reserved", u64, 7),
    )


class snp_psc_desc(Struct):
    """A page state change request as large as a Linux guest makes it."""

    _fields_ = (("hdr", psc_hdr), ("entries", psc_entry * VMGEXIT_PSC_MAX_ENTRY))


class psc_buffer(Struct):
    """A page state change request as large as the shared buffer allows."""

    _fields_ = (("hdr", psc_hdr), ("entries", psc_entry * VMGEXIT_PSC_MAX_COUNT))


def ghcb_valid_bit(field: str) -> int:
    """Bit of valid_bitmap that a field of the save area has: one for each 8 bytes."""
    return offset(ghcb_save_area, field) // 8


def ghcb_set_valid(block: ghcb, field: str, value: int) -> None:
    """Store a field of the save area and mark it valid."""
    setattr(block.save, field, value)
    bit = ghcb_valid_bit(field)
    block.save.valid_bitmap[bit // 8] |= 1 << bit % 8


def ghcb_is_valid(block: ghcb, field: str) -> bool:
    """Whether a field of the save area is marked valid."""
    bit = ghcb_valid_bit(field)
    return bool(block.save.valid_bitmap[bit // 8] & 1 << bit % 8)


def GHCB_MSR_SEV_INFO(maximum: int, minimum: int, cbit: int) -> int:
    """Value of the answer to an SEV information request."""
    return maximum << 48 | minimum << 32 | cbit << 24 | GHCB_MSR_SEV_INFO_RESP


def GHCB_CPUID_REQ(function: int, register: int) -> int:
    """Value of a CPUID request for one register of a function."""
    return (
        function << GHCB_MSR_CPUID_FUNC_POS
        | (register & 3) << GHCB_MSR_CPUID_REG_POS
        | GHCB_MSR_CPUID_REQ
    )


def GHCB_MSR_REG_GPA_REQ_VAL(gfn: int) -> int:
    """Value of a request to register the GHCB at a guest frame."""
    return gfn << GHCB_MSR_GPA_VALUE_POS | GHCB_MSR_REG_GPA_REQ


def GHCB_MSR_PSC_REQ_GFN(gfn: int, operation: int) -> int:
    """Value of a page state change request for one 4 KiB page."""
    return (operation & 0xF) << 52 | (gfn & (1 << 40) - 1) << 12 | GHCB_MSR_PSC_REQ


def GHCB_MSR_PSC_REQ_TO_GFN(value: int) -> int:
    """Guest frame in a page state change request."""
    return value >> 12 & (1 << 40) - 1


def GHCB_MSR_PSC_REQ_TO_OP(value: int) -> int:
    """Operation in a page state change request."""
    return value >> 52 & 0xF


def GHCB_MSR_PSC_RESP_VAL(value: int) -> int:
    """Error code in the answer to a page state change request."""
    return value >> 32 & 0xFFFFFFFF


def GHCB_MSR_TERM(reason_set: int, reason: int) -> int:
    """Value of a termination request."""
    return (
        (reason_set & 0xF) << GHCB_MSR_TERM_REASON_SET_POS
        | (reason & 0xFF) << GHCB_MSR_TERM_REASON_POS
        | GHCB_MSR_TERM_REQ
    )


assert offset(ghcb, "ghcb_usage") == PAGE_SIZE - 4
