# SPDX-License-Identifier: GPL-2.0-only
"""NAE events besides page state changes: what each must be given, its limits, what comes back.

The rules are those of the GHCB specification (56421), sections 2.6 and 4.1.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from typing import Final

import pytest

from harness.features import lacking
from harness.uapi import ghcb as abi
from harness.vm import exits, layout
from harness.vm.exits import IoExit, MmioExit, RunError
from harness.vm.guest import Guest
from harness.vm.guest_commands import VmgExitResult
from harness.vm.guest_result import GuestResult
from harness.vm.host import Host
from harness.vm.mailbox import Command, Op, VmgExit
from suites.psc.changing import BEYOND

pytestmark = [
    pytest.mark.patches(13),
    pytest.mark.areas("GHCB", "NAE events"),
    pytest.mark.needs("snp"),
]

GHCB: Final = layout.ghcb(0)
BUFFER: Final = GHCB + 0x800
"""The shared buffer in the GHCB, and its end."""
BUFFER_END: Final = GHCB + 0xFF0
OUTSIDE: Final = layout.SHARED_FREE_GPA
MISSING: Final = abi.GHCB_ERR_MISSING_INPUT
PORT: Final = 0x5A0
SCRATCH_LIMIT: Final = 16 * layout.PAGE_SIZE
DEVICE: Final = BEYOND
"""Where no memory is: what lies there is userspace's."""

OUT4: Final = PORT << 16 | 1 << abi.SVM_IOIO_SIZE_SHIFT << 2
OUTS4: Final = OUT4 | abi.SVM_IOIO_STR_MASK
INS4: Final = OUTS4 | abi.SVM_IOIO_TYPE_MASK

READ: Final = abi.SVM_VMGEXIT_MMIO_READ
WRITE: Final = abi.SVM_VMGEXIT_MMIO_WRITE

INPUTS = {
    "write DR7": (abi.SVM_EXIT_WRITE_DR7, 0, {"rax": 0x400}),
    "RDPMC": (abi.SVM_EXIT_RDPMC, 0, {"rcx": 0}),
    "CPUID": (abi.SVM_EXIT_CPUID, 0, {"rax": 0, "rcx": 0}),
    "CPUID 0xD": (abi.SVM_EXIT_CPUID, 0, {"rax": 0xD, "rcx": 0, "xcr0": 1}),
    "RDMSR": (abi.SVM_EXIT_MSR, 0, {"rcx": 0x1B}),
    "WRMSR": (abi.SVM_EXIT_MSR, 1, {"rcx": 0x277, "rax": 0, "rdx": 0}),
    "MONITOR": (abi.SVM_EXIT_MONITOR, 0, {"rax": 0, "rcx": 0, "rdx": 0}),
    "MWAIT": (abi.SVM_EXIT_MWAIT, 0, {"rax": 0, "rcx": 0}),
    "OUT": (abi.SVM_EXIT_IOIO, OUT4, {"rax": 0}),
    "OUTS": (abi.SVM_EXIT_IOIO, OUTS4, {"scratch": BUFFER}),
    "MMIO read": (READ, DEVICE, {"scratch": BUFFER}),
    "MMIO write": (WRITE, DEVICE, {"scratch": BUFFER}),
}
"""Exit code, SW_EXITINFO1 and the fields that must be given, by event (56421, table of 4.1)."""

LEFT_OUT = [
    pytest.param(code, info1, {k: v for k, v in given.items() if k != field}, id=f"{name}: {field}")
    for name, (code, info1, given) in INPUTS.items()
    for field in given
]


def page(code: int, info1: int = 0, info2: int = 0, valid: tuple[int, ...] = ()) -> bytes:
    """A GHCB page whose RAX, RCX, RDX, RBX and RSI are 0x5A...; `valid`: offsets that count."""
    raw = bytearray(layout.PAGE_SIZE)
    for offset in (0x1F8, 0x308, 0x310, 0x318, 0x330):
        struct.pack_into("<Q", raw, offset, 0x5A5A5A5A)
    struct.pack_into("<QQQ", raw, 0x390, code, info1, info2)
    bits = sum(1 << (offset >> 3) for offset in (0x390, 0x398, 0x3A0, *valid))
    raw[0x3F0:0x400] = bits.to_bytes(16, "little")
    struct.pack_into("<H", raw, 0xFFA, 2)
    return bytes(raw)


def send(guest: Guest, ghcb: bytes) -> GuestResult:
    """A VMGEXIT with this page, which the guest copies at once before.

    What the host writes there is overlaid by the answer to the guest's last exit.
    """
    guest.vm.write_gpa(OUTSIDE, ghcb)
    copy = Command(Op.COPY, (layout.shared(GHCB), layout.shared(OUTSIDE), len(ghcb)))
    return guest.cpu().run([copy, Command(Op.VMGEXIT_RAW)])[1]


# -- what must be given --------------------------------------------------------------------


@pytest.mark.parametrize(("code", "info1", "given"), LEFT_OUT)
def test_input_missing(guest: Guest, code: int, info1: int, given: dict[str, int]) -> None:
    """An event of which one input is not marked valid is malformed, and nobody is asked."""
    cpu = guest.cpu()
    cpu.exits.clear()
    assert cpu.vmgexit(code, info1, 4, **given).malformed == MISSING
    assert cpu.exits.keys() == {"IoExit"}  # that of the answer
    assert cpu.exits["IoExit"] == 1


@pytest.mark.parametrize("name", ["write DR7", "CPUID", "CPUID 0xD", "RDMSR", "MONITOR", "MWAIT"])
def test_inputs_given(guest: Guest, name: str) -> None:
    """The same events with all that they need are served."""
    code, info1, given = INPUTS[name]
    answer = guest.cpu().vmgexit(code, info1, 0, **given)
    assert (answer.info1, answer.info2) == (0, 0)


def test_cpuid_by_xcr0(guest: Guest) -> None:
    """The size of the XSAVE area is that of what the guest has in XCR0."""
    cpu = guest.cpu()

    def leaf(xcr0: int, index: int = 0) -> VmgExitResult:
        return cpu.vmgexit(abi.SVM_EXIT_CPUID, rax=0xD, rcx=index, xcr0=xcr0)

    sizes = {bit: leaf(1, bit) for bit in range(2, 10) if leaf(1).rax >> bit & 1}
    assert sizes, "the vCPU has no state that can be turned on"
    assert leaf(1).rbx == 0x240
    assert leaf(3).rbx == 0x240
    for bit, component in sizes.items():
        assert leaf(3 | 1 << bit).rbx == component.rbx + component.rax
    assert leaf(1).rbx == 0x240


@pytest.mark.parametrize(
    "flag", [VmgExit.NO_EXIT_CODE, VmgExit.NO_INFO1, VmgExit.NO_INFO2], ids=lambda flag: flag.name
)
def test_exit_itself_not_given(guest: Guest, flag: VmgExit) -> None:
    """Exit code and both information fields must be marked valid whatever the event."""
    answer = guest.cpu().vmgexit(abi.SVM_VMGEXIT_HV_FEATURES, flags=flag)
    assert answer.malformed == MISSING


@pytest.mark.parametrize("field", [0x1F8, 0x0CB], ids=["RAX", "CPL"])
def test_hypercall_inputs(guest: Guest, field: int) -> None:
    """A hypercall needs RAX and the privilege level."""
    given = tuple({0x1F8, 0x0CB} - {field})
    answer = VmgExitResult.of(send(guest, page(abi.SVM_EXIT_VMMCALL, valid=given)))
    assert answer.malformed == MISSING


def test_hypercall_of_user_code(guest: Guest) -> None:
    """A hypercall from another privilege level than 0 is KVM_EPERM."""
    raw = bytearray(page(abi.SVM_EXIT_VMMCALL, valid=(0x1F8, 0x0CB)))
    raw[0x0CB] = 3
    answer = VmgExitResult.of(send(guest, bytes(raw)))
    assert answer.info1 == 0
    assert answer.rax == (1 << 64) - errno.EPERM


def test_registers_that_were_not_given(guest: Guest) -> None:
    """What is not marked valid is not read: the answer has zeros in its place."""
    guest.cpu().cpuid(0)
    result = send(guest, page(abi.SVM_VMGEXIT_HV_FEATURES)).check()
    answer = VmgExitResult.of(result)
    assert (answer.rax, answer.rbx, answer.rcx, answer.rdx) == (0, 0, 0, 0)
    assert answer.info1 == 0


def test_only_the_answer_is_marked_valid(guest: Guest) -> None:
    """The marks of the request are gone: the four registers and the exit information are new."""
    request = page(abi.SVM_VMGEXIT_HV_FEATURES, valid=(0x0CB, 0x330, 0x3A8, 0x3E8))
    result = send(guest, request).check()
    marked = result.values[6] | result.values[7] << 64
    answer = (0x1F8, 0x308, 0x310, 0x318, 0x398, 0x3A0)
    assert marked == sum(1 << (offset >> 3) for offset in answer)


# -- MMIO ----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_mmio_write(guest: Guest, length: int) -> None:
    """A write reaches userspace with address, length and the bytes of the scratch area."""
    cpu = guest.cpu()
    seen: list[exits.Exit] = []

    def look(_: object, reason: exits.Exit) -> bool:
        seen.extend([reason] if isinstance(reason, MmioExit) else [])
        return bool(seen) and reason is seen[-1]

    guest.hooks.exit = look
    guest.vm.write_gpa(BUFFER + 16, bytes(range(1, 17)))
    answer = cpu.vmgexit(WRITE, DEVICE + 8, length, scratch=BUFFER + 16)
    assert (answer.info1, answer.info2) == (0, 0)
    [exit] = seen
    assert isinstance(exit, MmioExit)
    assert (exit.gpa, exit.length, exit.write) == (DEVICE + 8, length, True)
    assert exit.data[:length] == bytes(range(1, 1 + length))


@pytest.mark.parametrize("gpa", [1 << 32 | 8, 1 << 40 | DEVICE, (1 << 51) - 8], ids=hex)
def test_mmio_at_high_addresses(guest: Guest, gpa: int) -> None:
    """All bits of the address reach userspace."""
    seen: list[int] = []

    def look(_: object, reason: exits.Exit) -> bool:
        if isinstance(reason, MmioExit):
            seen.append(reason.gpa)
        return isinstance(reason, MmioExit)

    guest.hooks.exit = look
    assert guest.cpu().vmgexit(WRITE, gpa, 4, scratch=BUFFER).info1 == 0
    assert seen == [gpa]


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_mmio_read(guest: Guest, length: int) -> None:
    """A read puts the bytes that userspace gives into the scratch area, and no more."""
    cpu = guest.cpu()

    def give(_: object, reason: exits.Exit) -> bool:
        if not isinstance(reason, MmioExit):
            return False
        assert (reason.gpa, reason.length, reason.write) == (DEVICE, length, False)
        cpu.vcpu.set_mmio_data(bytes(range(0xA0, 0xA8)))
        return True

    guest.hooks.exit = give
    guest.vm.write_gpa(BUFFER, b"\xee" * 16)
    answer = cpu.vmgexit(READ, DEVICE, length, scratch=BUFFER)
    assert (answer.info1, answer.info2) == (0, 0)
    expected = bytes(range(0xA0, 0xA0 + length)) + b"\xee" * (16 - length)
    assert guest.vm.read_gpa(BUFFER, 16) == expected


@pytest.mark.parametrize("code", [READ, WRITE], ids=["read", "write"])
def test_mmio_of_no_bytes(guest: Guest, code: int) -> None:
    """An access of no bytes is nothing to be done."""
    answer = guest.cpu().vmgexit(code, DEVICE, 0, scratch=BUFFER)
    assert (answer.info1, answer.info2) == (0, 0)


@pytest.mark.parametrize("length", [9, 16, 0x7F0, 0x10000, 1 << 32])
@pytest.mark.parametrize("code", [READ, WRITE], ids=["read", "write"])
def test_mmio_too_long(guest: Guest, code: int, length: int) -> None:
    """An access of more than eight bytes is invalid input, and userspace does not see it."""
    answer = guest.cpu().vmgexit(code, DEVICE, length, scratch=BUFFER)
    assert answer.malformed == abi.GHCB_ERR_INVALID_INPUT


SCRATCHES = [
    0,
    GHCB,
    BUFFER - 1,
    BUFFER_END - 7,
    BUFFER_END,
    GHCB + 0xFFF,
    OUTSIDE,
    1 << 32 | BUFFER,
    (1 << 64) - 8,
]


@pytest.mark.parametrize("scratch", SCRATCHES, ids=hex)
@pytest.mark.parametrize("code", [READ, WRITE], ids=["read", "write"])
def test_mmio_scratch_area(guest: Guest, code: int, scratch: int) -> None:
    """The eight bytes must lie within the GHCB's shared buffer, from the first to the last."""
    answer = guest.cpu().vmgexit(code, DEVICE, 8, scratch=scratch)
    assert answer.malformed == abi.GHCB_ERR_INVALID_SCRATCH_AREA


# -- port I/O ------------------------------------------------------------------------------


def strings(guest: Guest, info1: int, count: int, scratch: int = BUFFER) -> VmgExitResult:
    """A string of port I/O."""
    return guest.cpu().vmgexit(abi.SVM_EXIT_IOIO, info1, count, scratch=scratch)


@pytest.mark.parametrize("count", [1, 3, 0x7F0 // 4])
def test_string_out(guest: Guest, count: int) -> None:
    """OUTS gives userspace all its elements at once, from the scratch area."""
    data = bytes(n % 251 for n in range(4 * count))
    seen: list[IoExit] = []

    def look(_: object, exit: IoExit) -> bytes:
        seen.append(exit)
        return b""

    guest.hooks.io = look
    guest.vm.write_gpa(BUFFER_END - len(data), data)
    answer = strings(guest, OUTS4, count, BUFFER_END - len(data))
    assert (answer.info1, answer.info2) == (0, 0)
    assert [(each.port, each.size, each.count, each.out) for each in seen] == [
        (PORT, 4, count, True)
    ]
    # Of long ones the harness reads the first 256 bytes.
    assert seen[0].data == data[:256]


def test_string_in(guest: Guest) -> None:
    """INS puts userspace's elements into the scratch area, and no more."""
    guest.hooks.io = lambda _, exit: bytes(range(12))
    guest.vm.write_gpa(BUFFER, b"\xee" * 16)
    answer = strings(guest, INS4, 3)
    assert (answer.info1, answer.info2) == (0, 0)
    assert guest.vm.read_gpa(BUFFER, 16) == bytes(range(12)) + b"\xee" * 4


@pytest.mark.parametrize("info1", [OUTS4, INS4], ids=["out", "in"])
def test_string_of_nothing(guest: Guest, info1: int) -> None:
    """A string of no elements is nothing to be done."""
    guest.hooks.io = lambda *_: pytest.fail("userspace was asked")
    answer = strings(guest, info1, 0)
    assert (answer.info1, answer.info2) == (0, 0)


@pytest.mark.parametrize("scratch", [BUFFER - 4, BUFFER_END - 8, OUTSIDE], ids=hex)
def test_string_outside_the_buffer(guest: Guest, scratch: int) -> None:
    """All elements of a string must lie within the GHCB's shared buffer."""
    assert strings(guest, OUTS4, 3, scratch).malformed == abi.GHCB_ERR_INVALID_SCRATCH_AREA


@pytest.mark.parametrize("count", [1 << 31, 1 << 40, (1 << 31) - 1, 1 << 29])
def test_string_too_long(guest: Guest, count: int) -> None:
    """A string of which the length overflows fails KVM_RUN with EINVAL."""
    guest.cpu().vmgexit_raw(abi.SVM_EXIT_IOIO, OUTS4, count, scratch=BUFFER)
    assert guest.cpu().stopped == RunError(errno.EINVAL)


def test_port_access_of_no_size(guest: Guest) -> None:
    """Port I/O without a size is nothing to be done."""
    guest.hooks.io = lambda *_: pytest.fail("userspace was asked")
    answer = guest.cpu().vmgexit(abi.SVM_EXIT_IOIO, PORT << 16, rax=1)
    assert (answer.info1, answer.info2) == (0, 0)


# -- version 1 of the protocol -------------------------------------------------------------


OLD = pytest.mark.needs("ghcb_version_1")


@pytest.fixture(scope="module")
def old_guest(host: Host) -> Iterator[Guest]:
    """A guest to which version 1 is offered: its scratch areas may lie anywhere."""
    if reason := lacking(("snp", "ghcb_version_1"), host):
        pytest.skip(reason)
    with Guest.launch(host, ghcb_version=1) as launched:
        yield launched
        launched.hooks.exit = launched.hooks.io = None


@OLD
@pytest.mark.parametrize("offset", [0, 8, layout.PAGE_SIZE - 8])
def test_mmio_of_version_1(old_guest: Guest, offset: int) -> None:
    """Under version 1 an MMIO read may use memory outside the GHCB; all of it is written back."""
    cpu, scratch = old_guest.cpu(), OUTSIDE + offset
    data = bytes(range(0xC0, 0xD0))

    def give(_: object, reason: exits.Exit) -> bool:
        if isinstance(reason, MmioExit):
            at = reason.gpa - DEVICE
            cpu.vcpu.set_mmio_data(data[at : at + reason.length])
        return isinstance(reason, MmioExit)

    old_guest.hooks.exit = give
    old_guest.vm.write_gpa(scratch - 8, b"\xee" * 40)
    assert cpu.vmgexit(READ, DEVICE, 16, scratch=scratch).info1 == 0
    assert old_guest.vm.read_gpa(scratch - 8, 40) == b"\xee" * 8 + data + b"\xee" * 16


@OLD
def test_string_out_of_version_1(old_guest: Guest) -> None:
    """Under version 1 a string may be longer than the GHCB; it is read once, never written."""
    seen: list[IoExit] = []

    def look(_: object, exit: IoExit) -> bytes:
        seen.append(exit)
        return b""

    old_guest.hooks.io = look
    data = bytes(n % 253 for n in range(2 * layout.PAGE_SIZE))
    old_guest.vm.write_gpa(OUTSIDE, data)
    assert strings(old_guest, OUTS4, len(data) // 4, OUTSIDE).info1 == 0
    assert sum(each.count for each in seen) == len(data) // 4
    assert b"".join(each.data[:256] for each in seen[:1]) == data[:256]
    assert old_guest.vm.read_gpa(OUTSIDE, len(data)) == data


@OLD
@pytest.mark.parametrize(
    ("scratch", "length"),
    [(GHCB, 8), (BUFFER_END - 4, 8), (OUTSIDE, SCRATCH_LIMIT + 4)],
    ids=["in the GHCB's fields", "across the buffer's end", "too long"],
)
def test_scratch_area_of_version_1(old_guest: Guest, scratch: int, length: int) -> None:
    """Under version 1, too, an area in the GHCB is in its buffer, and none is over 64 KiB."""
    answer = strings(old_guest, OUTS4, length // 4, scratch)
    assert answer.malformed == abi.GHCB_ERR_INVALID_SCRATCH_AREA


@OLD
@pytest.mark.parametrize("code", [READ, WRITE], ids=["read", "write"])
def test_scratch_area_without_memory(host: Host, code: int) -> None:
    """Under version 1 a scratch area where no memory is fails KVM_RUN with EFAULT."""
    with Guest.launch(host, ghcb_version=1) as guest:
        guest.cpu().vmgexit_raw(code, DEVICE, 8, scratch=BEYOND)
        assert guest.cpu().stopped == RunError(errno.EFAULT)


@OLD
def test_version_1_is_offered(old_guest: Guest) -> None:
    """SEV information names the version that the VM was made with as the highest."""
    answer = old_guest.cpu().vmgexit_msr(abi.GHCB_MSR_SEV_INFO_REQ).check().value
    assert (answer >> 48, answer >> 32 & 0xFFFF) == (1, 1)


# -- the rest ------------------------------------------------------------------------------


def test_jump_table(guest: Guest) -> None:
    """The AP jump table's address is kept for who asks; other requests are invalid input."""
    cpu, code = guest.cpu(), abi.SVM_VMGEXIT_AP_JUMP_TABLE
    for address in (0x9F000, 0):
        assert cpu.vmgexit(code, 0, address).info1 == 0
        answer = cpu.vmgexit(code, 1, 0)
        assert (answer.info1, answer.info2) == (0, address)
    assert cpu.vmgexit(code, 2, 0).malformed == abi.GHCB_ERR_INVALID_INPUT


def test_unsupported_event(guest: Guest) -> None:
    """A guest that reports an exception it cannot handle fails KVM_RUN with EINVAL."""
    guest.cpu().vmgexit_raw(abi.SVM_VMGEXIT_UNSUPPORTED_EVENT, 0x404, 0)
    assert guest.cpu().stopped == RunError(errno.EINVAL)


@pytest.mark.parametrize("code", [abi.SVM_EXIT_READ_DR7, abi.SVM_EXIT_INVD, abi.SVM_EXIT_WBINVD])
def test_nothing_to_be_given(guest: Guest, code: int) -> None:
    """An event without inputs is served without any."""
    answer = guest.cpu().vmgexit(code)
    assert (answer.info1, answer.info2) == (0, 0)


@pytest.mark.parametrize("gpa", [0, BEYOND], ids=["no page", "no memory"])
def test_no_ghcb(guest: Guest, gpa: int) -> None:
    """A VMGEXIT whose GHCB is nowhere returns at once, and the guest goes on."""
    cpu = guest.cpu()
    assert cpu.vmgexit_msr(gpa).check().value == gpa
    assert cpu.cpuid(0)
